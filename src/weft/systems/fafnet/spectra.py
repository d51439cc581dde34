r"""From samples to spectra and back, to cepstra, and to the frames of a reference that sound most alike.

Spectra: Hann window (periodic) of ``n_fft`` samples every ``hop``, centred, the ends mirrored, no scaling. MFCC as
torchaudio defines them, without torchaudio: magnitudes (not powers) through triangles on the HTK mel scale, decibels
with a floor 80 below the loudest of the clip, orthonormal DCT-II:

.. math:: E = 10 \log_{10} \max(M |S|, 10^{-10}), \qquad c = D \, \max(E, \, \max E - 80)

Matching: patches of three frames and all coefficients, zeros
beyond the ends, in unit length; the ``k`` frames of the reference with the largest product, the best first.

torchaudio lets the loudest clip of a batch set the floor; here every clip has its own, so no answer depends on others.
With 257 bins one of 128 triangles is empty, as it is there.

Source: Yue et al., AAAI 2022, and their code (MIT).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F

from weft.encoders.log_mel import mel_filters

PATCH = 3
RANGE_DB = 80.0


class Spectra(nn.Module):
    """Spectra and cepstra at one rate; it has no weights.

    Args:
        rate: samples per second.
        n_fft, hop: samples of a frame, and from one to the next.
        mels, coefficients: triangles, and how many coefficients are kept.
    """

    window: Tensor
    filters: Tensor
    basis: Tensor

    def __init__(
        self, *, rate: int = 16000, n_fft: int = 512, hop: int = 128, mels: int = 128, coefficients: int = 13
    ) -> None:
        super().__init__()
        self.rate, self.n_fft, self.hop = rate, n_fft, hop
        basis = dct(np.eye(mels), type=2, norm="ortho", axis=0)[:coefficients]
        for name, value in (("filters", mel_filters(mels, n_fft, rate)), ("basis", basis)):
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """``(B, n)`` to complex ``(B, n_fft // 2 + 1, n // hop + 1)``; ``n`` is more than half a frame."""
        return torch.stft(samples, self.n_fft, self.hop, window=self.window.to(samples.dtype), return_complex=True)

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Complex ``(B, F, T)`` to ``(B, length)``."""
        return torch.istft(spectrum, self.n_fft, self.hop, window=self.window.to(spectrum.real.dtype), length=length)

    def mfcc(self, spectrum: Tensor) -> Tensor:
        """Complex ``(B, F, T)`` to ``(B, coefficients, T)``."""
        decibels = 10 * (self.filters.to(spectrum.real.dtype) @ spectrum.abs()).clamp(min=1e-10).log10()
        floored = torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - RANGE_DB)
        return self.basis.to(floored.dtype) @ floored


def patches(mfcc: Tensor) -> Tensor:
    """``(B, C, T)`` to ``(B, T, 3 C)`` of unit length: each frame with its two neighbours."""
    return F.normalize(F.pad(mfcc, (1, 1)).unfold(2, PATCH, 1).permute(0, 2, 1, 3).flatten(2), dim=2)


def similarity(mfcc: Tensor, reference: Tensor) -> Tensor:
    """``(B, C, T)`` and ``(B, C, T_ref)`` to ``(B, T, T_ref)`` in [-1, 1]."""
    return patches(mfcc) @ patches(reference).mT


def match(mfcc: Tensor, reference: Tensor, k: int, frames: Tensor | None = None) -> Tensor:
    """The ``k`` most alike frames of the reference ``(B, T, k)``, the best first.

    Args:
        mfcc: ``(B, C, T)``.
        reference: ``(B, C, T_ref)``.
        k: how many, ``T_ref`` at most.
        frames: ``(B,)`` how many frames of each reference there are; the rest is filling. None: all.
    """
    alike = similarity(mfcc, reference)
    if frames is not None:
        beyond = torch.arange(alike.shape[2], device=alike.device) >= frames[:, None]
        alike = alike.masked_fill(beyond[:, None], -2.0)
    return alike.topk(k, dim=2).indices
