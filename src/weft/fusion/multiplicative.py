r"""Multiplicative joint representation: the elementwise product of projected modalities.

.. math:: z = \prod_{m\ \mathrm{present}} \tanh(v_m W_m + b_m), \qquad v_m \in R^{D_m},\; W_m \in R^{D_m \times D}

A rank-one-per-unit model of the interaction of all modalities: unit ``d`` is a product of ``M`` bounded projections. An
absent modality is the identity of the product, 1, so a row with one modality has that modality's projection.

Cost: ``D * sum(D_m + 1)`` weights. Initialisation: pre-activations of variance 1 for standardised inputs, biases 0.5,
so that each factor also passes the others on; a product of zero-mean factors starts from the highest-order term alone.

When not to use it: many modalities (the product of five factors below 1 is small, and one factor near 0 cuts the
gradient of all others), or targets that are sums of effects; ``lmf`` keeps all orders.

Source: Kim, On, Lim, Kim, Ha, Zhang, "Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017, arXiv 1610.04325, for
two modalities and with a linear layer after it (here the head's, or ``mlb``). The bias of 0.5 is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import product, unit_variance_, vectors
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, whole


@fusions.register("multiplicative")
class MultiplicativeFusion(Fusion):
    """Multiply the pooled modalities, each projected and bounded by tanh.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].

    ``per_modality`` of the result holds the factors, 0 where the modality is absent.
    """

    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Kim et al., Hadamard Product for Low-rank Bilinear Pooling, ICLR 2017, arXiv 1610.04325"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, dropout: Dropout = 0.0) -> None:
        super().__init__(dims, dim)
        self.project = nn.ModuleList(unit_variance_(nn.Linear(d, dim), d) for d in self.dims.values())
        for linear in self.project:
            nn.init.constant_(linear.bias, 0.5)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        factors = kept = [p(v).tanh() for p, v in zip(self.project, vectors(inputs), strict=True)]
        if not whole(inputs.values()):
            there = [t.mask for t in inputs.values()]
            kept = [torch.where(t, f, 1.0) for t, f in zip(there, factors, strict=True)]
            factors = [torch.where(t, f, 0.0) for t, f in zip(there, factors, strict=True)]
        return Fused(self.dropout(product(kept)), None, dict(zip(self.names, factors, strict=True)), None)
