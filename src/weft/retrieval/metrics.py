r"""Retrieval metrics by counting, in memory that does not grow with the gallery.

The similarity of query ``q`` and gallery item ``g`` is their dot product (cosine, for the unit vectors of an aligner).
Where a positive stands is a count of the items above it. Positives and negatives of equal similarity form a *block*:
``t`` items stand above it, ``b`` of them positives, and it holds ``m`` items, ``p`` of them positives. With ties at
random, each of the block's positions is as likely as the others, so for a cut ``k``, discounts
:math:`d_i = 1 / \log_2(1 + i)`, grades :math:`g` and :math:`r = \min(\max(k - t, 0), m)`, the expected values are

.. math::
    \text{rank of its } j\text{-th positive} &= t + j\,\frac{m + 1}{p + 1} \\
    \text{positives within } k &= p\, r / m \\
    \text{no positive within } k \text{ (first block)} &= \binom{m - p}{r} \Big/ \binom{m}{r} \\
    \text{sum of precisions} &= \frac{p}{m} \sum_{i=1}^{m} \frac{b + 1 + (i - 1)(p - 1)/(m - 1)}{t + i} \\
    \text{DCG within } k &= \frac{\sum g}{m} \sum_{i=1}^{r} d_{t+i}

and the metrics, means over the queries, ``P`` being a query's number of positives, are

* ``R@k``: share of queries with a positive within ``k`` (the convention of image-caption retrieval: one is enough).
* ``recall@k``: positives within ``k``, as a share of ``P``. ``precision@k``: the same, as a share of ``k``.
* ``nDCG@k``: DCG as a share of that of the best order. Gains are the grades themselves, as in trec_eval; negatives have
  grade 0. Without grades every positive has 1.
* ``mAP``: sum of the precisions at the positives, over ``P``. ``R-precision``: recall at ``P``.
* ``median rank``, ``mean rank``: of the best positive, from 1.

So a collapsed model, whose similarities are all equal, scores at chance and not perfectly. ``ties="optimistic"`` puts
positives first in their block ("strictly greater", as in much published code), ``"pessimistic"`` last.

Similarities are computed in float64 and compared as float32. That makes equal embeddings tie exactly wherever they
stand, so the result does not depend on the chunks. Cost: ``Nq Ng D`` multiply-adds and ``2 P`` passes of comparisons,
or one sort per query for queries with many positives; memory ``O(chunk^2 + chunk (D + P))`` beside the embeddings.

Source of the expected values: McSherry, Najork, "Computing Information Retrieval Performance Measures Efficiently in
the Presence of Tied Scores", ECIR 2008 (the same as ``sklearn.metrics.ndcg_score`` by default); nDCG: Jarvelin,
Kekalainen, ACM TOIS 20 (2002).
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError, did_you_mean, some

Ties = Literal["optimistic", "mean", "pessimistic"]
TIES: tuple[Ties, ...] = get_args(Ties)
Empty = Literal["refuse", "skip", "zero"]
EMPTY: tuple[Empty, ...] = get_args(Empty)
Array = Tensor | np.ndarray
SORT_ABOVE = 32
"""Queries with more positives than this sort their negatives instead of comparing positive by positive."""

WIDEST = 65536
"""Gallery items compared at once, at most."""


class Positives(NamedTuple):
    """The positives of every query: query ``q`` has ``items[starts[q] : starts[q] + sizes[q]]``.

    Queries may share a stretch of ``items``, so identity of groups needs no list per query.

    Attributes:
        grades: how right each of ``items`` is, above 0; None: all alike.
    """

    starts: np.ndarray
    sizes: np.ndarray
    items: np.ndarray
    grades: np.ndarray | None = None

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
        return cls._of(rows, None)

    @classmethod
    def from_grades(cls, grades: Sequence[Mapping[int, float]]) -> Positives:
        """``{gallery row: grade}`` of each query; grades of 0 and below are negatives, as those not named.

        Raises:
            UserError: a grade is not a finite number.
        """
        kept = [{row: g for row, g in sorted(given.items()) if not g <= 0} for given in grades]
        values = [np.array(list(given.values()), dtype=np.float64) for given in kept]
        wrong = [query for query, v in enumerate(values) if not np.isfinite(v).all()]
        if wrong:
            raise UserError("grades are finite numbers", f"queries {some(wrong)} have others", "0 means: not relevant")
        return cls._of([np.array(list(given), dtype=np.int64) for given in kept], values)

    @classmethod
    def _of(cls, rows: list[np.ndarray], grades: list[np.ndarray] | None) -> Positives:
        count = np.array([len(r) for r in rows], dtype=np.int64)
        joined = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
        return cls(np.cumsum(count) - count, count, joined, None if grades is None else np.concatenate(grades))


class Ranking(NamedTuple):
    """What each query found, float64; NaN where ``empty="skip"`` left a query without positives out.

    Attributes:
        first: ``(Nq,)`` rank of the best positive, from 1; a fraction where ties are at random.
        average_precision, r_precision: ``(Nq,)`` in [0, 1].
        hits, recall, precision, ndcg: ``(Nq, K)``, one column for each of ``ks``; ``hits`` is the chance of a positive
            within ``k``: 0 or 1 but for ties.
        ks: the cuts, ``(K,)`` int64.
    """

    first: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray
    hits: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    ndcg: np.ndarray
    ks: np.ndarray

    def summary(self) -> dict[str, float]:
        """``R@k``, ``recall@k``, ``precision@k`` and ``nDCG@k`` for each k, ``median rank``, ``mean rank``, ``mAP``,
        ``R-precision``, over the queries that were asked; shares are in [0, 1]."""
        asked = ~np.isnan(self.first)
        if not asked.any():
            raise UserError("no query has a positive in the gallery", f"{len(asked)} queries", "check the groups")
        cuts = {"R": self.hits, "recall": self.recall, "precision": self.precision, "nDCG": self.ndcg}
        return {
            **{
                f"{name}@{k}": float(values[asked, place].mean())
                for name, values in cuts.items()
                for place, k in enumerate(self.ks.tolist())
            },
            "median rank": float(np.median(self.first[asked])),
            "mean rank": float(self.first[asked].mean()),
            "mAP": float(self.average_precision[asked].mean()),
            "R-precision": float(self.r_precision[asked].mean()),
        }


def rank(
    queries: Array,
    gallery: Array,
    positives: Positives | Sequence[Sequence[int]] | np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 1024,
    ties: Ties = "mean",
    empty: Empty = "refuse",
) -> Ranking:
    """Rank every query's positives in the gallery.

    Args:
        queries, gallery: ``(Nq, D)``, ``(Ng, D)``; tensors (on any device, where the work is done) or arrays.
        positives: which gallery rows are right: :class:`Positives`, or for each query one row or several.
        ks: the cuts, 1 or more each.
        chunk: queries and gallery items per block; the block of similarities is ``chunk x min(8 chunk, 65536)``.
        ties: where negatives as similar as the positive stand: behind it, at random, or before it.
        empty: what a query without a positive is: an error, left out of the means (``"skip"``), or a failure
            (``"zero"``, as in trec_eval's complete averages; its rank is infinite).

    Raises:
        UserError: shapes do not fit, embeddings are NaN or infinite, or a query has no positive; rows are named.
    """
    if ties not in TIES:
        raise UserError("unknown rule for ties", f"ties={ties!r}", did_you_mean(ties, TIES))
    if empty not in EMPTY:
        raise UserError("unknown rule for queries without a positive", f"empty={empty!r}", did_you_mean(empty, EMPTY))
    if chunk < 1:
        raise UserError("chunk is a positive number of rows", f"chunk={chunk}", "leave it at 1024")
    cuts = np.asarray(ks, dtype=np.int64)
    if cuts.ndim != 1 or (cuts < 1).any():
        raise UserError("ks are cuts of a ranking, 1 or more", f"ks={list(ks)}", "for example (1, 5, 10)")
    q, g = check_embeddings(queries, "queries").detach(), check_embeddings(gallery, "gallery").detach()
    if q.shape[1] != g.shape[1]:
        raise UserError(
            "queries and gallery live in one space",
            f"widths {q.shape[1]} and {g.shape[1]}",
            "embed both sides with the same aligner",
        )
    if not isinstance(positives, Positives):
        positives = Positives.from_lists(positives)
    _check_positives(positives, len(q), len(g), empty)
    room = _Room(min(chunk, len(q)), min(8 * chunk, WIDEST, len(g)), q.device)
    sums = _Sums(len(g), cuts, q.device)
    found = [_rank_block(q[rows].double(), g, positives, rows, room, sums, ties) for rows in _blocks(len(q), chunk)]
    fields = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    without = positives.sizes == 0
    if empty == "skip" and without.any():
        for values in fields:
            values[without] = np.nan
    return Ranking._make([*fields, cuts])


def retrieval_metrics(
    queries: Array,
    gallery: Array,
    positives: Positives | Sequence[Sequence[int]] | np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 1024,
    ties: Ties = "mean",
    empty: Empty = "refuse",
) -> dict[str, float]:
    """The metrics of the module docstring; arguments as for :func:`rank`."""
    return rank(queries, gallery, positives, ks, chunk=chunk, ties=ties, empty=empty).summary()


def cross_modal_metrics(
    embeddings: Mapping[str, Array],
    groups: Mapping[str, Sequence[Hashable] | np.ndarray] | Sequence[Hashable] | np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 1024,
    ties: Ties = "mean",
    empty: Empty = "refuse",
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
        metrics = retrieval_metrics(embeddings[a], embeddings[b], positives, ks, chunk=chunk, ties=ties, empty=empty)
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


def harmonic_sums(most: int, device: torch.device | None = None) -> Tensor:
    """``(most + 1,)`` float64: 0, 1, 1 + 1/2, ..."""
    sums = torch.zeros(most + 1, device=device, dtype=torch.float64)
    torch.cumsum(1 / torch.arange(1, most + 1, device=device, dtype=torch.float64), 0, out=sums[1:])
    return sums


class _Sums:
    """Running sums over ranks ``0 .. N``: of ``1 / i``, and of the discounts."""

    def __init__(self, gallery: int, cuts: np.ndarray, device: torch.device) -> None:
        i = torch.arange(gallery + 1, device=device, dtype=torch.float64)
        self.harmonic, self.discount = harmonic_sums(gallery, device), torch.zeros_like(i)
        torch.cumsum(1 / torch.log2(1 + i[1:]), 0, out=self.discount[1:])
        self.cuts: list[int] = np.minimum(cuts, gallery).tolist()
        self.ks = torch.from_numpy(cuts).to(device)


def _rank_block(
    q: Tensor, gallery: Tensor, positives: Positives, rows: slice, room: _Room, sums: _Sums, ties: Ties
) -> tuple[np.ndarray, ...]:
    """The fields of a ranking for a block of queries, ``q`` ``(b, D)`` float64."""
    count = torch.from_numpy(positives.sizes[rows]).to(q.device)
    most = max(int(count.max()), 1)
    slot = torch.arange(most, device=q.device)
    real = slot < count.unsqueeze(1)
    row, place = real.nonzero(as_tuple=True)
    index = torch.from_numpy(positives.starts[rows]).to(q.device)[row] + place
    item = torch.from_numpy(positives.items).to(q.device)[index]
    grades = real.double()
    if positives.grades is not None:
        grades[row, place] = torch.from_numpy(positives.grades).to(q.device)[index]

    best = torch.full((len(q), most), -torch.inf, device=q.device)
    for part in _blocks(len(row), room.columns):
        s = (q[row[part]] * gallery[item[part]].double()).sum(dim=1)
        best[row[part], place[part]] = s.float()
    ideal = grades.sort(dim=1, descending=True).values
    order = grades.argsort(dim=1, descending=ties == "optimistic", stable=True)
    order = order.gather(1, best.gather(1, order).argsort(dim=1, descending=True, stable=True))
    best, grades = best.gather(1, order), grades.gather(1, order)

    above = torch.zeros(len(q), most, device=q.device, dtype=torch.int64)
    equal = torch.zeros_like(above)
    for columns in _blocks(len(gallery), room.columns):
        s = room.similarities(q, gallery[columns].double())
        inside = (item >= columns.start) & (item < columns.stop)
        s[row[inside], item[inside] - columns.start] = -torch.inf
        more, same = _count(s, best, room.flags(s))
        above += more
        equal += same
    blocks = TiedBlocks.of(best, slot, above * real, equal * real, ties)
    within = [blocks.within(k) for k in sums.cuts]
    size = blocks.size.double()
    share = [r / size for r in within]
    total = count.clamp(min=1).unsqueeze(1)
    recall = _columns([(real * s).sum(dim=1, keepdim=True) for s in share], len(q), q.device) / total
    gain = [
        (grades / size * (sums.discount[blocks.start + r] - sums.discount[blocks.start])).sum(dim=1, keepdim=True)
        for r in within
    ]
    weights = sums.discount[1 : most + 1] - sums.discount[:most]
    most_gain = [(ideal[:, :k] * weights[:k]).sum(dim=1, keepdim=True) for k in sums.cuts]
    found = count > 0
    fields = (
        torch.where(found, blocks.first_rank(), torch.inf),
        (real * blocks.precisions(sums.harmonic)).sum(dim=1) / total[:, 0],
        (real * blocks.within(total) / size).sum(dim=1) / total[:, 0],
        _columns([blocks.hit(k) for k in sums.cuts], len(q), q.device) * found.unsqueeze(1),
        recall,
        recall * total / sums.ks,
        _columns(gain, len(q), q.device) / _columns(most_gain, len(q), q.device).masked_fill(~found.unsqueeze(1), 1.0),
    )
    return tuple(x.double().cpu().numpy() for x in fields)


def _columns(parts: list[Tensor], rows: int, device: torch.device) -> Tensor:
    """``(b, 1)`` parts side by side, ``(b, K)`` float64; there may be none."""
    return torch.cat([torch.empty(rows, 0, device=device, dtype=torch.float64), *(p.double() for p in parts)], dim=1)


class TiedBlocks(NamedTuple):
    """The block of every positive of some queries, ``(b, P)`` int64 each, best positive first; see the docstring above.

    Attributes:
        start: ``t``, items above the block.
        before: ``b``, positives among them.
        size: ``m``.
        right: ``p``.
    """

    start: Tensor
    before: Tensor
    size: Tensor
    right: Tensor

    @classmethod
    def of(cls, best: Tensor, slot: Tensor, above: Tensor, equal: Tensor, ties: Ties) -> TiedBlocks:
        """Blocks of positives with similarities ``best`` ``(b, P)``, in descending order, and negatives above and
        level with each. Not at random, every positive is a block by itself, before or after the negatives."""
        one = torch.ones_like(above)
        if ties != "mean":
            return cls(slot + above + (equal if ties == "pessimistic" else 0), slot * one, one, one)
        new = best[:, 1:] != best[:, :-1]
        begins = torch.cat([one[:, :1].bool(), new], dim=1)
        ends = torch.cat([new, one[:, :1].bool()], dim=1)
        before = torch.where(begins, slot, 0).cummax(dim=1).values
        after = torch.where(ends, slot + 1, len(slot)).flip(1).cummin(dim=1).values.flip(1)
        return cls(before + above, before, after - before + equal, after - before)

    def within(self, k: int | Tensor) -> Tensor:
        """``r``: how many positions of the block are within ``k``."""
        return torch.minimum((k - self.start).clamp(min=0), self.size)

    def first_rank(self) -> Tensor:
        """``(b,)`` expected rank of the best positive."""
        start, _, size, right = (x[:, 0].double() for x in self)
        return start + (size + 1) / (right + 1)

    def hit(self, k: int) -> Tensor:
        """``(b, 1)`` chance of a positive within ``k``."""
        size, right = self.size[:, :1], self.right[:, :1]
        r = self.within(k)[:, :1]
        few, many = torch.minimum(r, right), torch.maximum(r, right)
        missed = torch.ones_like(size, dtype=torch.float64)
        for i in range(int(few.max())):
            missed *= torch.where(i < few, (size - many - i).clamp(min=0) / (size - i).clamp(min=1).double(), 1.0)
        return 1 - missed

    def precisions(self, harmonic: Tensor) -> Tensor:
        """``(b, P)`` each positive's share of its block's sum of precisions."""
        slope = (self.right - 1) / (self.size - 1).clamp(min=1).double()
        constant = self.before + 1 - slope * (self.start + 1)
        return slope + constant / self.size * (harmonic[self.start + self.size] - harmonic[self.start])


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


def _check_positives(positives: Positives, queries: int, gallery: int, empty: Empty) -> None:
    if len(positives.sizes) != queries:
        raise UserError(
            "positives are given for every query",
            f"{len(positives.sizes)} entries for {queries} queries",
            "align the two",
        )
    without = np.flatnonzero(positives.sizes == 0)
    if len(without) and empty == "refuse":
        raise UserError(
            "every query needs a positive in the gallery",
            f"queries {some(without.tolist())} have none",
            "add their items to the gallery, or say what they count: empty='skip' or 'zero'",
        )
    if not len(positives.items):
        return
    if positives.items.min() < 0 or positives.items.max() >= gallery:
        raise UserError(
            f"positives are rows of the gallery, 0 to {gallery - 1}",
            f"rows from {positives.items.min()} to {positives.items.max()}",
            "count gallery rows from 0",
        )


def _blocks(rows: int, size: int) -> Iterator[slice]:
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
