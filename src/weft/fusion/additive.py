r"""Additive joint representation: a (weighted) sum of projected modalities.

.. math:: z = \mathrm{relu}\Big(\sum_m a_m\, v_m W_m + b\Big), \qquad v_m \in R^{D_m},\; W_m \in R^{D_m \times D}

with :math:`a_m = 1` (``sum``), :math:`1 / M` (``mean``) or :math:`\mathrm{softmax}(\theta)_m` (``weighted``). An absent
modality's term is dropped; with ``rescale`` the others grow by :math:`\sum_m a_m / \sum_{m\ \mathrm{present}} a_m`, so
that a row with few modalities is as large as one with all.

Cost: ``D * sum(D_m) + D`` weights (and ``M`` for ``weighted``). With ``combine="sum"`` and all modalities present this
is ``concat`` with other initial weights.

When not to use it: it models no interaction before the head, as ``concat``; and where the *presence* of a modality says
something about the target, ``rescale=False`` keeps that visible.

Source: Baltrusaitis, Ahuja, Morency, "Multimodal Machine Learning: A Survey and Taxonomy", TPAMI 2019 (joint
representations). The rescaling is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import presence, vectors
from weft.registry import Dropout
from weft.tokens import Fused, Tokens


@fusions.register("additive")
class AdditiveFusion(Fusion):
    """Project every pooled modality and add.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        combine: ``"sum"``, ``"mean"``, or ``"weighted"`` (one learned scalar per modality, through a softmax).
        rescale: let the present modalities make up for the absent ones.
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].

    Raises:
        UserError: ``combine="weighted"`` with one modality, whose weight is always 1.

    ``weights`` of the result are the :math:`a_m` of every row, 0 where absent; ``per_modality`` holds :math:`v_m W_m`.
    """

    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Baltrusaitis et al., Multimodal Machine Learning: A Survey and Taxonomy, TPAMI 2019 (additive joint)"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        combine: Literal["sum", "mean", "weighted"] = "sum",
        rescale: bool = True,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        if combine == "weighted" and len(dims) == 1:
            raise UserError(
                "additive: learned weights need two modalities", "1 modality", "use combine='sum', or add a modality"
            )
        self.combine, self.rescale = combine, rescale
        self.project = nn.ModuleList(nn.Linear(d, dim, bias=False) for d in self.dims.values())
        self.bias = nn.Parameter(torch.zeros(dim))
        self.theta = nn.Parameter(torch.zeros(len(dims))) if combine == "weighted" else None
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        terms = torch.stack([p(v) for p, v in zip(self.project, vectors(inputs), strict=True)], dim=1)
        weights = self._weights(presence(inputs), terms.dtype)
        vector = torch.relu((weights.unsqueeze(-1) * terms).sum(dim=1) + self.bias)
        return Fused(self.dropout(vector), None, dict(zip(self.names, terms.unbind(1), strict=True)), weights)

    def _weights(self, there: Tensor, dtype: torch.dtype) -> Tensor:
        """The coefficients ``a_m`` of every row, ``(B, M)``."""
        if self.theta is not None:
            base = self.theta.softmax(dim=0)
        else:
            base = there.new_ones(len(self.names), dtype=dtype)
            base = base / len(self.names) if self.combine == "mean" else base
        kept = there * base
        if not self.rescale:
            return kept
        total = kept.sum(dim=1, keepdim=True)
        return kept * base.sum() / torch.where(total > 0, total, 1.0)
