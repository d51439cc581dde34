r"""Ranking loss (VSE++): the right partner scores higher than any other, by a margin, in both directions.

.. math::
    C_{ij} = [\alpha + S_{ij} - S_{ii}]_+, \quad R_{ij} = [\alpha + S_{ij} - S_{jj}]_+ \quad (i \ne j), \qquad
    L = \sum_{ij} (C_{ij} + R_{ij}) \quad\text{or}\quad L = \sum_i \max_j C_{ij} + \sum_j \max_i R_{ij}

with :math:`S_{ij} = a_i \cdot b_j` (cosine), or :math:`S_{ij} = -\|[b_j - a_i]_+\|` (order: ``a`` lies above ``b`` in
every coordinate where they match; not symmetric). Rows of one group (captions of one photo) are no violations of each
other. Both forms are sums, not means: they grow with the batch, as
published. In training the pairs of all processes are one batch.

Cost: ``N^2`` scores; order similarity takes ``N^2 D`` memory.

When not to use it: ``hardest`` from the first step often collapses: train with the sum form first.

Source: Faghri, Fleet, Kiros, Fidler, "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", BMVC 2018,
arXiv 1707.05612; Vendrov, Kiros, Fidler, Urtasun, "Order-Embeddings of Images and Language", ICLR 2016, arXiv
1511.06361.
"""

from __future__ import annotations

from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from weft.alignment.base import Objective, objectives
from weft.errors import UserError
from weft.ops.contrastive import all_groups, gather_with_grad, need_pairs, valid_pairs, whole_loss, world_size


@objectives.register("ranking")
class Ranking(Objective):
    """Hinge ranking loss over the pairs of a batch.

    Args:
        margin: :math:`\\alpha`, positive.
        hardest: only the worst violation of every row and column, instead of all.
        similarity: ``"cosine"`` or ``"order"``.

    Raises:
        UserError: the margin is not a positive number; from ``forward``, fewer than two valid pairs.
    """

    paper = "Faghri et al., VSE++, BMVC 2018, arXiv 1707.05612; Vendrov et al., ICLR 2016, arXiv 1511.06361 (order)"

    def __init__(
        self, *, margin: float = 0.2, hardest: bool = False, similarity: Literal["cosine", "order"] = "cosine"
    ) -> None:
        super().__init__()
        if not (isfinite(margin) and margin > 0):
            raise UserError("ranking: margin is a positive number", f"margin={margin}", "VSE++ uses 0.2")
        self.margin, self.hardest, self.similarity = margin, hardest, similarity

    def extra_repr(self) -> str:
        return f"margin={self.margin}, hardest={self.hardest}, similarity={self.similarity!r}"

    def forward(self, a: Tensor, b: Tensor, valid: Tensor, group: Tensor | None = None) -> Tensor:
        groups = all_groups(group, valid, self.training)
        a, b = valid_pairs(a, b, valid)
        (all_a, start), (all_b, _) = (gather_with_grad(x) if self.training else (x, 0) for x in (a, b))
        need_pairs(len(all_a), 2, "the ranking loss compares every pair with the others")
        every = torch.arange(len(all_a), device=a.device) if groups is None else groups
        own = slice(start, start + len(a))
        right = every[own, None] == every
        matched = self.score(a, all_b), self.score(all_a, b).T
        places = torch.arange(start, start + len(a), device=a.device).unsqueeze(1)
        losses = [self._violations(scores, places, right) for scores in matched]
        return whole_loss(losses[0] + losses[1], world_size() if self.training else 1)

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities ``(N, K)`` of ``a`` ``(N, D)`` and ``b`` ``(K, D)``."""
        if self.similarity == "cosine":
            return a @ b.T
        return -torch.linalg.vector_norm((b - a.unsqueeze(1)).relu(), dim=-1)

    def _violations(self, scores: Tensor, own: Tensor, right: Tensor) -> Tensor:
        """Sum over rows ``(n, N)`` whose partners are in the columns ``own`` ``(n, 1)``; others are ``right`` too."""
        excess = (self.margin + scores - scores.gather(1, own)).relu().masked_fill(right, 0.0)
        return excess.amax(dim=1).sum() if self.hardest else excess.sum()
