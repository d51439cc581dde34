r"""ConVIRT: two-layer projections of two towers, under InfoNCE in which one direction weighs more.

The aligner, for tokens ``V`` ``(B, T, D_m)`` of modality ``m`` and their pooled vector ``v``:

.. math:: e_m = W_m^{(2)} \mathrm{relu}(W_m^{(1)} v_m), \qquad z_m = e_m / \|e_m\|

with the mean over the tokens for the first modality (the image) and the maximum for all others (texts), as published.
The objective, with unit vectors ``a, b`` ``(N, D)``:

.. math::
    L = -\frac{1}{N} \sum_i \Big(\lambda \log \frac{e^{a_i \cdot b_i / \tau}}{\sum_j e^{a_i \cdot b_j / \tau}}
        + (1 - \lambda) \log \frac{e^{a_i \cdot b_i / \tau}}{\sum_j e^{a_j \cdot b_i / \tau}}\Big)

where ``a`` is the first modality, whose search for its text has the weight :math:`\lambda = 0.75`; :math:`\tau = 0.1`.
In training the pairs of all processes are one batch, and rows of one group are partners of each other, as in
``infonce``; see :mod:`weft.ops.contrastive`.

The published system trains its towers too (``weft fit --train-towers``), by Adam with lr 1e-4 and decay 1e-6 in batches
of 32, on augmented images; on frozen features (``weft fit`` on a store) the projections alone train.

Cost: ``dim * sum(D_m + 1) + M (dim^2 + dim)`` weights and ``N^2`` logits.

When not to use it: both directions matter equally, or the temperature should be learned: ``infonce``; few pairs, whose
towers overfit: freeze them.

Source: Zhang, Jiang, Miura, Manning, Langlotz, "Contrastive Learning of Medical Visual Representations from Paired
Images and Text", MLHC 2022, arXiv 2010.00747.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Literal

import torch
from torch import Tensor, nn

from weft.alignment.base import Aligner, Objective, aligners, objectives
from weft.errors import UserError
from weft.ops.contrastive import info_nce
from weft.tokens import Tokens, mean_pool, present

PAPER = "Zhang et al., ConVIRT, MLHC 2022, arXiv 2010.00747"
Pooling = Literal["mean", "max"]


@aligners.register("convirt")
class Projections(Aligner):
    """A pooled vector and a projection with one hidden layer per modality.

    Args:
        dims, dim: see :class:`~weft.alignment.base.Aligner`; the paper has ``dim`` 512, hidden layer included.
        pooling: of every modality; None: the mean for the first, the maximum for the others.

    Raises:
        UserError: not one pooling per modality.
    """

    objective = "convirt"
    paper = PAPER

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, pooling: tuple[Pooling, ...] | None = None) -> None:
        super().__init__(dims, dim)
        first: list[Pooling] = ["mean"]
        rest: list[Pooling] = ["max"] * (len(dims) - 1)
        self.pooling = pooling or (*first, *rest)
        if len(self.pooling) != len(dims):
            raise UserError("convirt: one pooling per modality", f"{self.pooling} for {len(dims)}", "name each one")
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim)) for width in self.dims.values()
        )

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        index = self.names.index(name)
        pool = mean_pool if self.pooling[index] == "mean" else max_pool
        return self.project[index](pool(tokens))


def max_pool(tokens: Tokens) -> Tensor:
    """Maximum over the real tokens, ``(B, D)``; zeros where the modality is absent."""
    most = tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    return torch.where(present(tokens).unsqueeze(1), most, 0.0)


@objectives.register("convirt")
class ConVIRT(Objective):
    """Weighted InfoNCE.

    Args:
        temperature: :math:`\\tau`, positive.
        weight: :math:`\\lambda` of the search from the first modality to the second, 0 to 1.

    Raises:
        UserError: ``temperature`` or ``weight`` is out of range; from ``forward``, fewer than two valid pairs.
    """

    paper = PAPER

    def __init__(self, *, temperature: float = 0.1, weight: float = 0.75) -> None:
        super().__init__()
        if not (isfinite(temperature) and temperature > 0):
            raise UserError("convirt: temperature is a positive number", f"temperature={temperature}", "0.1 is usual")
        if not 0 <= weight <= 1:
            raise UserError("convirt: weight is between 0 and 1", f"weight={weight}", "the paper uses 0.75")
        self.temperature, self.weight = temperature, weight

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, weight={self.weight}"

    def forward(self, a: Tensor, b: Tensor, valid: Tensor, group: Tensor | None = None) -> Tensor:
        return info_nce(a, b, valid, 1 / self.temperature, group=group, weight=self.weight, gather=self.training)
