"""Who hears whom: the nearest rows in each view.

Distances are Euclidean between features scaled by the mean and the population standard deviation of the training rows.
**Transductive**, as published: all rows that are known are nodes, their labels are not looked at. **Inductive**: a new
row hears training rows alone and nobody hears it, so its answer does not depend on the other rows asked about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from weft.errors import UserError


def standardised(view: np.ndarray, train: np.ndarray) -> np.ndarray:
    """A view ``(N, D)`` by mean and standard deviation of the rows ``train``; a constant column becomes 0.

    Raises:
        UserError: no training row has the view.
    """
    known = view[train]
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        raise UserError("every view is there in some training row", "a view without any", "leave the view out")
    scale = known.std(axis=0)
    return (view - known.mean(axis=0)) / np.where(scale > 1e-12 * np.abs(known).max(axis=0), scale, np.inf)


def nearest(views: Sequence[np.ndarray], k: int, heard: np.ndarray | None = None, method: str = "exact") -> np.ndarray:
    """``(V, N, k)`` int64: in each view the ``k`` nearest other rows, nearest first; -1 where there are fewer.

    Args:
        views: standardised ``(N, D_v)``; a row that is not finite is not there.
        k: neighbours of a node.
        heard: rows that may be heard; None: all (transductive).
        method: ``"exact"``, or ``"faiss"`` (the same, faster on many rows, in float32).
    """
    if k < 1:
        raise UserError("a node has one or more rows as neighbours", f"k={k}", "choose k of 1 or more")
    found = np.full((len(views), len(views[0]), k), -1, dtype=np.int64)
    for view, out in zip(views, found, strict=True):
        there = np.isfinite(view).all(axis=1)
        known = np.flatnonzero(there) if heard is None else heard[there[heard]]
        asked = np.flatnonzero(there)
        if not len(known) or not len(asked):
            continue
        most = min(k + 1, len(known))
        places = _search(view[known], view[asked], most, method)
        for row, near in zip(asked, known[places], strict=True):
            near = near[near != row][:k]
            out[row, : len(near)] = near
    return found


def _search(known: np.ndarray, asked: np.ndarray, count: int, method: str) -> np.ndarray:
    if method == "exact":
        return (
            NearestNeighbors(n_neighbors=count, algorithm="brute").fit(known).kneighbors(asked, return_distance=False)
        )
    if method != "faiss":
        raise UserError("neighbours are found by 'exact' or 'faiss'", repr(method), "choose one of them")
    import faiss

    index = faiss.IndexFlatL2(known.shape[1])
    index.add(np.ascontiguousarray(known, dtype=np.float32))
    return index.search(np.ascontiguousarray(asked, dtype=np.float32), count)[1]
