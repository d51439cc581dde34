r"""Re-identification: find the same object in other cameras.

Query ``q`` ranks the gallery by cosine (the order of Euclidean distance of unit vectors) after the entries
with its identity *and* its camera are taken out. With ``rank_j`` of its ``j``-th remaining positive (where positives
and negatives are equally similar, the expected values of :mod:`weft.retrieval.metrics`):

.. math::
    AP_q = \tfrac1{P_q} \sum_j j / rank_j, \qquad CMC_k = \text{share of queries with } rank_1 \le k

A query whose identity has no image from another camera in the gallery cannot be found by anybody: it is left out of the
means, and counted. Gong et al. 2014, Person Re-Identification; Zheng et al. 2015, Market-1501 (ICCV).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.retrieval.metrics import TiedBlocks, check_embeddings, harmonic_sums
from weft.tasks.base import tasks
from weft.tasks.judge import Judge


@tasks.register("re-identification")
class ReIdJudge(Judge):
    """mAP and CMC of embeddings, queries searching a gallery; the score of a query is its average precision."""

    primary = "mAP"

    def metrics(self, outputs: np.ndarray, target: Mapping[str, np.ndarray]) -> dict[str, float]:
        """:func:`reid_metrics`, and how many ``queries`` and ``gallery`` images.

        Args:
            outputs: ``(N, D)``.
            target: ``identity``, ``camera`` and ``part`` ``(N,)``: "query", "gallery" or "both".

        Raises:
            UserError: no query, no gallery, or no query has a positive.
        """
        queries, gallery = sides(target)
        sizes = {"queries": float(queries.sum()), "gallery": float(gallery.sum())}
        return {**summarise(average_precisions(outputs, target)), **sizes}

    def scores(self, outputs: np.ndarray, target: Mapping[str, np.ndarray]) -> np.ndarray:
        """``(N,)`` average precision; NaN for gallery images and for queries without a positive."""
        queries, _ = sides(target)
        found = np.full(len(outputs), np.nan)
        found[queries] = average_precisions(outputs, target)[1]
        return found


def sides(target: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``(N,)`` bool each: which rows are queries, and which the gallery.

    Raises:
        UserError: there are none.
    """
    queries, gallery = (np.isin(target["part"], (name, "both")) for name in ("query", "gallery"))
    if not (queries.any() and gallery.any()):
        raise UserError(
            "queries search a gallery",
            f"{queries.sum()} rows of part 'query' or 'both', {gallery.sum()} of part 'gallery' or 'both'",
            "check the part column; rows that are both serve as query and gallery",
        )
    return queries, gallery


def average_precisions(outputs: np.ndarray, target: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the first positive and average precision of every query ``(Nq,)``; NaN where it has no positive."""
    queries, gallery = sides(target)
    (qi, gi), (qc, gc) = ((target[name][queries], target[name][gallery]) for name in ("identity", "camera"))
    return rank_queries(outputs[queries], outputs[gallery], qi, gi, qc, gc)


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
    labels = (query_identity, gallery_identity, query_camera, gallery_camera)
    return summarise(rank_queries(queries, gallery, *labels), ks)


def summarise(ranked: tuple[np.ndarray, np.ndarray], ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """The metrics of what :func:`rank_queries` gave, ``(Nq,)`` each.

    Raises:
        UserError: no query has a positive.
    """
    first, precision = (values[~np.isnan(values)] for values in ranked)
    if not len(first):
        raise UserError(
            "re-identification finds an identity in another camera",
            f"none of {len(ranked[0])} queries has one in the gallery",
            "check identities and cameras, or choose other rows",
        )
    shares = {f"CMC-{k}": float((first <= k).mean()) for k in ks}
    return {"mAP": float(np.mean(precision)), **shares, "left out": float(len(ranked[0]) - len(first))}


def rank_queries(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    query_identity: np.ndarray,
    gallery_identity: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the first positive and average precision of every query ``(Nq,)``; NaN where it has no positive.

    Arguments and errors as for :func:`reid_metrics`.
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
    first, precision = np.full(len(q), np.nan), np.full(len(q), np.nan)
    harmonic = harmonic_sums(len(g))
    for row, feature in enumerate(q):
        similarity = (g @ feature).float().cpu().numpy()
        same = gallery_identity == query_identity[row]
        found = np.sort(similarity[same & (gallery_camera != query_camera[row])])[::-1]
        if not len(found):
            continue
        others = np.sort(similarity[~same])
        at_most, below = np.searchsorted(others, found, "right"), np.searchsorted(others, found, "left")
        above, level = (torch.from_numpy(count)[None] for count in (len(others) - at_most, at_most - below))
        blocks = TiedBlocks.of(torch.from_numpy(found.copy())[None], torch.arange(len(found)), above, level, "mean")
        first[row], precision[row] = blocks.first_rank().item(), blocks.precisions(harmonic).mean().item()
    return first, precision
