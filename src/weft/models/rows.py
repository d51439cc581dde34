"""Checks on features before a batch is made: the modalities, the target column, rows that hold nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from weft.errors import UserError, did_you_mean, some

if TYPE_CHECKING:
    from weft.store import Features


def select(features: Features, names: Sequence[str]) -> Features:
    """The features of these modalities alone.

    Raises:
        UserError: one of them is not there.
    """
    missing = [name for name in names if name not in features.dims]
    if missing:
        raise UserError(
            "the features lack a modality of the model",
            some(missing),
            did_you_mean(missing[0], features.dims, "modalities here"),
        )
    return features if tuple(features.dims) == tuple(names) else features.subset(list(names))


def choose_target(features: Features, column: str | None) -> tuple[str, np.ndarray]:
    """Name and values of the target column: ``column``, or the first.

    Raises:
        UserError: there is no such column.
    """
    name = next(iter(features.targets), "") if column is None else column
    if name not in features.targets:
        raise UserError(
            "there is no such target column",
            f"target={column!r}; columns: {some(features.targets) or 'none'}",
            did_you_mean(name, features.targets, "columns"),
        )
    return name, features.targets[name]


def with_target(features: Features, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows`` whose ``target`` is there; in new tables it may be missing.

    Raises:
        UserError: it is there in none.
    """
    gone = np.array([value is None or np.any(value != value) for value in target[rows].tolist()], dtype=bool)
    if gone.all():
        found = f"{len(rows)} rows: {some(features.ids[row] for row in rows)}"
        raise UserError("no row has a target to be judged by", found, "give rows with a target, or ask for predictions")
    return rows[~gone]


def refuse_empty_rows(features: Features, rows: np.ndarray) -> None:
    """Refuse rows ``(n,)`` in which every modality is absent, by id."""
    empty = rows[~features.presence[rows].any(axis=1)]
    if len(empty):
        raise UserError(
            "every modality is absent in a row",
            f"ids {some([features.ids[row] for row in empty.tolist()])}, of modalities {some(features.dims)}",
            "leave these rows out, or give them at least one modality",
        )


def refuse_no_pairs(features: Features, parts: tuple[np.ndarray, np.ndarray]) -> None:
    """Refuse train or dev rows of which fewer than two have both modalities of a pair: there is nothing to align."""
    for part, rows in zip(("train", "dev"), parts, strict=True):
        for (i, a), (j, b) in combinations(enumerate(features.dims), 2):
            pairs = int((features.presence[rows, i] & features.presence[rows, j]).sum())
            if pairs < 2:
                raise UserError(
                    f"two or more {part} rows have both {a!r} and {b!r}",
                    f"{pairs} of {len(rows)} do; {a!r} is in {int(features.presence[rows, i].sum())}, "
                    f"{b!r} in {int(features.presence[rows, j].sum())}",
                    "leave out the modality that is absent, or check the column it was read from and the split",
                )


def refuse_absent(features: Features, rows: np.ndarray, who: str) -> None:
    """Refuse rows ``(n,)`` in which any modality is absent, by id, for an operator that cannot do without."""
    partial = rows[~features.presence[rows].all(axis=1)]
    if len(partial):
        raise UserError(
            f"{who} cannot do without a modality",
            f"{len(partial)} rows lack one, ids {some([features.ids[row] for row in partial.tolist()])}",
            "drop those rows, or use an operator with absent = 'native' or 'fill' (weft list)",
        )


def refuse_no_rows(part: str, rows: np.ndarray) -> None:
    """Refuse a split without rows ``(n,)``."""
    if not len(rows):
        raise UserError(
            f"the {part} split has no rows", "0 rows", "training needs both train and dev rows (weft.data.make_splits)"
        )
