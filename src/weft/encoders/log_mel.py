r"""Log-mel energies over time: a sound encoder without weights.

Frames of 25 ms every 10 ms under a periodic Hann window, power spectrum, ``mels`` triangular filters, logarithm; each
token is mean and deviation over ``frames`` frames in a row:

.. math:: S(f, t) = \Big|\sum_{n} w_n\, x_{n + tH}\, e^{-2 \pi i f n / N}\Big|^2, \qquad
          E = \log(M S + 10^{-6}), \qquad \text{mel}(f) = 2595 \log_{10}(1 + f / 700)

``M`` has peaks of height 1. A clip shorter than one frame is filled with zeros. Tokens:
``(ceil(frames of the clip / frames), 2 mels)``. Cost: one FFT per frame.
When not to use it: for the meaning of speech use a pretrained model (``hf:``).

Source: Davis and Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", TASSP 1980.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.encoders.audio import read_clip
from weft.encoders.base import Encoder, encoders, read_each

WINDOW_SECONDS, HOP_SECONDS, FLOOR = 0.025, 0.010, 1e-6


@encoders.register("log-mel")
class LogMel(Encoder):
    """Mean and deviation of log-mel energies.

    Args:
        rate: samples per second; other clips are resampled.
        mels: filters.
        frames: frames per token, 10 ms each.
    """

    kinds = ("audio",)

    def __init__(
        self,
        *,
        rate: Annotated[int, Field(ge=1000)] = 16000,
        mels: Annotated[int, Field(ge=1)] = 40,
        frames: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        self.rate, self.mels, self.frames = rate, mels, frames
        self.width = 2 * mels
        self.size, self.hop = round(rate * WINDOW_SECONDS), round(rate * HOP_SECONDS)
        self.filters = mel_filters(mels, self.size, rate)

    def prepare(self, value: Any) -> tuple[np.ndarray, int]:
        """The clip at the encoder's rate."""
        return read_clip(value, self.rate), self.rate

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(T, 2 mels)`` per clip."""
        return read_each(values, lambda value: self._tokens(read_clip(value, self.rate)))

    def _tokens(self, samples: np.ndarray) -> np.ndarray:
        energy = np.log(stft_power(samples, self.size, self.hop) @ self.filters.T + FLOOR)
        groups = [energy[start : start + self.frames] for start in range(0, len(energy), self.frames)]
        return np.stack([np.concatenate([g.mean(axis=0), g.std(axis=0)]) for g in groups]).astype(np.float32)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "log-mel", "version": 1, "rate": self.rate, "mels": self.mels, "frames": self.frames}


def stft_power(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Power spectrum ``(frames, size // 2 + 1)`` of the whole frames of ``(n,)`` samples."""
    filled = np.pad(samples.astype(np.float64), (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(filled, size)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power: np.ndarray = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    return power


def mel_filters(mels: int, size: int, rate: int) -> np.ndarray:
    """Triangles ``(mels, size // 2 + 1)`` of height 1, equally wide on the mel scale from 0 to ``rate / 2`` Hz."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), mels + 2) / 2595) - 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequency = np.fft.rfftfreq(size, 1 / rate)
    return np.maximum(0.0, np.minimum((frequency - low) / (peak - low), (high - frequency) / (high - peak)))
