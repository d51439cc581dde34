"""Retrieval metrics by counting, in memory that does not grow with the gallery.

The similarity of query ``q`` and gallery item ``g`` is their dot product (cosine, for the unit vectors of an aligner).
Where a positive stands is a count of the items above it. For the ``j``-th positive of a query, in descending order of
its similarity ``s``, with ``n_above`` and ``n_equal`` the *negatives* with a similarity above ``s`` and equal to ``s``:

    rank_j = j + n_above + t n_equal,     t = 0 (optimistic), 1/2 (mean), 1 (pessimistic)

* ``R@k``: share of queries with ``rank_1 <= k`` (the convention of image-caption retrieval: one hit is enough).
* ``median rank``, ``mean rank``: of ``rank_1``.
* ``mAP``: mean over the queries of ``1/P sum_j j / rank_j``, ``P`` the number of the query's positives.
* ``R-precision``: mean over the queries of the share of its positives with ``rank_j <= P``.

``mean`` is the default for ties: it is the expected rank if ties are ordered at random, so a collapsed model, whose
similarities are all equal, scores at chance and not perfectly (``optimistic``, "strictly greater", as in much published
code).

Similarities are computed in float64 and compared as float32. That makes equal embeddings tie exactly wherever they
stand, so the result does not depend on the chunks. Cost: ``Nq Ng D`` multiply-adds and ``2 P`` passes of comparisons,
or one sort per query for queries with many positives; memory ``O(chunk^2 + chunk (D + P))`` beside the embeddings.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError, did_you_mean, some

Ties = Literal["optimistic", "mean", "pessimistic"]
TIES = {"optimistic": 0.0, "mean": 0.5, "pessimistic": 1.0}
Array = Tensor | np.ndarray
SORT_ABOVE = 32
"""Queries with more positives than this sort their negatives instead of comparing positive by positive."""

WIDEST = 65536
"""Gallery items compared at once, at most."""


class Positives(NamedTuple):
    """The positives of every query: query ``q`` has ``items[starts[q] : starts[q] + sizes[q]]``.

    Queries may share a stretch of ``items``, so identity of groups needs no list per query.
    """

    starts: np.ndarray
    sizes: np.ndarray
    items: np.ndarray

    @classmethod
    def from_groups(
        cls, queries: Sequence[Hashable] | np.ndarray, gallery: Sequence[Hashable] | np.ndarray
    ) -> Positives:
        """Gallery items of the query's own group: group of each query ``(Nq,)``, of each gallery item ``(Ng,)``."""
        _, codes = np.unique(np.concatenate([np.asarray(queries), np.asarray(gallery)]), return_inverse=True)
        ours, theirs = codes[: len(queries)], codes[len(queries) :]
        order = np.argsort(theirs, kind="stable")
        start = np.searchsorted(theirs[order], ours, side="left")
        return cls(start, np.searchsorted(theirs[order], ours, side="right") - start, order)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]] | np.ndarray) -> Positives:
        """Gallery rows of each query: one int, or several, per query."""
        rows = [np.unique(np.atleast_1d(np.asarray(r, dtype=np.int64))) for r in lists]
        count = np.array([len(r) for r in rows], dtype=np.int64)
        return cls(np.cumsum(count) - count, count, np.concatenate(rows) if rows else np.empty(0, dtype=np.int64))


class Ranking(NamedTuple):
    """What each query found; ``(Nq,)`` float64 each.

    Attributes:
        first: rank of the best positive, from 1; half ranks are possible with ``ties="mean"``.
        average_precision: in (0, 1].
        r_precision: in [0, 1].
    """

    first: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray

    def summary(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """``R@k`` for each k, ``median rank``, ``mean rank``, ``mAP``, ``R-precision``; shares are in [0, 1]."""
        return {
            **{f"R@{k}": float((self.first <= k).mean()) for k in ks},
            "median rank": float(np.median(self.first)),
            "mean rank": float(self.first.mean()),
            "mAP": float(self.average_precision.mean()),
            "R-precision": float(self.r_precision.mean()),
        }


def rank(
    queries: Array,
    gallery: Array,
    positives: Positives | Sequence[Sequence[int]] | np.ndarray,
    *,
    chunk: int = 1024,
    ties: Ties = "mean",
) -> Ranking:
    """Rank every query's positives in the gallery.

    Args:
        queries, gallery: ``(Nq, D)``, ``(Ng, D)``; tensors (on any device, where the work is done) or arrays.
        positives: which gallery rows are right: :class:`Positives`, or for each query one row or several.
        chunk: queries and gallery items per block; the block of similarities is ``chunk x min(8 chunk, 65536)``.
        ties: where negatives as similar as the positive stand: behind it, half and half, or before it.

    Raises:
        UserError: shapes do not fit, embeddings are NaN or infinite, or a query has no positive; rows are named.
    """
    if ties not in TIES:
        raise UserError("unknown rule for ties", f"ties={ties!r}", did_you_mean(ties, TIES))
    if chunk < 1:
        raise UserError("chunk is a positive number of rows", f"chunk={chunk}", "leave it at 1024")
    q, g = check_embeddings(queries, "queries").detach(), check_embeddings(gallery, "gallery").detach()
    if q.shape[1] != g.shape[1]:
        raise UserError(
            "queries and gallery live in one space",
            f"widths {q.shape[1]} and {g.shape[1]}",
            "embed both sides with the same aligner",
        )
    if not isinstance(positives, Positives):
        positives = Positives.from_lists(positives)
    _check_positives(positives, len(q), len(g))
    room = _Room(min(chunk, len(q)), min(8 * chunk, WIDEST, len(g)), q.device)
    found = [
        _rank_block(
            q[rows].double(), g, Positives(positives.starts[rows], positives.sizes[rows], positives.items), room, ties
        )
        for rows in _blocks(len(q), chunk)
    ]
    return Ranking(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def retrieval_metrics(
    queries: Array,
    gallery: Array,
    positives: Positives | Sequence[Sequence[int]] | np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 1024,
    ties: Ties = "mean",
) -> dict[str, float]:
    """The metrics of the module docstring; arguments as for :func:`rank`."""
    return rank(queries, gallery, positives, chunk=chunk, ties=ties).summary(ks)


def cross_modal_metrics(
    embeddings: Mapping[str, Array],
    groups: Mapping[str, Sequence[Hashable] | np.ndarray] | Sequence[Hashable] | np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 1024,
    ties: Ties = "mean",
) -> dict[str, float]:
    """Every modality searched by every other one, in both directions.

    Args:
        embeddings: ``{name: (N_name, D)}``, each item once: an image with five captions is one row, not five.
        groups: the group of each row, ``{name: (N_name,)}``; items of one group are positives of each other. One array
            stands for all modalities.

    Returns:
        ``{"text->image R@1": ...}`` for every ordered pair and metric, and ``"sum of recalls"``, the sum of all
        ``R@k`` of all directions (papers print a hundred times that, "rsum").

    Raises:
        UserError: fewer than two modalities, or what :func:`rank` refuses.
    """
    if len(embeddings) < 2:
        raise UserError("retrieval needs two modalities", f"{some(embeddings)}", "give embeddings of another one")
    named = groups if isinstance(groups, Mapping) else dict.fromkeys(embeddings, groups)
    found: dict[str, float] = {}
    for a, b in permutations(embeddings, 2):
        positives = Positives.from_groups(named[a], named[b])
        metrics = retrieval_metrics(embeddings[a], embeddings[b], positives, ks, chunk=chunk, ties=ties)
        found |= {f"{a}->{b} {name}": value for name, value in metrics.items()}
    found["sum of recalls"] = sum(value for name, value in found.items() if " R@" in name)
    return found


def check_embeddings(values: Array, label: str) -> Tensor:
    """Embeddings as a tensor ``(N, D)``.

    Raises:
        UserError: not two axes, no row, or NaN or infinite values; the rows are named.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.as_tensor(values)
    if tensor.ndim != 2 or not len(tensor):
        raise UserError(
            f"{label} are (N, D) embeddings, at least one row",
            f"shape {tuple(tensor.shape)}",
            "stack the vectors as rows",
        )
    bad = np.concatenate([(~torch.isfinite(tensor[b]).all(dim=1)).cpu().numpy() for b in _blocks(len(tensor), 4096)])
    if bad.any():
        raise UserError(
            f"{label} hold NaN or infinite values",
            f"rows {some(np.flatnonzero(bad).tolist())} of {len(tensor)}",
            "leave out rows whose modality is absent, and check the features of the others",
        )
    return tensor


class _Room:
    """Memory of one block of ``rows x columns`` similarities, used for all of them."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.columns = columns
        self._exact = torch.empty(rows * columns, dtype=torch.float64, device=device)
        self._rounded, self._flags = torch.empty(2, rows * columns, device=device)

    def similarities(self, q: Tensor, items: Tensor) -> Tensor:
        """``(b, n)`` float32 dot products of ``q`` ``(b, D)`` and ``items`` ``(n, D)``, both float64."""
        shape = len(q), len(items)
        exact = torch.mm(q, items.T, out=self._exact[: shape[0] * shape[1]].view(shape))
        return self._rounded[: exact.numel()].view(shape).copy_(exact)

    def flags(self, like: Tensor) -> Tensor:
        """Float32 of this shape, holding anything."""
        return self._flags[: like.numel()].view(like.shape)


def _rank_block(q: Tensor, gallery: Tensor, positives: Positives, room: _Room, ties: Ties) -> Ranking:
    """The ranking of a block of queries, ``q`` ``(b, D)`` float64."""
    count = torch.from_numpy(positives.sizes).to(q.device)
    most = int(count.max())
    slot = torch.arange(most, device=q.device)
    real = slot < count.unsqueeze(1)
    row, place = real.nonzero(as_tuple=True)
    index = torch.from_numpy(positives.starts).to(q.device)[row] + place
    item = torch.from_numpy(positives.items).to(q.device)[index]

    best = torch.full((len(q), most), torch.inf, device=q.device)
    for part in _blocks(len(row), room.columns):
        s = (q[row[part]] * gallery[item[part]].double()).sum(dim=1)
        best[row[part], place[part]] = s.float()
    best = best.masked_fill(~real, -torch.inf).sort(dim=1, descending=True).values

    above = torch.zeros(len(q), most, device=q.device, dtype=torch.int64)
    equal = torch.zeros_like(above)
    for columns in _blocks(len(gallery), room.columns):
        s = room.similarities(q, gallery[columns].double())
        inside = (item >= columns.start) & (item < columns.stop)
        s[row[inside], item[inside] - columns.start] = -torch.inf
        more, same = _count(s, best, room.flags(s))
        above += more
        equal += same
    order = slot + 1
    ranks = order + above + TIES[ties] * equal.double()
    hits = ranks <= count.unsqueeze(1)
    precision = torch.where(real, order / ranks, 0.0).sum(dim=1) / count
    return Ranking(*(x.double().cpu().numpy() for x in (ranks[:, 0], precision, hits.double().sum(dim=1) / count)))


def _count(s: Tensor, thresholds: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each row of ``s`` ``(b, n)`` lie above, and at, each of the row's ``thresholds`` ``(b, P)``.

    ``flags`` ``(b, n)`` is written over. It is float32, which sums ten times as fast as bool and is exact up to
    ``n = 2^24``.
    """
    if thresholds.shape[1] > SORT_ABOVE:
        s = s.sort(dim=1).values
        upto = torch.searchsorted(s, thresholds.contiguous(), right=True)
        return s.shape[1] - upto, upto - torch.searchsorted(s, thresholds.contiguous())
    above, equal = torch.empty_like(thresholds), torch.empty_like(thresholds)
    for place, t in enumerate(thresholds.split(1, dim=1)):
        above[:, place] = torch.gt(s, t, out=flags).sum(dim=1)
        equal[:, place] = torch.eq(s, t, out=flags).sum(dim=1)
    return above.long(), equal.long()


def _check_positives(positives: Positives, queries: int, gallery: int) -> None:
    if len(positives.sizes) != queries:
        raise UserError(
            "positives are given for every query",
            f"{len(positives.sizes)} entries for {queries} queries",
            "align the two",
        )
    without = np.flatnonzero(positives.sizes == 0)
    if len(without):
        raise UserError(
            "every query needs a positive in the gallery",
            f"queries {some(without.tolist())} have none",
            "leave these queries out, or add their items to the gallery",
        )
    if positives.items.min() < 0 or positives.items.max() >= gallery:
        raise UserError(
            f"positives are rows of the gallery, 0 to {gallery - 1}",
            f"rows from {positives.items.min()} to {positives.items.max()}",
            "count gallery rows from 0",
        )


def _blocks(rows: int, size: int) -> Iterator[slice]:
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
