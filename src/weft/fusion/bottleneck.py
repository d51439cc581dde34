r"""Attention bottlenecks (MBT): modalities exchange information through a few shared tokens only.

.. math::
    X_m^0 &= V_m W_m + b_m && (B, T_m, D) \\
    [X_m^{l+1}; F_m^{l+1}] &= \mathrm{Block}_m^l([X_m^l; F^l]) && F^l: (B, K, D) \\
    F^{l+1} &= \mathrm{mean}_{m\ \mathrm{present}}\, F_m^{l+1} \\
    p_m &= \mathrm{mean}_t\, \mathrm{LN}(X_m^L)_t, \qquad z = \mathrm{mean}_{m\ \mathrm{present}}\, p_m && (B, D)

with ``K`` bottleneck tokens, learned at :math:`l = 0`. Every modality has blocks of its own, in which its tokens and
the bottlenecks attend to each other; :math:`b_m` is the modality embedding. What one modality writes into the
bottlenecks in one layer, another reads in the next, hence at least two layers. An absent modality does not write.

Cost: ``M L (12 D^2 + 10 D) + K D`` weights and the projections; time ``(T_m + K)^2`` per modality and layer, linear in
the number of modalities, where ``cross-attention`` takes every pair.

When not to use it: few rows, or interactions of single tokens (a word and a region), too many for ``K`` tokens.

Source: Nagrani, Yang, Arnab, Jansen, Schmid, Sun, "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021,
arXiv 2107.00135. The original reads out one class token per modality; over frozen tokens we take their mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.attention import Block
from weft.fusion.base import fusions
from weft.fusion.pooling import read_out
from weft.fusion.streams import Streams
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, concatenate, everywhere, present


@fusions.register("bottleneck")
class BottleneckFusion(Streams):
    """One transformer per modality, joined by shared bottleneck tokens.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        bottlenecks: ``K``, at least 1; the paper uses 4.
        layers: ``L``, at least 2.
        heads: attention heads; divides ``dim``.
        dropout: on the attention weights and the residual branches, in [0, 1].

    Raises:
        UserError: fewer than two layers or no bottleneck; heads do not divide ``dim``.

    ``tokens`` of the result are all modalities' tokens, one after the other.
    """

    who = "bottleneck"
    paper = "Nagrani et al., Attention Bottlenecks for Multimodal Fusion, NeurIPS 2021, arXiv 2107.00135"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        bottlenecks: int = 4,
        layers: int = 2,
        heads: int = 4,
        dropout: Dropout = 0.0,
    ) -> None:
        if layers < 2 or bottlenecks < 1:
            raise UserError(
                "bottleneck: one layer writes the bottlenecks and the next reads them",
                f"layers={layers}, bottlenecks={bottlenecks}",
                "choose at least 2 layers and 1 bottleneck",
            )
        super().__init__(dims, dim, layers)
        self.bottlenecks = nn.Parameter(torch.empty(bottlenecks, dim).normal_(std=0.02))
        self.layers = nn.ModuleList(BottleneckLayer(len(dims), dim, heads, dropout) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.dims)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        streams = self.streams(inputs)
        shared = self.bottlenecks.expand(streams[0].values.shape[0], -1, -1)
        for layer in self.layers:
            streams, shared = layer(streams, shared)
        return read_out(self.names, self.norms, streams)


class BottleneckLayer(nn.Module):
    """One transformer block per modality over its tokens and the bottlenecks, which are averaged after it.

    Args:
        modalities: their number.
        dim, heads, dropout: see :class:`~weft.fusion.attention.Block`.
    """

    def __init__(self, modalities: int, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(modalities))

    def forward(self, streams: list[Tokens], shared: Tensor) -> tuple[list[Tokens], Tensor]:
        """The next ``(B, T_m, D)`` of every modality and the next bottlenecks ``(B, K, D)``."""
        real = Tokens(shared, everywhere(*shared.shape[:2], device=shared.device))
        joint = [block(concatenate([x, real])) for block, x in zip(self.blocks, streams, strict=True)]
        there = torch.stack([present(x) for x in streams])[..., None, None]
        parts = [
            j.values.split([x.values.shape[1], shared.shape[1]], dim=1) for j, x in zip(joint, streams, strict=True)
        ]
        written = torch.where(there, torch.stack([w for _, w in parts]), 0.0).sum(dim=0)
        count = there.sum(dim=0).clamp(min=1).to(written.dtype)
        return [Tokens(v, x.mask) for (v, _), x in zip(parts, streams, strict=True)], written / count
