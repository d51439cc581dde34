r"""FAF-Net: speech enhanced with the help of clean speech of the same speaker.

A complex U-Net over the spectrum ``(B, F, T)`` of noisy speech. The same encoder reads a reference; at each of three
levels the frames of it that sound most alike (:mod:`.spectra` finds them) are weighted and joined
(:class:`~weft.systems.fafnet.layers.SimilarityFusion`), and a channel attention over both makes the skip connection:

.. math::
    x_l = E_l(x_{l-1}), \quad R_l = E_l(R_{l-1}), \quad f_l = \mathrm{fuse}(x_l, R_l[idx]), \quad
    s_l = \mathrm{attend}(x_l, f_l), \qquad
    z = \mathrm{res}^4(s_3), \quad z \leftarrow D_l([z, s_l])

The answer is a mask ``m`` of magnitude ``tanh |m|``. As published it multiplies real with real and imaginary with
imaginary part (``mask="parts"``); ``"complex"``, the default, is the product of complex numbers. The second stage
reads the estimate of the first, too, as the query of the fusion and as a third map, with time dilated 1, 2, 4 in the
levels.

Frequencies are halved three times: 257 (or 129, 65, 33) bins come back as they were.

Source: Yue et al., AAAI 2022, doi 10.1609/aaai.v36i10.21419, and their code (HieDean/FAF-Net, MIT). The paper has one
stage and two candidates; the code two stages and five. Reading and reference share one batch norm there, whose running
statistics are a mixture of both; ``norms="separate"`` keeps one for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.systems.fafnet.layers import (
    ChannelAttention,
    ComplexConv2d,
    ComplexNorm,
    ResidualBlock,
    SimilarityFusion,
    magnitude,
    select,
)

Mask = Literal["parts", "complex"]
Norms = Literal["shared", "separate"]
Select = Literal["mixed", "clean"]
KERNELS = ((7, 5), (6, 5), (6, 5))


class FafNet(nn.Module):
    """One stage.

    Args:
        stage: 1, or 2, which reads an estimate too.
        channels: of the three levels.
        candidates: ``K`` frames of the reference per frame; 0: no reference, the same network without the fusion.
        reductions: of the channel attention of each level.
        blocks: residual blocks.
        mask, norms: see the module.
        select: see :func:`~weft.systems.fafnet.layers.select`.

    Example:
        >>> import torch
        >>> from weft.systems.fafnet.network import FafNet
        >>> net = FafNet(channels=(4, 8, 8), reductions=(2, 2, 2), candidates=2)
        >>> noisy, reference = (torch.randn(1, 65, frames, dtype=torch.complex64) for frames in (20, 30))
        >>> net(noisy, net.listen(reference), torch.randint(0, 30, (1, 20, 2))).shape
        torch.Size([1, 65, 20])
    """

    def __init__(
        self,
        *,
        stage: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        candidates: int = 5,
        reductions: Sequence[int] = (4, 8, 16),
        blocks: int = 4,
        mask: Mask = "complex",
        norms: Norms = "shared",
        select: Select = "clean",
    ) -> None:
        super().__init__()
        self.stage, self.candidates, self.mask, self.select = stage, candidates, mask, select
        dilations = (1, 1, 1) if stage == 1 else (1, 2, 4)
        streams = 1 if norms == "shared" else 2
        shapes = [
            {"kernel": kernel, "stride": (2, 1), "padding": (2, 2 * d), "dilation": (1, d)}
            for kernel, d in zip(KERNELS, dilations, strict=True)
        ]
        self.encoder, self.fusion, self.skip, self.decoder = (nn.ModuleList() for _ in range(4))
        for level, (width, reduction) in enumerate(zip(channels, reductions, strict=True)):
            below = channels[level - 1] if level else 1
            self.encoder.append(_Down(below, width, shapes[level], streams))
            maps = stage + (candidates > 0)
            self.skip.append(ChannelAttention(maps * width, width, reduction))
            if candidates:
                self.fusion.append(SimilarityFusion(candidates, width))
            self.decoder.insert(0, _Up(2 * width, below, shapes[level], norm=level > 0))
        self.blocks = nn.Sequential(*(ResidualBlock(channels[-1]) for _ in range(blocks)))

    def listen(self, reference: Tensor) -> list[Tensor]:
        """What a reference ``(B, F, T_ref)`` complex is at every level; of one that stays, needed once."""
        levels, r = [], parts(reference)
        for encode in self.encoder if self.candidates else ():
            r = encode(r, reference=True)
            levels.append(r)
        return levels

    def forward(
        self, noisy: Tensor, heard: Sequence[Tensor], indices: Tensor | None, estimate: Tensor | None = None
    ) -> Tensor:
        """Spectra to a spectrum.

        Args:
            noisy: ``(B, F, T)`` complex.
            heard: of :meth:`listen`, unread where there are no candidates.
            indices: ``(B, T, K)`` frames of the reference.
            estimate: ``(B, F, T)`` complex, of the first stage; the second reads it.
        """
        if (noisy.shape[1] - 1) % 8 or noisy.shape[1] < 17:
            raise UserError(
                "spectra have 8 n + 1 bins, 17 at least", f"{noisy.shape[1]}", "choose n_fft, a multiple of 16"
            )
        x, y = parts(noisy), None if self.stage == 1 or estimate is None else parts(estimate)
        skips = []
        for level, encode in enumerate(self.encoder):
            x, y = encode(x), None if y is None else encode(y)
            maps = [x] if y is None else [x, y]
            if self.candidates and indices is not None:
                found = select(heard[level], indices, self.select == "mixed")
                maps.append(self.fusion[level](maps[-1], found))
            skips.append(self.skip[level](*maps))
        z = self.blocks(skips[-1])
        for decode in self.decoder:
            z = decode(torch.cat([z, skips.pop()], dim=2))
        return masked(noisy, z[:, :, 0], self.mask)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> Self:
        """The network with weights under the original authors' names; stage and sizes are read from them.

        Raises:
            UserError: names or shapes are not those of the published network.
        """
        try:
            weights = official_state(state)
            stage = 1 if any(".".join(name.split(".")[-4:]).startswith("conv_4.0.") for name in state) else 2
            channels = [len(weights[f"encoder.{level}.conv.real.weight"]) for level in range(3)]
            squeezes = [weights[f"skip.{level}.squeeze.weight"] for level in range(3)]
            net = cls(
                stage=stage,
                channels=channels,
                candidates=weights["fusion.0.conv.real.weight"].shape[1] // channels[0],
                reductions=[squeeze.shape[1] // len(squeeze) for squeeze in squeezes],
                blocks=len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
                mask="parts",
                select="mixed",
            )
            net.to(squeezes[0].dtype).load_state_dict(weights)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(
                "these are not the weights of a FAF-Net stage", str(error)[:300], "pass the state_dict as published"
            ) from None
        return net


class _Down(nn.Module):
    """Convolution, norm, LeakyReLU; the reference may have a norm of its own."""

    def __init__(self, inputs: int, outputs: int, shape: dict, streams: int) -> None:
        super().__init__()
        self.conv = ComplexConv2d(inputs, outputs, **shape)
        self.norms = nn.ModuleList(ComplexNorm(outputs) for _ in range(streams))

    def forward(self, x: Tensor, reference: bool = False) -> Tensor:
        return F.leaky_relu(self.norms[-1 if reference else 0](self.conv(x)), inplace=True)


class _Up(nn.Module):
    """Transposed convolution, norm, LeakyReLU; the last is linear."""

    def __init__(self, inputs: int, outputs: int, shape: dict, norm: bool) -> None:
        super().__init__()
        self.conv = ComplexConv2d(inputs, outputs, **shape, transposed=True)
        self.norm = ComplexNorm(outputs) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else F.leaky_relu(self.norm(x), inplace=True)


def parts(spectrum: Tensor) -> Tensor:
    """Complex ``(B, F, T)`` to real ``(B, 2, 1, F, T)``."""
    return torch.stack([spectrum.real, spectrum.imag], dim=1).unsqueeze(2)


def masked(spectrum: Tensor, mask: Tensor, kind: Mask) -> Tensor:
    """Complex ``(B, F, T)`` under the unbounded mask ``(B, 2, F, T)``."""
    size = magnitude(mask).unsqueeze(1)
    re, im = (size.tanh() * mask / (size + 1e-12)).unbind(1)
    if kind == "complex":
        return spectrum * torch.complex(re, im)
    return torch.complex(spectrum.real * re, spectrum.imag * im)


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the original names under ours; the norms of the two parts are one."""
    first = min(int(found[1]) for name in state if (found := re.match(r"(?:module\.)?conv_(\d)\.", name)))
    rooms = {"conv": "encoder", "qkv": "fusion", "cbam": "skip", "residual": "blocks", "deconv": "decoder"}
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        room, number, rest = re.match(r"(?:module\.)?([a-z]+)_(\d)\.(.+)", name).groups()  # type: ignore[union-attr]
        level = int(number) - (1 if room in ("residual", "deconv") else first)
        rest = re.sub(r"\bt?conv_re\b", "real", re.sub(r"\bt?conv_im\b", "imag", rest))
        if room == "residual":
            rest = rest.replace("conv.0.", "first.").replace("conv.2.", "second.")
        elif room == "cbam":
            rest = rest.replace("linear_r.", "squeeze.").replace("linear.", "excite.")
        elif room in ("conv", "deconv"):
            norm = "norms.0." if room == "conv" else "norm."
            rest = rest.replace("0.", "conv.", 1) if rest.startswith("0.") else rest.replace("1.", norm, 1)
        ours = f"{rooms[room]}.{level}.{rest}"
        if ".bn_im." in ours:
            continue
        if ".bn_re." in ours:
            ours, other = ours.replace("bn_re.", ""), state[name.replace("bn_re", "bn_im")]
            tensor = tensor if tensor.ndim == 0 else torch.cat([tensor, other])
        weights[ours] = tensor
    return weights
