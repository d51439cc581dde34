r"""The encoders of MERLOT Reserve: frames, sound, spans of words, and all of them together.

A pre-norm transformer with a norm on its input,

.. math::

    x \leftarrow \mathrm{LN}(x), \quad x \leftarrow x + \mathrm{Attn}(\mathrm{LN}\,x), \quad
    x \leftarrow x + W_2\, g(W_1 \mathrm{LN}\,x), \quad g(u) = u\,\sigma(1.702\,u), \quad \mathrm{LN}

whose queries and keys know their coordinates (time, height and width, segment, token). ``rotary="official"`` repeats
the published code, which meant to rotate pairs of entries by angles :math:`\theta` and scales them instead, by
:math:`\sin\theta - \cos\theta` and :math:`\sin\theta + \cos\theta`; ``"correct"`` rotates.

Source: Zellers et al., "MERLOT Reserve: Neural Script Knowledge through Vision and Language and Sound", CVPR 2022
(arXiv 2201.02639), section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError

ROTARY = 32
"""Most entries of a head that know their coordinates."""
HIGHEST = 5.0
MASKED = -1e10
SHARP = 1.702
SPAN = 16
"""Coordinates of words in a span, and of segments in a video, are in units of this."""

Rotary = Literal["official", "correct"]
LAYER = re.compile(r"layer_0*(\d+)")


def centred(n: int) -> Tensor:
    """``(n,)``: ``-floor(n / 2) .. -1, 1 .. ceil(n / 2)``; zero is left to CLS."""
    places = torch.arange(-(n // 2), n - n // 2)
    return torch.where(places >= 0, places + 1, places).double()


def grid(height: int, width: int) -> Tensor:
    """Coordinates ``(height * width, 2)`` of a map, row by row."""
    rows, columns = (centred(n) / (max(height, width) + 1) for n in (height, width))
    return torch.stack([rows.repeat_interleave(width), columns.repeat(height)], dim=1)


def angles(coordinates: Tensor, entries: int) -> Tensor:
    """Angles ``(..., entries / 2)`` of coordinates ``(..., axes)``: powers of two times pi up to the highest."""
    each = entries // (2 * coordinates.shape[-1])
    exponents = torch.linspace(0, math.log2(HIGHEST), each, dtype=coordinates.dtype, device=coordinates.device)
    return (coordinates[..., None] * 2.0**exponents * math.pi).flatten(-2)


class Turn(NamedTuple):
    """Factors of entries, and of their neighbours in a pair (None: not needed), each ``(..., 1, r)``."""

    own: Tensor
    other: Tensor | None


def turn(theta: Tensor, rotary: Rotary) -> Turn:
    """The factors of angles ``(..., r / 2)``."""

    def woven(even: Tensor, odd: Tensor) -> Tensor:
        return torch.stack([even, odd], dim=-1).flatten(-2).unsqueeze(-2)

    cos, sin = theta.cos(), theta.sin()
    if rotary == "official":
        return Turn(woven(sin - cos, sin + cos), None)
    return Turn(woven(cos, cos), woven(-sin, sin))


def turned(x: Tensor, by: Turn) -> Tensor:
    """Queries or keys ``(B, T, heads, d)``; entries after ``r`` stay."""
    known = x[..., : by.own.shape[-1]]
    found = known * by.own
    if by.other is not None:
        found = found + known.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * by.other
    return found if known.shape == x.shape else torch.cat([found, x[..., known.shape[-1] :]], dim=-1)


class Attention(nn.Module):
    """Self-attention; the projection of its output has no bias."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.qkv, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, places: Turn | None, bias: Tensor | None) -> Tensor:
        """``x`` ``(B, T, H)``, ``places`` of ``(B, T)``, ``bias`` ``(B, 1, T, T)`` of what a row hears."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head)).unbind(2)
        if places is not None:
            q, k = (turned(part, places) for part in (q, k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.attn_proj(found.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Four times as wide inside; the output has no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.intermediate, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(F.silu(SHARP * self.intermediate(x)) / SHARP)
        return found


class Block(nn.Module):
    """Attention and perceptron, each behind a norm and beside the identity."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.pre_attn_ln, self.pre_mlp_ln = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))
        self.attention_layer, self.mlp_layer = Attention(width, head), Mlp(width)

    def forward(self, x: Tensor, places: Turn | None, bias: Tensor | None) -> Tensor:
        x = x + self.attention_layer(self.pre_attn_ln(x), places, bias)
        found: Tensor = x + self.mlp_layer(self.pre_mlp_ln(x))
        return found


class Transformer(nn.Module):
    """The transformer of the module's equations.

    Args:
        width: ``H``.
        layers: of them.
        head: size of a head.
        places: tokens that learn where they are, for sequences without coordinates.
        rotary: see the module.
    """

    def __init__(
        self, width: int, layers: int, *, head: int = 64, places: int = 0, rotary: Rotary = "official"
    ) -> None:
        super().__init__()
        if width % head:
            raise UserError(
                "the width is a multiple of the size of a head", f"width={width}, head={head}", "change one"
            )
        self.entries, self.rotary = min(ROTARY, head), rotary
        self.pre_ln, self.final_ln = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))
        self.layers = nn.ModuleList(Block(width, head) for _ in range(layers))
        self.pe = nn.Parameter(torch.randn(places, width) * 0.02) if places else None

    def forward(self, x: Tensor, coordinates: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The sequence ``(B, T, H)``.

        Args:
            x: ``(B, T, H)``.
            coordinates: ``(T, axes)`` or ``(B, T, axes)``.
            mask: ``(B, T, T)`` bool, True where a row hears a column.
        """
        places = None if coordinates is None else turn(angles(coordinates.to(x), self.entries), self.rotary)
        bias = None if mask is None else torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, MASKED).unsqueeze(1)
        if places is None and self.pe is not None:
            x = x + self.pe[: x.shape[1]]
        x = self.pre_ln(x)
        for block in self.layers:
            x = block(x, places, bias)
        found: Tensor = self.final_ln(x)
        return found


class Summarised(nn.Module):
    """A transformer behind a learned first token, which has coordinates of zero and sums the sequence up.

    Args:
        width, layers, head, rotary: see :class:`Transformer`.
    """

    def __init__(self, width: int, layers: int, *, head: int = 64, rotary: Rotary = "official") -> None:
        super().__init__()
        self.body = Transformer(width, layers, head=head, rotary=rotary)
        self.cls, self.cls_proj = nn.Parameter(torch.randn(width) * 0.02), nn.Linear(width, width)

    def forward(self, x: Tensor, coordinates: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The summary ``(B, H)`` and the sequence ``(B, T, H)``.

        Args:
            x: ``(B, T, H)``.
            coordinates: ``(T, axes)``.
            valid: ``(B, T)`` bool; only valid tokens hear, and are heard.
        """
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1)
        mask = None
        if valid is not None:
            valid = F.pad(valid, (1, 0), value=True)
            mask = valid[:, :, None] & valid[:, None, :]
        x = self.body(x, F.pad(coordinates, (0, 0, 1, 0)), mask)
        return self.cls_proj(x[:, 0]), x[:, 1:]


class Pooling(nn.Module):
    """Attention of the mean of some vectors to them."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., n, H)`` to ``(..., H)``."""
        q, k, v = self.query(x.mean(dim=-2, keepdim=True)), self.key(x), self.value(x)
        q, k, v = (part.unflatten(-1, (-1, self.head)).transpose(-3, -2) for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(self.head)).softmax(dim=-1)
        found: Tensor = self.out((weights @ v).transpose(-3, -2).flatten(-2)).squeeze(-2)
        return found


class VisionEncoder(nn.Module):
    """Patches of a frame to its CLS, all its vectors, and one for every square of ``pool x pool``.

    Args:
        patch: numbers of a patch.
        shape: patches of a column and of a row.
        width, layers, head, rotary: see :class:`Transformer`.
        pool: side of the squares.
    """

    def __init__(
        self, patch: int, shape: tuple[int, int], width: int, layers: int, *, head: int = 64, pool: int = 2,
        rotary: Rotary = "official",
    ) -> None:  # fmt: skip
        super().__init__()
        if shape[0] % pool or shape[1] % pool:
            raise UserError("the grid of patches is one of whole squares", f"{shape}, pool={pool}", "change one")
        self.shape, self.pool = shape, pool
        self.embedding = nn.Linear(patch, width)
        self.transformer = Summarised(width, layers, head=head, rotary=rotary)
        self.seq_attnpool = Pooling(width, head)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, h w, patch)`` to ``(B, H)``, ``(B, h w, H)`` and ``(B, h w / pool^2, H)``."""
        cls, seq = self.transformer(self.embedding(patches), grid(*self.shape))
        h, w, p = *self.shape, self.pool
        squares = seq.unflatten(1, (h // p, p, w // p, p)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return cls, seq, self.seq_attnpool(squares)

    def places(self) -> Tensor:
        """Coordinates ``(h w / pool^2, 2)`` of the squares."""
        return grid(self.shape[0] // self.pool, self.shape[1] // self.pool)


class AudioEncoder(nn.Module):
    """A spectrogram to its CLS, all its vectors, and one for every ``pool`` of them.

    Args:
        features: of a frame of the spectrogram: 64 mels and the speed.
        width, layers, head, rotary: see :class:`Transformer`.
        patch: frames of a token.
        pool: tokens of a vector.
    """

    def __init__(
        self, features: int, width: int, layers: int, *, head: int = 64, patch: int = 2, pool: int = 5,
        rotary: Rotary = "official",
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.pool = patch, pool
        self.embedding = nn.Linear(patch * features, width)
        self.transformer = Summarised(width, layers, head=head, rotary=rotary)
        self.seq_attnpool = Pooling(width, head)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, frames, features)`` to ``(B, H)``, ``(B, T, H)`` and ``(B, T / pool, H)``, ``T = frames / patch``."""
        x = self.embedding(mel.unflatten(1, (-1, self.patch)).flatten(2))
        cls, seq = self.transformer(x, centred(x.shape[1])[:, None] / x.shape[1])
        return cls, seq, self.seq_attnpool(seq.unflatten(1, (-1, self.pool)))


class SpanEncoder(nn.Module):
    """Words of a span ``(B, n, H)`` to one vector ``(B, H)``."""

    def __init__(self, width: int, layers: int, *, head: int = 64, rotary: Rotary = "official") -> None:
        super().__init__()
        self.transformer = Summarised(width, layers, head=head, rotary=rotary)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``valid`` ``(B, n)``: no padding."""
        places = torch.arange(1, x.shape[1] + 1, dtype=torch.float64)[:, None] / SPAN
        found: Tensor = self.transformer(x, places, valid)[0]
        return found


def from_flax(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights, ``a.b.kernel``, under our names and in our layouts.

    Kernels of several heads and of the convolution over time become matrices; ``scale`` and tables become ``weight``.
    """
    found = {}
    for name, value in state.items():
        parts = [piece for part in name.split(".") for piece in LAYER.sub(r"layers.\1", part).split(".")]
        if "transformer" in parts and parts[-1] != "cls" and "cls_proj" not in parts:
            parts.insert(parts.index("transformer") + 1, "body")
        if parts[-1] == "kernel":
            joined = parts[-2] in ("attn_proj", "out", "embedding")
            value = value.flatten(0, -2).T if joined else value.flatten(1).T
        if parts[-1] == "bias":
            value = value.flatten()
        if parts[-2:] == ["Embed_0", "embedding"]:
            parts = [*parts[:-2], "weight"]
        elif parts[-1] in ("kernel", "scale"):
            parts[-1] = "weight"
        found[".".join(parts)] = value.contiguous()
    return found
