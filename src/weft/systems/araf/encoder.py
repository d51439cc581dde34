r"""ARAF's encoder: one class for images, texts and series, from raw values to C tokens of a common width. It trains.

With :math:`x` ``(B, N, D)`` the embedding (:class:`ImagePatches`, :class:`TextTokens` or :class:`SeriesPatches`):

.. math::
    x &\leftarrow x + \mathrm{MHSA}(\mathrm{LN}(x)) && \text{L times} \\
    n &= \mathrm{LN}(x) \\
    n &\leftarrow n + \mathrm{gelu}(\mathrm{Conv}_3(n))\,M + b && \text{twice: the MFE blocks},\
        \mathrm{Conv}_3: D \to D/2\ \text{over tokens},\ M: D/2 \to D \\
    e &= S + \mathrm{Att}(S, \mathrm{LN}(n)) && (B, C, D),\ S\ \text{C learned queries}

Padding is no key, is zero for the convolution, and has no position in the result: a text alone and in a batch gives the
same tokens. Modalities share the class, not the weights. The result is what :class:`~weft.fusion.araf.ARAF` takes.

Cost: ``4 (L + 2) D^2 + C D`` weights and the embedding; time ``L N^2``.

When not to use it: with few rows. Everything is learned from nothing; a frozen encoder of :mod:`weft.encoders` with an
ARAF on top needs a hundredth of the data.

Source: the figures and Algorithm 2 of "Attention-based cross-modal representation alignment and fusion mechanism for
multitasks" (ARAF, 2023), reconstructed: its MFE (multimodal feature extraction) is drawn and named, its code is not
published; the published network uses the encoders of :mod:`weft.systems.araf.network` instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.errors import UserError, some
from weft.fusion.araf import MFEBlock, Resampler
from weft.fusion.attention import Attention
from weft.ops.bilinear import check_positive
from weft.systems.araf.network import pair
from weft.tokens import Tokens, present


class ARAFEncoder(nn.Module):
    """Embedding, attention, two MFE blocks, C tokens.

    Args:
        embedding: makes ``Tokens`` ``(B, N, width)`` of raw values; one of this module, or your own.
        width: ``D``, even.
        tokens: ``C``.
        layers: ``L``.
        heads: of all attentions; divides ``width``.
        dropout: on the attention weights and every branch, in [0, 1].

    Raises:
        UserError: an odd width, heads that do not divide it; from ``forward``, what the embedding refuses.
    """

    def __init__(
        self,
        embedding: nn.Module,
        width: int = 256,
        *,
        tokens: int = 64,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("ARAFEncoder", width=width, tokens=tokens, layers=layers)
        if width % 2:
            raise UserError("ARAFEncoder: the MFE blocks halve the width", f"width={width}", "choose an even width")
        self.embedding = embedding
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.attentions = nn.ModuleList(Attention(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(MFEBlock(width) for _ in range(2))
        self.resample = Resampler(width, tokens, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tokens:
        """Tokens ``(B, C, D)``, absent in rows without any real value.

        Args:
            values: as the embedding takes them.
            mask: ``(B, T)`` bool, True = real word or step; None: all are.
        """
        x, real = self.embedding(values, mask)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            normed = norm(x)
            x = x + self.dropout(attention(normed, Tokens(normed, real)))
        x = self.norm(x)
        for block in self.blocks:
            x = x + self.dropout(block(Tokens(x, real)))
        tokens = self.resample(Tokens(x, real))
        return Tokens(tokens, real.any(dim=1, keepdim=True).expand(tokens.shape[:2]))


class ImagePatches(nn.Module):
    """Square or rectangular patches of an image, row-major, with learned positions.

    Args:
        width: ``D``.
        size: height and width of the images, in pixels; one number for both.
        patch: the same of a patch; divides ``size``.
        channels: of the images.
    """

    def __init__(
        self, width: int, *, size: int | tuple[int, int], patch: int | tuple[int, int] = 16, channels: int = 3
    ) -> None:
        super().__init__()
        self.size, patch = pair(size), pair(patch)
        if any(s % p for s, p in zip(self.size, patch, strict=True)):
            raise UserError(
                "ImagePatches: the patch divides the image", f"size={self.size}, patch={patch}", "choose another patch"
            )
        count = (self.size[0] // patch[0]) * (self.size[1] // patch[1])
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = make_positions(count, width)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tokens:
        """Tokens ``(B, N, D)`` of ``(B, channels, height, width)``; ``mask`` ``(B,)`` or ``(B, 1)``: there is one."""
        if values.ndim != 4 or values.shape[1:] != (self.project.in_channels, *self.size):
            raise UserError(
                f"ImagePatches reads images of shape {(self.project.in_channels, *self.size)}",
                f"values {tuple(values.shape)}",
                "resize the images, or build the encoder for their size",
            )
        there = torch.ones_like(values[:, 0, 0, 0], dtype=torch.bool) if mask is None else mask.flatten()
        values = torch.where(there[:, None, None, None], values, 0.0)
        tokens = self.project(values).flatten(2).mT + self.positions
        return Tokens(tokens, there.unsqueeze(1).expand(tokens.shape[:2]))


class TextTokens(nn.Module):
    """Word ids with learned positions.

    Args:
        width: ``D``.
        vocabulary: number of ids.
        length: most words of a text.
    """

    def __init__(self, width: int, *, vocabulary: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = make_positions(length, width)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tokens:
        """Tokens ``(B, T, D)`` of ids ``(B, T)``; ``mask`` ``(B, T)``, True = real word; ids under it are not read."""
        mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        most = self.positions.shape[0]
        if values.ndim != 2 or mask.shape != values.shape or values.shape[1] > most:
            raise UserError(
                f"TextTokens reads ids (B, T) with a mask of that shape and at most {most} words",
                f"ids {tuple(values.shape)}, mask {tuple(mask.shape)}",
                f"cut captions to {most} words, or build the encoder with a larger length",
            )
        ids = torch.where(mask, values, 0)
        if not torch.compiler.is_compiling() and not ids.is_meta:
            wrong = ((ids < 0) | (ids >= self.words.num_embeddings)).any(dim=1).nonzero().flatten().tolist()
            if wrong:
                raise UserError(
                    f"TextTokens: word ids are 0 to {self.words.num_embeddings - 1}",
                    f"other ids in rows {some(wrong)}",
                    "use the vocabulary the encoder was built for, and an id for unknown words",
                )
        return Tokens(self.words(ids) + self.positions[: ids.shape[1]], mask)


class SeriesPatches(nn.Module):
    """Overlapping windows of a series of several channels, with learned positions.

    Args:
        width: ``D``.
        length: most steps of a series.
        channels: of a step.
        window: steps of a patch.
        stride: steps from one patch to the next.
    """

    def __init__(self, width: int, *, length: int, channels: int = 1, window: int = 16, stride: int = 8) -> None:
        super().__init__()
        check_positive("SeriesPatches", window=window, stride=stride)
        if window > length:
            raise UserError(
                "SeriesPatches: the window is no longer than the series",
                f"window={window}, length={length}",
                f"choose a window of at most {length}",
            )
        self.length, self.window, self.stride = length, window, stride
        self.project = nn.Conv1d(channels, width, window, stride=stride)
        self.positions = make_positions((length - window) // stride + 1, width)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tokens:
        """Tokens ``(B, N, D)`` of a series ``(B, T, channels)``.

        ``mask`` ``(B, T)``, True = real step: a patch is real where all its steps are. Steps after the last whole
        window are not read.
        """
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if mask is None else mask
        if values.ndim != 3 or values.shape[2] != self.project.in_channels or mask.shape != values.shape[:2]:
            raise UserError(
                f"SeriesPatches reads series (B, T, {self.project.in_channels}) with a mask (B, T)",
                f"values {tuple(values.shape)}, mask {tuple(mask.shape)}",
                "a series of one channel has a last axis of length 1",
            )
        if not self.window <= values.shape[1] <= self.length:
            raise UserError(
                f"SeriesPatches reads {self.window} (one window) to {self.length} steps",
                f"{values.shape[1]} steps",
                "cut longer series; build the encoder with a smaller window for shorter ones",
            )
        whole = mask.unfold(1, self.window, self.stride).all(dim=2)
        tokens = Tokens(self.project(torch.where(mask.unsqueeze(-1), values, 0.0).mT).mT, whole)
        if not torch.compiler.is_compiling() and not mask.is_meta:
            short = (mask.any(dim=1) & ~present(tokens)).nonzero().flatten().tolist()
            if short:
                raise UserError(
                    f"SeriesPatches: the window of {self.window} steps is longer than the series",
                    f"rows {some(short)} have no whole window",
                    "drop those rows, or build the encoder with a smaller window",
                )
        return Tokens(tokens.values + self.positions[: whole.shape[1]], whole)


def make_positions(count: int, width: int) -> nn.Parameter:
    """Learned positions ``(count, width)``."""
    return nn.Parameter(torch.empty(count, width).normal_(std=0.02))
