r"""Mutual nearest neighbours: do two representations of the same rows agree on who is near whom?

.. math:: \frac{1}{n} \sum_i \frac{|\mathrm{kNN}_X(i) \cap \mathrm{kNN}_Y(i)|}{k}, \qquad k = \lceil 2 n^{1/3} \rceil

with the ``k`` nearest other rows by cosine; 1 for equal neighbourhoods, :math:`k / (n - 1)` by chance. Encoders, and
layers of encoders, with a high overlap are aligned with few pairs. Cost: two ``n x n`` matrices, chunked.

Source: Huh, Cheung, Wang, Isola, "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987; as a choice of
layers: Groger et al., NeurIPS 2025, arXiv 2506.16895.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError

CHUNK = 1024


def mutual_knn(x: Tensor, y: Tensor, k: int | None = None) -> float:
    """Overlap of the neighbours of ``x`` ``(n, D)`` and ``y`` ``(n, E)``.

    Raises:
        UserError: the rows differ in number, or ``k`` is not 1 to ``n - 1``.
    """
    n = len(x)
    k = ceil(2 * n ** (1 / 3)) if k is None else k
    if len(y) != n or not 1 <= k < n:
        found = f"{n} and {len(y)} rows, k={k}"
        raise UserError("mutual neighbours are of the same rows, more than k of them", found, "give more rows")
    return overlap(nearest(x, k), nearest(y, k))


def overlap(first: Tensor, second: Tensor) -> float:
    """Share of neighbours ``(n, k)`` of each row that are in both, mean over the rows."""
    both = torch.cat([first, second], dim=1).sort(dim=1).values
    return float((both[:, 1:] == both[:, :-1]).sum(dim=1).double().mean() / first.shape[1])


def nearest(x: Tensor, k: int) -> Tensor:
    """The ``k`` nearest other rows of each of ``x`` ``(n, D)``, by cosine: ``(n, k)``."""
    unit, parts = F.normalize(x.float(), dim=1), []
    for start in range(0, len(unit), CHUNK):
        s = unit[start : start + CHUNK] @ unit.T
        own = torch.arange(len(s), device=s.device)
        s[own, own + start] = -torch.inf
        parts.append(s.topk(k, dim=1).indices)
    return torch.cat(parts)
