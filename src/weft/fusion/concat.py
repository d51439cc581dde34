r"""Concatenation (early fusion): the baseline every other operator has to beat.

.. math:: z = f([v_1; \dots; v_M]\,W + b), \qquad v_m \in R^{D_m},\; W \in R^{\sum_m D_m \times D}

The projection of the concatenation equals the sum of one projection per modality, so an absent modality contributes
nothing; ``per_modality`` holds the terms. Cost: ``D * sum(D_m) + D`` weights.

When not to use it: it models no interaction between modalities before the head; XOR-like targets need a head with a
hidden layer, or another operator.

Source: Baltrusaitis, Ahuja, Morency, "Multimodal Machine Learning: A Survey and Taxonomy", TPAMI 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

import torch
from torch import nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import vectors
from weft.registry import Dropout
from weft.tokens import Fused, Tokens


@fusions.register("concat")
class Concat(Fusion):
    """Concatenate the pooled modalities and project once.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].
    """

    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Baltrusaitis et al., Multimodal Machine Learning: A Survey and Taxonomy, TPAMI 2019 (early fusion)"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, dropout: Dropout = 0.0) -> None:
        super().__init__(dims, dim)
        self.project = nn.Linear(sum(self.dims.values()), dim)
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        weights = self.project.weight.split(list(self.dims.values()), dim=1)
        terms = [v @ w.T for v, w in zip(vectors(inputs), weights, strict=True)]
        vector = reduce(add, terms, self.project.bias)
        return Fused(self.dropout(torch.relu(vector)), None, dict(zip(self.names, terms, strict=True)), None)
