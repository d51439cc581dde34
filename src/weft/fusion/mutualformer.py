r"""MutualFormer: two aligned token maps and a fused stream, joined by cross-diffusion attention.

One block, for modalities r and d, tokens :math:`X_r, X_d` and the fused stream :math:`X_f`, all ``(B, N, D)``:

.. math::
    [x_r \,|\, x_d] &= \mathrm{LN}([X_r \,|\, X_d]) \quad \text{(one norm over 2D channels, then split)} \\
    o_r &= W_r [P_r ; U_{rd}], \qquad o_d = W_d [P_d ; U_{dr}]
        \quad \text{(messages of } \texttt{weft.ops.cross\_diffusion}\text{)} \\
    y &= X_f + \mathrm{DropPath}\big( W\,\mathrm{SA}(\mathrm{LN}(X_f)) + W_{rd} [o_r ; o_d] \big) \\
    X_f' &= y + \mathrm{DropPath}(\mathrm{MLP}(\mathrm{LN}(y)))

The stack starts from :math:`X_f = W_0 [X_1 ; ... ; X_M]`, keeps the modality tokens and feeds each :math:`X_f'` to the
next block. Three or more modalities: one block per pair and layer, the mean of their fused streams (over the pairs with
at least one modality present). An absent modality has zero affinity and zero values, so it sends nothing.

Cost: :math:`24 D^2 + 17 D` weights per block (``mlp_ratio=4``, no ``qkv_bias``), ``M(M-1)/2`` blocks per layer; time
quadratic and memory linear in N.

When not to use it: modalities whose tokens do not share positions; pooled vectors (the affinity of one token is 1, so
queries and keys get no gradient: training on one token is refused); N in the hundreds of thousands.

Source: Wang et al., "MutualFormer: Multi-Modality Representation Learning via Cross-Diffusion Attention", IJCV 2024
(arXiv 2112.01177). Where the published code and the figures differ we follow the code; ``split_norm`` is the figure's
separate norm per modality. The pre-fusion and the pairs are ours: the code leaves the first to the caller and knows no
third modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion import mutualformer_weights
from weft.fusion.base import Fusion, fusions
from weft.ops.cross_diffusion import Fit, Form, Heads, Orientation, cross_diffusion
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, keys_of, mean_pool, union, when_read, where_there, zero_padding

Cross = Literal["diffusion", "attention", "none", "concat"]


@fusions.register("mutualformer")
class MutualFormer(Fusion):
    """A stack of MutualFormer blocks on a pre-fused stream.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`; a modality of width ``dim`` enters as it is, any other through
            a linear layer.
        depth: number of layers.
        heads: attention heads; must divide ``dim``.
        mlp_ratio: width of the MLP over ``dim``.
        qkv_bias: biases in the query, key and value projections.
        alpha, steps, orientation, fit: see :func:`~weft.ops.cross_diffusion.cross_diffusion`.
        cross: what the modalities exchange: "diffusion" (the method), "attention" (plain cross-attention), "none"
            (self-attention only), "concat" (no attention between modality tokens: values concatenated by position).
        self_attention: self-attention on the fused stream.
        split_norm: one LayerNorm per modality instead of one over both.
        dropout: after the fused stream's projection and in the MLP.
        attention_dropout: on the attention of the fused stream and the cross-affinity (which is then dense, O(N^2)).
        drop_path: probability of skipping a residual branch of a sample, growing linearly to this at the last layer.

    Returns (from ``forward``):
        Fused: ``vector`` the mean of the fused stream over the positions real in any modality, ``tokens`` the stream,
        ``per_modality`` the means of the modality tokens entering the first layer.
    """

    arity = (2, None)
    wants = "aligned-tokens"
    absent = "native"
    paper = "Wang et al., MutualFormer: Multi-Modality Representation Learning via Cross-Diffusion Attention, IJCV 2024"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        depth: int = 1,
        heads: int = 8,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        qkv_bias: bool = False,
        alpha: float = 0.6,
        steps: int = 1,
        orientation: Orientation = "code",
        fit: Fit = "sum",
        cross: Cross = "diffusion",
        self_attention: bool = True,
        split_norm: bool = False,
        dropout: Dropout = 0.0,
        attention_dropout: Dropout = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        if depth < 1:
            raise UserError("depth of MutualFormer is at least 1", f"depth={depth}", "choose depth 1 or more")
        self.embed = nn.ModuleList(nn.Identity() if d == dim else nn.Linear(d, dim) for d in self.dims.values())
        self.prefuse = nn.Linear(len(self.dims) * dim, dim)
        self.pairs = list(combinations(range(len(self.dims)), 2))
        attention: dict[str, Any] = {
            "qkv_bias": qkv_bias,
            "alpha": alpha,
            "steps": steps,
            "orientation": orientation,
            "fit": fit,
            "cross": cross,
            "self_attention": self_attention,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
        }
        self.blocks = nn.ModuleList(  # layer by layer, pair by pair
            MutualFormerBlock(
                dim,
                heads,
                mlp_ratio=mlp_ratio,
                split_norm=split_norm,
                drop_path=drop_path * (layer + 1) / depth,
                **attention,
            )
            for layer in range(depth)
            for _ in self.pairs
        )

    @classmethod
    def from_official(
        cls, state_dict: Mapping[str, Tensor], heads: int = 8, names: tuple[str, str] = ("rgb", "depth"), **options: Any
    ) -> Self:
        """One layer with the weights of a published block; the pre-fusion, which that code does not own, is fresh.

        Args:
            state_dict: parameters under the names of the published code (``norm1.weight``, ``attn.qkv_r.weight``, ...).
            heads: their number, which no parameter shows.
            names: the modalities, the official "r" first.
            options: the other options of the constructor that no shape shows (``alpha``, ``dropout``, ...).
        """
        shape = mutualformer_weights.shape(state_dict)
        dim = shape.pop("dim")
        model = cls(dict.fromkeys(names, dim), dim, heads=heads, **shape, **options)
        mutualformer_weights.load(model.blocks[0], state_dict)
        return model.to(next(iter(state_dict.values())).dtype)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        length = next(iter(inputs.values())).values.shape[1]
        if length == 1 and self.training:
            raise UserError(
                "MutualFormer compares the tokens of a modality with each other, so it needs two or more",
                "1 token in every modality: every affinity is 1, and the queries and keys would never train",
                "give it token sequences or feature maps, or use an operator that wants vectors (weft list)",
            )
        modalities = [
            zero_padding(Tokens(embed(t.values), t.mask)) for t, embed in zip(inputs.values(), self.embed, strict=True)
        ]
        stream = self.prefuse(torch.cat([t.values for t in modalities], dim=-1))
        mask = union([t.mask for t in modalities])
        weights = self._pair_weights(modalities, stream.dtype)
        for first in range(0, len(self.blocks), len(self.pairs)):
            streams = []
            for index, (i, j) in enumerate(self.pairs, start=first):
                r, d = modalities[i], modalities[j]
                streams.append(self.blocks[index](r.values, d.values, stream, r.mask, d.mask, mask))
            stream = streams[0] if len(streams) == 1 else torch.einsum("pb,pbnd->bnd", weights, torch.stack(streams))
        fused = zero_padding(Tokens(stream, mask))
        alone = when_read(self.names, lambda: [mean_pool(t) for t in modalities])
        return Fused(mean_pool(fused), fused, alone, None)

    def _pair_weights(self, modalities: list[Tokens], dtype: torch.dtype) -> Tensor:
        """``(pairs, B)``: equal for the pairs with a modality present, summing to one."""
        there = [t.mask.any(dim=1) for t in modalities]
        counts = torch.stack([there[i] | there[j] for i, j in self.pairs]).to(dtype)
        return counts / counts.sum(dim=0).clamp(min=1)


class MutualFormerBlock(nn.Module):
    """The published block. Parameters carry the names of the published code.

    Args:
        dim: width ``D`` of all three streams.
        heads: attention heads; must divide ``dim``.
        mlp_ratio, split_norm, drop_path: see :class:`MutualFormer`.
        attention: options of :class:`CrossDiffusionAttention`.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        mlp_ratio: float = 4.0,
        split_norm: bool = False,
        drop_path: float = 0.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        dropout = attention.get("dropout", 0.0)
        self.norm1 = SplitNorm(dim) if split_norm else nn.LayerNorm(2 * dim)
        self.norm1_rd = nn.LayerNorm(dim) if attention.get("self_attention", True) else nn.Identity()
        self.attn = CrossDiffusionAttention(dim, heads, **attention)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor], heads: int = 8, **options: Any) -> Self:
        """The published block from its own parameters; ``heads`` and ``options`` are what no shape shows."""
        shape = mutualformer_weights.shape(state_dict)
        block = cls(shape.pop("dim"), heads, **shape, **options)
        mutualformer_weights.load(block, state_dict)
        return block

    def forward(
        self,
        r: Tensor,
        d: Tensor,
        fused: Tensor,
        mask_r: Tensor | None = None,
        mask_d: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The next fused stream.

        Args:
            r, d, fused: ``(B, N, D)``.
            mask_r, mask_d, mask: ``(B, N)`` bool of the three streams, True = real; None: all tokens are.

        Returns:
            ``(B, N, D)``; values under ``mask`` mean nothing. :func:`to_map` folds it to a feature map.
        """
        norm_r, norm_d = self.norm1(torch.cat([r, d], dim=-1)).chunk(2, dim=-1)
        message = self.attn(norm_r, norm_d, self.norm1_rd(fused), mask_r, mask_d, mask)
        fused = fused + self.drop_path(message)
        return fused + self.drop_path(self.mlp(self.norm2(fused)))


class CrossDiffusionAttention(nn.Module):
    """The block's attention: within each modality, between the modalities, and within the fused stream.

    Args:
        dim: width ``D``.
        heads: their number; must divide ``dim``.
        qkv_bias: biases in the query, key and value projections.
        scale: of the scores; None or 0: ``(D / heads) ** -0.5``.
        alpha, steps, orientation, fit, form: see :func:`~weft.ops.cross_diffusion.cross_diffusion`.
        cross, self_attention, dropout, attention_dropout: see :class:`MutualFormer`.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        qkv_bias: bool = False,
        scale: float | None = None,
        alpha: float = 0.6,
        steps: int = 1,
        orientation: Orientation = "code",
        fit: Fit = "sum",
        form: Form = "auto",
        cross: Cross = "diffusion",
        self_attention: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(
                "the number of heads divides the width of the tokens",
                f"heads={heads}, dim={dim}",
                "choose heads among the divisors of dim",
            )
        self.heads, self.scale, self.cross = heads, scale or (dim // heads) ** -0.5, cross
        self.diffusion: dict[str, Any] = {
            "alpha": alpha,
            "steps": steps,
            "orientation": orientation,
            "fit": fit,
            "form": form,
        }
        projections = dim if cross == "concat" else 3 * dim
        received = dim if cross == "none" else 2 * dim
        self.qkv_r = nn.Linear(dim, projections, bias=qkv_bias)
        self.qkv_d = nn.Linear(dim, projections, bias=qkv_bias)
        self.proj_r = nn.Linear(received, dim)
        self.proj_d = nn.Linear(received, dim)
        self.proj_rd = nn.Linear(2 * dim, dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias) if self_attention else None
        self.proj = nn.Linear(dim, dim) if self_attention else None
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = attention_dropout

    def forward(
        self,
        r: Tensor,
        d: Tensor,
        fused: Tensor,
        mask_r: Tensor | None = None,
        mask_d: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """What is added to the fused stream, ``(B, N, D)``; arguments as in :meth:`MutualFormerBlock.forward`."""
        if r.shape != d.shape:
            raise UserError(
                "cross-diffusion needs the same tokens in both modalities",
                f"(B, N, D) {tuple(r.shape)} and {tuple(d.shape)}",
                "resample both maps to one grid, or use cross-attention, which takes unequal token counts",
            )
        received = self._exchange(self.qkv_r(r), self.qkv_d(d), mask_r, mask_d)
        out_r, out_d = self.proj_r(received[0]), self.proj_d(received[1])
        out = self.proj_rd(torch.cat([out_r, out_d], dim=-1))
        if self.qkv is None or self.proj is None:
            return out
        return self.dropout(self.proj(self._merge(self._attend(*self._split(self.qkv(fused), mask))))) + out

    def _exchange(self, r: Tensor, d: Tensor, mask_r: Tensor | None, mask_d: Tensor | None) -> tuple[Tensor, Tensor]:
        """``[P_m ; U_m]`` of both modalities, ``(B, N, 2 D)``, or ``(B, N, D)`` without a cross term."""
        if self.cross == "concat":
            r, d = (x if m is None else torch.where(m.unsqueeze(-1), x, 0.0) for x, m in ((r, mask_r), (d, mask_d)))
            return torch.cat([r, d], dim=-1), torch.cat([d, r], dim=-1)
        heads_r, heads_d = self._split(r, mask_r), self._split(d, mask_d)
        if self.cross == "diffusion":
            p = self.attention_dropout if self.training else 0.0
            messages = cross_diffusion(heads_r, heads_d, scale=self.scale, dropout=p, **self.diffusion)
            self_r, self_d, cross_r, cross_d = (self._merge(m) for m in messages)
        else:
            self_r, self_d = self._merge(self._attend(*heads_r)), self._merge(self._attend(*heads_d))
            if self.cross == "none":
                return self_r, self_d
            cross_r = self._merge(self._attend(heads_r.query, heads_d.key, heads_d.value, mask_d))
            cross_d = self._merge(self._attend(heads_d.query, heads_r.key, heads_r.value, mask_r))
        return torch.cat([self_r, cross_r], dim=-1), torch.cat([self_d, cross_d], dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Ordinary attention; zeros for samples without any key."""
        p = self.attention_dropout if self.training else 0.0
        if mask is None:
            return F.scaled_dot_product_attention(query, key, value, dropout_p=p, scale=self.scale)
        keys, there = keys_of(mask)
        out = F.scaled_dot_product_attention(query, key, value, keys, dropout_p=p, scale=self.scale)
        return where_there(None if there is None else there.unsqueeze(1), out)

    def _split(self, qkv: Tensor, mask: Tensor | None) -> Heads:
        """``(B, N, 3 D)``, laid out as (q, k, v) x heads x width, to heads."""
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return Heads(query, key, value, mask)

    @staticmethod
    def _merge(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class SplitNorm(nn.Module):
    """A LayerNorm for each half of the channels, ``(B, N, 2 D)`` to the same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.r, self.d = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        r, d = x.chunk(2, dim=-1)
        return torch.cat([self.r(r), self.d(d)], dim=-1)


class Mlp(nn.Module):
    """Linear, GELU (exact), dropout, linear, dropout."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's branch is zero with probability ``p``, else divided by ``1 - p``."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError("drop_path is a probability below 1", f"drop_path={p}", "choose drop_path in [0, 1)")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


class OverlapPatchEmbed(nn.Module):
    """Patches of an image to tokens by a convolution whose stride may be smaller than its kernel.

    Args:
        image_size: ``(height, width)`` the embedding is made for, or one number for a square.
        patch: side of a patch.
        stride: distance of two patches.
        channels: of the image.
        dim: width of a token.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch: int = 16,
        stride: int = 20,
        channels: int = 3,
        dim: int = 768,
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.grid = tuple((side - patch) // stride + 1 for side in self.image_size)
        if min(self.grid) < 1:
            raise UserError(
                "a patch fits into the image", f"image {self.image_size}, patch {patch}", "choose a smaller patch"
            )
        self.proj = nn.Conv2d(channels, dim, patch, stride)
        nn.init.normal_(self.proj.weight, std=(2.0 / (patch * patch * dim)) ** 0.5)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, channels, height, width)`` to ``(B, rows * columns, dim)``, row-major.

        Raises:
            UserError: the image has another size.
        """
        if tuple(image.shape[-2:]) != self.image_size:
            raise UserError(
                "the patch embedding takes images of the size it was made for",
                f"{tuple(image.shape[-2:])}, made for {self.image_size}",
                "resize the images, or build it with this image_size",
            )
        return self.proj(image).flatten(2).mT


def to_map(tokens: Tensor, height: int) -> Tensor:
    """Row-major tokens ``(B, N, D)`` to a feature map ``(B, D, height, N / height)``.

    Raises:
        UserError: the height does not divide ``N``.
    """
    if height < 1 or tokens.shape[1] % height:
        raise UserError(
            "the height of a map divides its number of tokens",
            f"height={height}, {tokens.shape[1]} tokens",
            "pass the number of rows of the token grid",
        )
    return tokens.mT.unflatten(-1, (height, -1))
