r"""AugVAE: pictures to codes of one shared codebook at several scales, and back.

Encoders are chained, each on the features of the one before, :math:`e_i = E_i(e_{i-1})`, :math:`e_{-1}` the picture;
``fine`` comes first. All levels share the weight of a 1x1 convolution before the codebook and one after it (their
biases are their own), and the codebook:

.. math::

    h_i &= W e_i + b_i, \quad q_i = \mathrm{VQ}(h_i) \\
    d_0 &= D_0(W' q_{L-1} + b'_0), \quad d_k = D_k([W' q_{L-1-k} + b'_k,\ d_{k-1}]), \quad \hat x = d_{L-1}

so that the codes are trained on all scales. :meth:`AugVae.single` keeps one level for a transformer: the decoders from
there on, each behind a 1x1 convolution in the place of the concatenation.

Source: Kim et al., "L-Verse: Bidirectional Generation Between Image and Text", CVPR 2022 (arXiv 2111.11133); the blocks
are those of Esser et al., "Taming Transformers", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.systems.l_verse.codebook import Codebook, Init, perplexity

HALVES = (2, 4)
"""Widths, in multiples of the first, of encoders and decoders between two levels."""


class Coded(NamedTuple):
    """What a picture becomes: the reconstruction, codes ``(B, H_i W_i)`` and vectors of each level, fine first."""

    picture: Tensor
    codes: list[Tensor]
    vectors: list[Tensor]
    loss: Tensor
    perplexity: Tensor


class AugVae(nn.Module):
    """The autoencoder.

    Args:
        size: side of the pictures.
        pyramid: sides of the levels, fine first, each half of the one before; the first is ``size`` divided by 2 to the
            number of ``widths`` less one.
        hidden: channels of the first layer.
        z: channels of the levels.
        dim: width of a code.
        codes: how many there are.
        widths: multiples of ``hidden`` between the picture and the first level.
        residual: residual blocks per resolution.
        attention: self-attention where a resolution is one of the pyramid.
        groups: of the group norms.
        init: of the codebook, see :class:`~weft.systems.l_verse.codebook.Codebook`.
        shared: one codebook for all levels; False: one each, for comparison.
        level: keep only this level of the pyramid (its side); None: all.
    """

    def __init__(
        self,
        size: int = 256,
        pyramid: Sequence[int] = (64, 32, 16, 8),
        *,
        hidden: int = 128,
        z: int = 256,
        dim: int = 256,
        codes: int = 8192,
        widths: Sequence[int] = (1, 2, 4),
        residual: int = 2,
        attention: bool = False,
        groups: int = 32,
        init: Init = "data",
        shared: bool = True,
        level: int | None = None,
    ) -> None:
        super().__init__()
        sides = [size // 2 ** (len(widths) - 1 + i) for i in range(len(pyramid))]
        if sides != list(pyramid) or sides[-1] < 1 or size % 2 ** (len(widths) + len(pyramid) - 2):
            raise UserError(
                "each level of the pyramid is half of the one before",
                f"pyramid={list(pyramid)} of pictures of {size} pixels, {len(widths)} widths",
                f"pyramid={sides}, or another size: a multiple of {2 ** (len(widths) + len(pyramid) - 2)}",
            )
        if hidden % groups:
            raise UserError("channels are a multiple of the groups", f"hidden={hidden}, groups={groups}", "change one")
        self.pyramid, self.level, self.codes = tuple(pyramid), level, codes
        last = len(pyramid) - 1
        kept = last if level is None else self._place(level)
        shape: dict[str, Any] = {
            "hidden": hidden, "residual": residual, "groups": groups, "attend": self.pyramid if attention else ()
        }  # fmt: skip
        self.encoders = nn.ModuleList(
            [Encoder(3, z, widths, size, **shape)]
            + [Encoder(z, z, HALVES, pyramid[i - 1], **shape) for i in range(1, kept + 1)]
        )
        coarse = [Decoder(z if i == last else 2 * z, z, HALVES, pyramid[i - 1], **shape) for i in range(last, 0, -1)]
        decoders = [*coarse, Decoder(2 * z if last else z, 3, widths, size, **shape)]
        self.decoders = nn.ModuleList(decoders if level is None else decoders[-(kept + 1) :])
        self.connectors = nn.ModuleList([] if level is None else [nn.Conv2d(z, 2 * z, 1) for _ in self.decoders])
        self.before, self.after = (nn.Conv2d(a, b, 1, bias=False) for a, b in ((z, dim), (dim, z)))
        self.before_bias = nn.ParameterList(torch.zeros(dim) for _ in pyramid)
        self.after_bias = nn.ParameterList(torch.zeros(z) for _ in pyramid)
        self.codebooks = nn.ModuleList(Codebook(codes, dim, init=init) for _ in range(1 if shared else len(pyramid)))

    def _place(self, level: int) -> int:
        if level not in self.pyramid[:-1]:
            raise UserError(
                "the level that is kept has a coarser one beside it, whose decoders lead to it",
                f"level={level}, pyramid {list(self.pyramid)}",
                f"one of {list(self.pyramid[:-1])}",
            )
        return self.pyramid.index(level)

    def forward(self, picture: Tensor) -> Coded:
        """Encode and decode ``(B, 3, size, size)`` in [-1, 1]; in training the codebook moves, fine level first."""
        codes, vectors, losses, features = [], [], [], picture
        for i, encoder in enumerate(self.encoders):
            features = encoder(features)
            h = self.before(features) + self.before_bias[i][:, None, None]
            vector, loss, chosen = self.codebooks[i % len(self.codebooks)](h)
            codes.append(chosen.flatten(1))
            vectors.append(vector)
            losses.append(loss)
        loss = torch.stack(losses).sum()
        used = perplexity(torch.cat([c.flatten() for c in codes]), self.codes)
        return Coded(self.decoded(vectors), codes, vectors, loss, used)

    def decoded(self, vectors: Sequence[Tensor]) -> Tensor:
        """``(B, 3, H, W)`` of the vectors of each level, fine first; with one level kept, of those of the last."""
        if self.level is not None:
            d = self._after(vectors[-1], 0)
            for connector, decoder in zip(self.connectors, self.decoders, strict=True):
                d = decoder(connector(d))
            return d
        d = self.decoders[0](self._after(vectors[-1], 0))
        for k, decoder in enumerate(self.decoders[1:], 1):
            d = decoder(torch.cat([self._after(vectors[-1 - k], k), d], dim=1))
        return d

    def encoded(self, picture: Tensor) -> Tensor:
        """Codes ``(B, T)`` of the levels that are kept, fine first, each row by row."""
        codes = self(picture).codes
        return codes[-1] if self.level is not None else torch.cat(codes, dim=1)

    def drawn(self, codes: Tensor) -> Tensor:
        """The picture of codes ``(B, T)`` as :meth:`encoded` gives them."""
        sides = self.pyramid if self.level is None else (self.level,)
        parts = codes.split([side * side for side in sides], dim=1)
        vectors = []
        for i, (part, side) in enumerate(zip(parts, sides, strict=True)):
            book: Any = self.codebooks[i % len(self.codebooks)]
            vectors.append(book.weight[part].unflatten(1, (side, side)).permute(0, 3, 1, 2))
        return self.decoded(vectors)

    def single(self, level: int) -> dict[str, Tensor]:
        """Weights for the same autoencoder with one level kept; its connectors start as they are made."""
        kept, last = self._place(level), len(self.pyramid) - 1
        state = self.state_dict()
        found = {}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            if part == "encoders" and int(rest.partition(".")[0]) > kept:
                continue
            if part == "decoders":
                number, _, inner = rest.partition(".")
                if int(number) < last - kept:
                    continue
                name = f"decoders.{int(number) - (last - kept)}.{inner}"
            found[name] = value
        return found

    @staticmethod
    def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published names to ours; tensors that the levels share stand under the first."""
        found = {}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            number, _, inner = rest.partition(".")
            if part in ("pre_quants", "post_quants"):
                ours = "before" if part == "pre_quants" else "after"
                if inner == "weight" and int(number):
                    continue
                name = f"{ours}.weight" if inner == "weight" else f"{ours}_bias.{number}"
            if part == "quantizers":
                if int(number):
                    continue
                name = f"codebooks.0.{inner.rpartition('.')[2]}"
            found[name] = value
        return found

    def _after(self, vector: Tensor, level: int) -> Tensor:
        found: Tensor = self.after(vector) + self.after_bias[level][:, None, None]
        return found


class Residual(nn.Module):
    """Norm, swish, 3x3 convolution, twice, beside the identity or a 1x1 convolution."""

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(inside, groups)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2 = _norm(outside, groups)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        found: Tensor = self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return found


class Attention(nn.Module):
    """Self-attention over all positions of a map, one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        found: Tensor = x + self.proj_out(mixed)
        return found


class Down(nn.Module):
    """Half the side: zeros to the right and below, 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return found


class Up(nn.Module):
    """Twice the side: nearest neighbours, 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return found


class Stage(nn.Module):
    """The blocks of one resolution, and the step to the next."""

    def __init__(
        self, channels: Sequence[int], groups: int, attend: bool, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(Residual(a, b, groups) for a, b in pairwise(channels))
        self.attn = nn.ModuleList(Attention(b, groups) for b in channels[1:]) if attend else nn.ModuleList()
        self.downsample = Down(channels[-1]) if down else None
        self.upsample = Up(channels[-1]) if up else None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        step = self.downsample or self.upsample
        return x if step is None else step(x)


class Middle(nn.Module):
    """Two residual blocks, attention between them."""

    def __init__(self, channels: int, groups: int, attend: bool) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels, groups)
        self.attn_1 = Attention(channels, groups) if attend else nn.Identity()
        self.block_2 = Residual(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return found


class Encoder(nn.Module):
    """``(B, inside, S, S)`` to ``(B, outside, S / 2**(len(widths) - 1), ...)``."""

    def __init__(
        self, inside: int, outside: int, widths: Sequence[int], side: int, *, hidden: int, residual: int, groups: int,
        attend: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [hidden, *(hidden * width for width in widths)]
        self.conv_in = nn.Conv2d(inside, hidden, 3, padding=1)
        self.down = nn.ModuleList(
            Stage([a, *[b] * residual], groups, side // 2**i in attend, down=i < len(widths) - 1)
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.mid = Middle(sizes[-1], groups, bool(attend))
        self.norm_out = _norm(sizes[-1], groups)
        self.conv_out = nn.Conv2d(sizes[-1], outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        found: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return found


class Decoder(nn.Module):
    """``(B, inside, s, s)`` to ``(B, outside, side, side)``, the mirror of an encoder with one residual block more."""

    def __init__(
        self, inside: int, outside: int, widths: Sequence[int], side: int, *, hidden: int, residual: int, groups: int,
        attend: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [hidden * width for width in widths]
        self.conv_in = nn.Conv2d(inside, sizes[-1], 3, padding=1)
        self.mid = Middle(sizes[-1], groups, bool(attend))
        self.up = nn.ModuleList(
            Stage([before, *[size] * (residual + 1)], groups, side // 2**i in attend, up=i > 0)
            for i, (size, before) in enumerate(zip(sizes, [*sizes[1:], sizes[-1]], strict=True))
        )
        self.norm_out = _norm(sizes[0], groups)
        self.conv_out = nn.Conv2d(sizes[0], outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for stage in reversed(self.up):
            x = stage(x)
        found: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return found


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)
