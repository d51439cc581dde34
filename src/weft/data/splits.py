"""Rows to train, dev and test, and to folds; seeded, and no group ever in two parts.

All methods deal *units* to parts. A unit is a row, or all rows of a group. Units are shuffled by the seed, then (for
classes) ordered by class, and dealt one by one to the part that is furthest below its share: of the rows dealt so far,
``n``, part ``k`` should hold ``f_k n``; the last units go to parts that are still empty. Parts therefore meet their
fractions within one unit, and every class is spread alike; a class that would be in dev or test alone gives a unit to
train, since what was never seen cannot be learned. ``temporal``: units in the order of time are cut in three, so
training never looks ahead; rows of one moment stay together, and a group stands at its last moment. Cost O(N log N).

Only ``targets``, ``split``, ``group``, ``task`` and the length are read, so a ``Dataset`` and encoded ``Features``
split alike: same seed, same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from weft.data.targets import reads_of
from weft.errors import UserError, did_you_mean, some

Method = Literal["given", "random", "stratified", "grouped", "temporal"]
METHODS = ("given", "random", "stratified", "grouped", "temporal")
DEV_SHARE = 0.15
FRACTIONS = (0.7, 0.15, 0.15)


class Split(NamedTuple):
    """Rows of each part, sorted int64; ``dev`` chooses the epoch, ``test`` is looked at once."""

    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray


class Splittable(Protocol):
    """What a split is made from: a ``Dataset`` or ``Features``."""

    @property
    def targets(self) -> Mapping[str, np.ndarray]: ...
    @property
    def split(self) -> np.ndarray | None: ...
    @property
    def group(self) -> np.ndarray | None: ...
    @property
    def task(self) -> str: ...
    def __len__(self) -> int: ...


def make_splits(
    data: Splittable, method: str | None = None, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> Split:
    """Train, dev and test rows.

    Args:
        data: a data set or its features.
        method: ``"given"`` (the split column; without dev rows, a dev part is cut out of train, in the proportion that
            ``fractions`` has between the two), ``"grouped"`` (whole groups), ``"stratified"`` (every class of the first
            target in proportion), ``"random"``, ``"temporal"`` (the earliest rows train, the latest test). None: the
            first of these that the data allow: given, grouped, stratified for classification, random.
        fractions: of train, dev and test; they sum to 1 and may be 0 for dev or test.
        seed: of the shuffle.

    Raises:
        UserError: unknown method, fractions that do not sum to 1, nothing to split by, a part without rows, a class
            that train lacks, or a group in two parts.
    """
    shares = _check_fractions(fractions)
    method = method or _natural(data)
    if method not in METHODS:
        raise UserError("unknown split method", method, did_you_mean(method, METHODS, "methods"))
    if method == "given":
        return _given(data, shares, seed)
    if method == "temporal":
        return _taught(data, _checked(data, _in_time(data, shares), shares))
    parts = _deal(data, np.arange(len(data)), shares, method, seed)
    return _taught(data, _checked(data, _teach(data, parts), shares))


def make_folds(data: Splittable, folds: int, seed: int = 0) -> list[Split]:
    """Cross-validation: every row is in the test part of exactly one fold.

    Groups stay whole and, for classification, every class is spread over the folds. The dev part of a fold (15 % of its
    other rows) is cut in the same way. A split column is not looked at.

    Args:
        data: a data set or its features.
        folds: how many, 2 or more.
        seed: of the shuffle.

    Raises:
        UserError: fewer than 2 folds, more folds than rows or groups, or a class in a single row or group, which cannot
            be in train when it is in test.
    """
    method = _natural(data, given=False)
    units = len(data) if data.group is None else len(np.unique(data.group))
    if not 2 <= folds <= units:
        found = f"folds={folds}, {units} {'rows' if data.group is None else 'groups'}"
        raise UserError("folds are at least 2 and at most one per row or group", found, "choose another number")
    tests = _deal(data, np.arange(len(data)), np.full(folds, 1 / folds), method, seed)
    shares = np.array([1 - DEV_SHARE, DEV_SHARE])
    splits = []
    for number, test in enumerate(tests):
        rest = np.setdiff1d(np.arange(len(data)), test)
        train, dev = _teach(data, _deal(data, rest, shares, method, seed + 1 + number))
        splits.append(_taught(data, _checked(data, [train, dev, test], np.ones(3))))
    return splits


def deal(data: Splittable, rows: np.ndarray, parts: int, seed: int = 0) -> list[np.ndarray]:
    """Some rows to parts of equal size, groups whole and classes spread; a part may stay empty where there are few."""
    return _deal(data, rows, np.full(parts, 1 / parts), _natural(data, given=False), seed)


def _natural(data: Splittable, given: bool = True) -> str:
    if given and data.split is not None:
        return "given"
    if data.group is not None:
        return "grouped"
    return "stratified" if _classes(data) is not None else "random"


def _classes(data: Splittable) -> np.ndarray | None:
    """``(N,)`` class of every row, where the task has classes."""
    if not data.targets or reads_of(data.task) != "classes":
        return None
    target = next(iter(data.targets.values()))
    return target if target.ndim == 1 else None


def _check_fractions(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or (shares < 0).any() or shares[0] == 0 or abs(shares.sum() - 1) > 1e-6:
        raise UserError(
            "fractions are of train, dev and test, not negative, with a sum of 1 and some train",
            f"{tuple(fractions)}",
            f"for example {FRACTIONS}",
        )
    return shares


def _given(data: Splittable, shares: np.ndarray, seed: int) -> Split:
    if data.split is None:
        raise UserError(
            "method 'given' needs a split column", "none", "name one (train, dev, test), or use another method"
        )
    train, dev, test = (np.flatnonzero(data.split == part) for part in ("train", "dev", "test"))
    if not len(dev) and len(train):
        share = shares[1] / (shares[0] + shares[1])
        train, dev = _teach(data, _deal(data, train, np.array([1 - share, share]), _natural(data, given=False), seed))
        return _checked(data, [train, dev, test], np.array([1.0, share, 1.0]))
    return _checked(data, [train, dev, test], np.ones(3))


def _deal(data: Splittable, rows: np.ndarray, shares: np.ndarray, method: str, seed: int) -> list[np.ndarray]:
    """Deal ``rows`` to ``len(shares)`` parts."""
    if method == "grouped":
        if data.group is None:
            raise UserError("method 'grouped' needs a group column", "none", "name one, or use another method")
        unit = np.unique(data.group[rows], return_inverse=True)[1].reshape(-1)
    else:
        unit = np.arange(len(rows))
    sizes = np.bincount(unit)
    order = np.random.default_rng(seed).permutation(len(sizes))
    classes = _classes(data) if method in ("grouped", "stratified") else None
    if method == "stratified" and classes is None:
        found = f"task {data.task!r}, targets {some(data.targets) or 'none'}"
        raise UserError("method 'stratified' needs one class per row", found, "use random or grouped")
    if classes is not None:
        stratum = _majority(unit, np.unique(classes[rows], return_inverse=True)[1].reshape(-1))
        order = order[np.argsort(stratum[order], kind="stable")]
    part = np.empty(len(sizes), dtype=np.int64)
    part[order] = _parts(sizes[order].tolist(), shares.tolist())
    return [rows[part[unit] == k] for k in range(len(shares))]


def _teach(data: Splittable, parts: list[np.ndarray]) -> list[np.ndarray]:
    """The parts, with a unit of every class in the first, which is train: moved there where it was elsewhere."""
    classes = _classes(data)
    if classes is None:
        return parts
    lacking = np.setdiff1d(classes[np.concatenate(parts)], classes[parts[0]])
    for label in lacking:
        if label in classes[parts[0]]:
            continue  # it came along with a group
        row = next(row for part in parts[1:] for row in part if classes[row] == label)
        unit = np.array([row]) if data.group is None else np.flatnonzero(data.group == data.group[row])
        parts = [np.setdiff1d(part, unit) for part in parts]
        parts[0] = np.union1d(parts[0], unit)
    return parts


def _in_time(data: Splittable, shares: np.ndarray) -> list[np.ndarray]:
    """Earliest to latest rows, cut where the shares say, between two moments; a group stands at its last moment."""
    time = getattr(data, "time", None)
    if time is None:
        raise UserError(
            "method 'temporal' needs the time of each row", "none", "name a column of dates: 'time' in the YAML"
        )
    moment = np.asarray(time, dtype=np.float64)
    if data.group is not None:
        unit = np.unique(data.group, return_inverse=True)[1].reshape(-1)
        last = np.full(unit.max() + 1, -np.inf)
        np.maximum.at(last, unit, moment)
        moment = last[unit]
    order = np.argsort(moment, kind="stable")
    ends = np.round(np.cumsum(shares) * len(order)).astype(int)
    late = moment[order]
    cuts = [
        int(np.searchsorted(late, late[end - 1], side="right")) if 0 < end < len(late) else end for end in ends[:-1]
    ]
    return np.split(order, cuts)


def _parts(sizes: list[int], shares: list[float]) -> list[int]:
    """The part of every unit, in the order of dealing."""
    held = [0] * len(shares)
    empty = {k for k, share in enumerate(shares) if share > 0}
    parts, dealt = [], 0
    for position, size in enumerate(sizes):
        dealt += size
        lack = [share * dealt - rows for share, rows in zip(shares, held, strict=True)]
        choice = sorted(empty) if len(empty) >= len(sizes) - position else range(len(shares))
        part = max(choice, key=lack.__getitem__)
        held[part] += size
        empty.discard(part)
        parts.append(part)
    return parts


def _majority(unit: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The most frequent class of every unit; the first in order among equals."""
    pairs, counts = np.unique(np.stack([unit, codes], axis=1), axis=0, return_counts=True)
    best = np.lexsort((-pairs[:, 1], counts))
    majority = np.empty(unit.max() + 1, dtype=np.int64)
    majority[pairs[best, 0]] = pairs[best, 1]
    return majority


def _checked(data: Splittable, parts: list[np.ndarray], shares: np.ndarray) -> Split:
    """Refuse a part without rows where rows were asked for, and a group in two parts."""
    for name, rows, share in zip(Split._fields, parts, shares, strict=True):
        if share > 0 and not len(rows):
            raise UserError(
                f"the {name} part of the split has no rows",
                ", ".join(f"{n}: {len(r)}" for n, r in zip(Split._fields, parts, strict=True)),
                "use more rows or groups, other fractions, or method='random', 'stratified' or 'grouped'",
            )
    if data.group is not None:
        where = np.full(len(data), -1)
        for index, rows in enumerate(parts):
            where[rows] = index
        used = where >= 0
        pairs = np.unique(np.stack([np.unique(data.group, return_inverse=True)[1].reshape(-1), where])[:, used], axis=1)
        codes, counts = np.unique(pairs[0], return_counts=True)
        crossing = np.unique(data.group)[codes[counts > 1]]
        if len(crossing):
            raise UserError(
                "a group is in two parts of the split, so the test rows are known from training",
                f"{len(crossing)} groups: {some(crossing.tolist())}",
                "use method='grouped', or correct the split or group column",
            )
    return Split(*(np.sort(rows).astype(np.int64) for rows in parts))


def _taught(data: Splittable, split: Split) -> Split:
    """Refuse classes in dev or test that train lacks."""
    classes = _classes(data)
    if classes is not None:
        lost = np.setdiff1d(classes[np.concatenate(split[1:])], classes[split.train])
        if len(lost):
            counts = [f"{label}: {int((classes == label).sum())}" for label in lost.tolist()]
            raise UserError(
                "dev or test has classes that train lacks, and nothing can learn them",
                f"rows of these classes: {some(counts)}",
                "leave such rows out: list the classes to keep under 'classes' in the YAML; or join them to another "
                "class, or split in another way",
            )
    return split
