r"""Re-identification: find the same object in other cameras. Metrics, triplet loss, batches by identity.

Metrics. Query ``q`` ranks the gallery by cosine (the order of Euclidean distance of unit vectors) after the entries
with its identity *and* its camera are taken out. With ``rank_j`` of its ``j``-th remaining positive (negatives as
similar as a positive count half before it, as in :mod:`weft.retrieval.metrics`):

.. math::
    AP_q = \tfrac1{P_q} \sum_j j / rank_j, \qquad CMC_k = \text{share of queries with } rank_1 \le k

A query whose identity has no image from another camera in the gallery cannot be found by anybody: it is left out of the
means, and counted. Gong et al. 2014, Person Re-Identification; Zheng et al. 2015, Market-1501 (ICCV).

Batch-hard triplet loss of anchor ``a``, on Euclidean distances :math:`d` of a batch:

.. math::
    \mathrm{softplus}\big( \max_{p \in P(a)} d_{ap} - \min_{n \in N(a)} d_{an} \big),
    \quad \text{or } \max(0, \cdot + margin)

as a mean over the anchors that have a positive other than themselves and a negative; 0 if none has. Batches hold ``P``
identities with ``K`` images each; an identity with fewer than ``K`` repeats them. Hermans et al. 2017, In Defense of
the Triplet Loss (arXiv 1703.07737).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.retrieval.metrics import check_embeddings


def reid_metrics(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    query_identity: np.ndarray,
    gallery_identity: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """``mAP``, ``CMC-k`` for each k, and ``left out``, the queries without a positive.

    Args:
        queries, gallery: ``(Nq, D)``, ``(Ng, D)`` features of any length.
        query_identity, query_camera: ``(Nq,)``; of the gallery ``(Ng,)``.

    Raises:
        UserError: shapes do not fit, features are not finite, or no query has a positive.
    """
    q, g = (
        F.normalize(check_embeddings(x, n).double(), dim=1) for x, n in ((queries, "queries"), (gallery, "gallery"))
    )
    sizes = [len(x) for x in (query_identity, query_camera, gallery_identity, gallery_camera)]
    if sizes != [len(q), len(q), len(g), len(g)] or q.shape[1] != g.shape[1]:
        raise UserError(
            "every query and gallery feature has an identity and a camera, and all have one width",
            f"features {tuple(q.shape)} and {tuple(g.shape)}, labels {sizes}",
            "give labels of these very rows",
        )
    first, precision = [], []
    for row, feature in enumerate(q):
        similarity = (g @ feature).float().cpu().numpy()
        same = gallery_identity == query_identity[row]
        found = np.sort(similarity[same & (gallery_camera != query_camera[row])])[::-1]
        if not len(found):
            continue
        others = np.sort(similarity[~same])
        at_most, below = np.searchsorted(others, found, "right"), np.searchsorted(others, found, "left")
        order = np.arange(1, len(found) + 1)
        ranks = order + (len(others) - at_most) + 0.5 * (at_most - below)
        first.append(ranks[0])
        precision.append((order / ranks).mean())
    if not first:
        raise UserError(
            "re-identification finds an identity in another camera",
            f"none of {len(q)} queries has one in the gallery",
            "check identities and cameras, or choose other rows",
        )
    shares = {f"CMC-{k}": float((np.array(first) <= k).mean()) for k in ks}
    return {"mAP": float(np.mean(precision)), **shares, "left out": float(len(q) - len(first))}


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
