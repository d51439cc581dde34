r"""Attentional feature fusion (AFF): channel attention at two scales weighs aligned maps or sequences.

MS-CAM, the attention, on one map X of T positions and C channels, with :math:`C' = \lfloor C / r \rfloor`:

.. math::
    \mathrm{local}(X)_t &= N_2(W_2\,\mathrm{relu}(N_1(W_1 X_t + b_1)) + b_2) && (B, T, K C) \\
    \mathrm{global}(X) &= \text{the same, other weights, on } \mathrm{mean}_t X_t && (B, 1, K C) \\
    L(X) &= \mathrm{local}(X) + \mathrm{global}(X), \qquad \text{MS-CAM}(X) = X \odot \sigma(L(X)) \quad (K = 1)

AFF of M maps :math:`X_m` ``(B, T, C)``:

.. math::
    S = \sum_m X_m, \qquad w = \mathrm{softmax}_m(L_1(S), \dots, L_{M-1}(S), 0), \qquad Z = s \sum_m w_m \odot X_m

with K = M - 1 logit maps. For two maps :math:`w_1 = \sigma(L(S))` and :math:`w_2 = 1 - w_1`, as published. The scale s
is M, so that equal weights give the plain sum, as in the original code; the paper writes s = 1.

Sequences: positions are steps, and means run over real ones. A modality absent at a position has weight 0 there and is
not counted in s. The original's normalisation N is BatchNorm, which couples the rows of a batch and cannot train on one
row; the default is LayerNorm over the channels. BatchNorm here takes its statistics over real positions only.

Cost: ``2 (C C' + K C C' + 3 C' + 3 K C)`` weights and the projections (none where ``D_m = C``); time linear in T.

When not to use it: modalities on different grids (resample, or ``cross-attention``); a gate cannot compare two
modalities beyond their sum: w depends on S alone.

Source: Dai, Gieseke, Oehmcke, Wu, Barnard, "Attentional Feature Fusion", WACV 2021, arXiv 2009.14082. Three and more
maps and the masks are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion import aff_weights
from weft.fusion.base import Fusion, fusions
from weft.tokens import Fused, Tokens, everywhere, full, mean_pool, union, when_read, whole, zero_padding

Norm = Literal["layer", "batch"]


class AlignedMaps(Fusion):
    """What ``aff`` and ``iaff`` share: maps at the same positions, brought to one width, and the scale of their sum."""

    arity = (2, None)
    wants = "aligned-tokens"
    absent = "native"
    paper = "Dai et al., Attentional Feature Fusion, WACV 2021, arXiv 2009.14082"

    def __init__(self, dims: Mapping[str, int], dim: int, scale: float | None) -> None:
        super().__init__(dims, dim)
        self.scale = scale
        self.project = nn.ModuleList(nn.Identity() if d == dim else nn.Linear(d, dim) for d in self.dims.values())


@fusions.register("aff")
class AttentionalFusion(AlignedMaps):
    """A weighted sum of aligned maps, the weights from the sum of all.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`; a modality of width ``dim`` enters as it is, any other through
            a linear layer. The order matters: the last modality has the logit 0 (originally the skip connection).
        reduction: ``r``; ``dim // r`` is at least 2, or 1 with ``norm="batch"``.
        norm: "layer", or "batch" as published.
        scale: ``s``; None: the number of modalities real at the position.

    Raises:
        UserError: ``reduction`` leaves too few channels; from ``forward`` in training, BatchNorm over one value.

    ``weights`` of the result are means over channels and real positions; ``tokens`` is the fused map.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        reduction: int = 4,
        norm: Norm = "layer",
        scale: float | None = None,
    ) -> None:
        super().__init__(dims, dim, scale)
        self.attention = ChannelAttention(dim, reduction, maps=len(self.dims) - 1, norm=norm)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        maps = projected(self.project, inputs)
        return fused(self.names, maps, self.attention(total(maps)), self.scale)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], names: Sequence[str] = ("x", "residual")) -> Self:
        """The published module: two maps of equal width, BatchNorm, scale 2.

        Args:
            state: its parameters, ``local_att.*`` and ``global_att.*``.
            names: of the residual branch (weight w) and the skip connection (weight 1 - w).
        """
        width, reduction = aff_weights.shape(state)
        module = cls(dict.fromkeys(names, width), width, reduction=reduction, norm="batch")
        aff_weights.load(module.attention, state)
        return module


class ChannelAttention(nn.Module):
    """The logits L of MS-CAM.

    Args:
        width: ``C``.
        reduction: ``r``; ``C // r`` is at least 2, or 1 with ``norm="batch"``.
        maps: ``K``, how many logit maps.
        norm: "layer" or "batch".
    """

    def __init__(self, width: int, reduction: int = 4, *, maps: int = 1, norm: Norm = "layer") -> None:
        super().__init__()
        fewest = 2 if norm == "layer" else 1
        if reduction < 1 or width // reduction < fewest:
            raise UserError(
                f"channel attention with norm={norm!r} needs a bottleneck of {fewest} or more channels",
                f"reduction={reduction} of {width} channels",
                "choose a smaller reduction or a larger dim",
            )
        self.local, self.pooled = (Bottleneck(width, width // reduction, maps * width, norm) for _ in range(2))

    def forward(self, x: Tokens, pooled_by: ChannelAttention | None = None) -> Tensor:
        """``(B, T, K C)`` of ``(B, T, C)``; ``pooled_by`` lends its global branch."""
        mean = mean_pool(x).unsqueeze(1)
        row = x.mask[:, :1] if full(x.mask) else x.mask.any(dim=1, keepdim=True)
        return self.local(x) + (pooled_by or self).pooled(Tokens(mean, row))


class MultiScaleChannelAttention(nn.Module):
    """MS-CAM: a map times the sigmoid of its own logits. Options as for :class:`ChannelAttention`."""

    def __init__(self, width: int, reduction: int = 4, *, norm: Norm = "layer") -> None:
        super().__init__()
        self.attention = ChannelAttention(width, reduction, norm=norm)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps ``(B, C, H, W)``, or sequences ``(B, T, C)`` with a mask ``(B, T)``; the same shape comes back.

        Values under the mask count nowhere and come back as zeros.
        """
        if x.ndim == 4:
            return to_map(self(to_tokens(x).values), x)
        if mask is None:
            mask = everywhere(*x.shape[:2], device=x.device)
        tokens = zero_padding(Tokens(x, mask))
        return tokens.values * self.attention(tokens).sigmoid()

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> Self:
        """The published module from its own parameters (widths are read from them)."""
        module = cls(*aff_weights.shape(state), norm="batch")
        aff_weights.load(module.attention, state)
        return module


class Bottleneck(nn.Module):
    """``N2(W2 relu(N1(W1 x + b1)) + b2)`` at every position."""

    def __init__(self, width: int, hidden: int, out: int, norm: Norm) -> None:
        super().__init__()
        kind = nn.LayerNorm if norm == "layer" else RealBatchNorm
        self.reduce, self.expand = nn.Linear(width, hidden), nn.Linear(hidden, out)
        self.norm_hidden, self.norm_out = kind(hidden), kind(out)

    def forward(self, x: Tokens) -> Tensor:
        """``(B, T, out)`` of ``(B, T, width)``; the result lies in memory as ``x`` does."""
        values, mask = x
        if isinstance(self.norm_hidden, nn.LayerNorm):
            return self.norm_out(self.expand(self.norm_hidden(self.reduce(values)).relu_()))
        if self.training and not full(mask):
            hidden = F.relu(self.norm_hidden(self.reduce(values), mask), inplace=True)
            return self.norm_out(self.expand(hidden), mask)
        if channels_first(values):
            hidden = self.norm_hidden(pointwise(self.reduce, values.mT)).relu_()
            return self.norm_out(pointwise(self.expand, hidden)).mT
        hidden = self.norm_hidden(self.reduce(values.flatten(0, 1))).relu_()
        return self.norm_out(self.expand(hidden)).unflatten(0, values.shape[:2])


class RealBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the real positions; the batch's variance is biased, the running one is not.

    Without a mask on ``(B, C, T)`` or ``(N, C)``, as torch's own; with one on ``(B, T, C)``.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            if self.training:
                self._refuse_one(x.numel() // x.shape[1])
            return super().forward(x)
        if not self.training:
            return super().forward(x.mT).mT
        given, x = x.dtype, x.to(self.running_mean.dtype)
        real = mask.unsqueeze(-1).to(x.dtype)
        count = real.sum()
        if not mask.is_meta and not torch.compiler.is_compiling():
            self._refuse_one(int(count))
        mean = (real * x).sum(dim=(0, 1)) / count
        variance = (real * (x - mean) ** 2).sum(dim=(0, 1)) / count
        with torch.no_grad():
            rate = self.momentum or 0.0
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * count / (count - 1), rate)
        return ((x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(given)

    @staticmethod
    def _refuse_one(count: int) -> None:
        if count < 2:
            raise UserError(
                "BatchNorm cannot train on one value per channel",
                f"{count} real position in the batch (the global branch has one per row)",
                "use a larger batch, or norm='layer'",
            )


def channels_first(x: Tensor) -> bool:
    """Whether ``(B, T, C)`` lies in memory as ``(B, C, T)``: a map seen by :func:`to_tokens`."""
    return x.shape[1] > 1 and x.mT.is_contiguous()


def pointwise(linear: nn.Linear, x: Tensor) -> Tensor:
    """The linear layer at every position of ``(B, C, T)``."""
    return F.conv1d(x, linear.weight.unsqueeze(2), linear.bias)


def projected(project: nn.ModuleList, inputs: Mapping[str, Tokens]) -> list[Tokens]:
    """The modalities ``(B, T, D_m)`` in one width ``(B, T, D)``, zeros under the mask."""
    return [zero_padding(Tokens(p(t.values), t.mask)) for p, t in zip(project, inputs.values(), strict=True)]


def total(maps: Sequence[Tokens]) -> Tokens:
    """The sum ``(B, T, D)`` of the maps, real where one of them is."""
    values = sum((x.values for x in maps[1:]), start=maps[0].values)
    return Tokens(values, union([x.mask for x in maps]))


def blend(maps: Sequence[Tokens], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The maps weighted by the softmax over maps of their logits ``(B, T, (M - 1) C)``, the last one's being 0.

    Returns:
        ``sum_m w_m X_m`` ``(B, T, C)``, and the weights ``(B, T, M, C)``: 0 where a map is masked and one in sum where
        any is real. Of two maps without gaps only the first one's, ``(B, T, 1, C)``.
    """
    if len(maps) == 2 and whole(maps):
        w, first, second = logits.sigmoid(), maps[0].values, maps[1].values
        if first.dtype != second.dtype:  # under autocast what was projected is rounded, the other is not
            dtype = torch.promote_types(first.dtype, second.dtype)
            first, second = first.to(dtype), second.to(dtype)
        return torch.lerp(second, first, w.to(first.dtype)), w.unsqueeze(2)
    logits = F.pad(logits.unflatten(-1, (len(maps) - 1, -1)), (0, 0, 0, 1))
    there = torch.stack([x.mask for x in maps], dim=2).unsqueeze(-1)
    w = torch.where(there, logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(dim=2), 0.0)
    return (w * torch.stack([x.values for x in maps], dim=2)).sum(dim=2), w


def fused(names: Sequence[str], maps: Sequence[Tokens], logits: Tensor, scale: float | None) -> Fused:
    """The result of a blend; ``scale`` None counts the real maps of each position."""
    values, weights = blend(maps, logits)
    mask = union([x.mask for x in maps])
    factor: Tensor | float | None = len(maps) if scale is None and whole(maps) else scale
    if factor is None:
        factor = torch.stack([x.mask for x in maps]).sum(dim=0).unsqueeze(-1).to(values.dtype)
    tokens = Tokens(values if isinstance(factor, float) and factor == 1 else factor * values, mask)
    alone = when_read(names, lambda: [mean_pool(x) for x in maps])
    shares = mean_pool(Tokens(weights.mean(dim=-1), mask))
    if shares.shape[1] < len(maps):
        shares = torch.cat([shares, 1 - shares], dim=1)
    return Fused(mean_pool(tokens), tokens, alone, shares)


def to_tokens(x: Tensor) -> Tokens:
    """A map ``(B, C, H, W)`` as a sequence ``(B, H W, C)``, row-major."""
    values = x.flatten(2).mT
    return Tokens(values, everywhere(*values.shape[:2], device=x.device))


def to_map(values: Tensor, like: Tensor) -> Tensor:
    """A sequence ``(B, H W, C)`` as a map of the shape of ``like`` ``(B, C, H, W)``."""
    return values.mT.unflatten(2, like.shape[2:])
