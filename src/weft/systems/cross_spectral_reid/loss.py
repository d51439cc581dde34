r"""What re-identification is trained by: the batch-hard triplet loss, and batches by identity.

Batch-hard triplet loss of anchor ``a``, on Euclidean distances :math:`d` of a batch:

.. math::
    \mathrm{softplus}\big( \max_{p \in P(a)} d_{ap} - \min_{n \in N(a)} d_{an} \big),
    \quad \text{or } \max(0, \cdot + margin)

as a mean over the anchors that have a positive other than themselves and a negative; 0 if none has. Batches hold ``P``
identities with ``K`` images each; an identity with fewer than ``K`` repeats them. Hermans et al. 2017, In Defense of
the Triplet Loss (arXiv 1703.07737).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError


def batch_hard_triplet(features: Tensor, identity: Tensor, margin: float | None = None) -> Tensor:
    """The batch-hard triplet loss, a scalar, of ``features (B, D)`` and ``identity (B,)``; ``margin`` None: soft."""
    squared = (features.unsqueeze(1) - features.unsqueeze(0)).square().sum(dim=2)
    distance = squared.clamp(min=1e-12).sqrt()
    same = identity.unsqueeze(1) == identity.unsqueeze(0)
    other = same & ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    hardest = distance.masked_fill(~other, -torch.inf).amax(dim=1)
    closest = distance.masked_fill(same, torch.inf).amin(dim=1)
    usable = other.any(dim=1) & ~same.all(dim=1)
    if not usable.any():
        return features.sum() * 0.0
    gap = hardest[usable] - closest[usable]
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


def identity_order(
    identity: np.ndarray, batches: int, batch_size: int, per_identity: int, rng: np.random.Generator
) -> np.ndarray:
    """Positions ``(batches * batch_size,)``: each batch holds ``P = batch_size / K`` identities with ``K`` images each.

    Identities take turns in random order, and so do the images of each; one with fewer than ``K`` images repeats them.

    Args:
        identity: ``(N,)`` of the rows to choose from.
        per_identity: ``K``.

    Raises:
        UserError: ``K`` does not divide the batch, or there are fewer than ``P`` identities.
    """
    rows = {label: np.flatnonzero(identity == label) for label in np.unique(identity)}
    count = batch_size // per_identity if per_identity > 0 else 0
    if per_identity < 1 or batch_size % per_identity or count > len(rows):
        raise UserError(
            "a batch holds P identities with K images each",
            f"batch_size={batch_size}, K={per_identity}, {len(rows)} identities to train on",
            "choose a batch_size that is a multiple of K, and at most K times the number of identities",
        )
    turns: dict[int | str, list[int]] = {label: [] for label in rows}
    waiting: list[int | str] = []
    chosen: list[int] = []
    for _ in range(batches):
        if len(waiting) < count:
            waiting += sorted(rng.permutation(list(rows)).tolist(), key=waiting.__contains__)  # those waiting go last
        now, waiting = waiting[:count], waiting[count:]
        for label in now:
            while len(turns[label]) < per_identity:
                turns[label] += rng.permutation(rows[label]).tolist()
            chosen += turns[label][:per_identity]
            turns[label] = turns[label][per_identity:]
    return np.array(chosen, dtype=np.int64)
