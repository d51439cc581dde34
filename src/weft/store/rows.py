"""The table of rows of a store as values: read back, checked against the rows that come, and added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq

from weft.data.dataset import Dataset
from weft.errors import UserError, some
from weft.files import sha256
from weft.store.files import ROWS, rows_bytes, to_numpy


@dataclass(frozen=True)
class RowTable:
    """Rows of a store.

    Attributes:
        ids, targets, split, group: as of a :class:`~weft.data.dataset.Dataset`.
        pointers: ``{modality: (N,)}`` the value of each row, -1 where absent.
    """

    ids: list[str]
    targets: dict[str, np.ndarray]
    split: np.ndarray | None
    group: np.ndarray | None
    pointers: dict[str, np.ndarray]

    @classmethod
    def of(cls, dataset: Dataset, pointers: dict[str, np.ndarray]) -> Self:
        """The rows of a data set."""
        return cls(dataset.ids, dataset.targets, dataset.split, dataset.group, pointers)

    @classmethod
    def read(cls, folder: Path, manifest: Mapping[str, Any]) -> Self | None:
        """The rows of a finished store; None where the file is not the one that the manifest, or the one before the
        last rows were added, speaks of."""
        path, said = folder / ROWS, manifest["rows"]
        if not path.is_file() or sha256(path.read_bytes()) not in (said["sha256"], said.get("before")):
            return None
        table = pq.read_table(path)
        split, group = (to_numpy(table[name]) if name in table.column_names else None for name in ("split", "group"))
        targets = {name: to_numpy(table[f"target/{name}"]) for name in manifest["targets"]}
        pointers = {name: to_numpy(table[f"value/{name}"]) for name in manifest["order"]}
        return cls(table["id"].to_pylist(), targets, split, group, pointers)

    def to_bytes(self) -> bytes:
        """The file."""
        return rows_bytes(self.ids, self.targets, self.split, self.group, self.pointers)

    def present(self) -> np.ndarray:
        """``(N,)`` whether a row has any modality."""
        return np.any([pointer >= 0 for pointer in self.pointers.values()], axis=0)

    def take(self, rows: np.ndarray) -> RowTable:
        """Some rows ``(n,)``."""
        return RowTable(
            [self.ids[row] for row in rows],
            {name: values[rows] for name, values in self.targets.items()},
            None if self.split is None else self.split[rows],
            None if self.group is None else self.group[rows],
            {name: pointer[rows] for name, pointer in self.pointers.items()},
        )

    def places(self, ids: list[str]) -> np.ndarray:
        """``(n,)`` where these rows stand, -1 where they are not there."""
        at = {row: place for place, row in enumerate(self.ids)}
        return np.array([at.get(row, -1) for row in ids], dtype=np.int64)

    def split_for(self, dataset: Dataset, part: str) -> np.ndarray | None:
        """``(n,)`` parts of rows: as they have here, else as their group has, else ``part``."""
        if self.split is None:
            return None
        found = np.full(len(dataset.ids), part, dtype="<U5")
        if self.group is not None and dataset.group is not None:
            known = dict(zip(self.group.tolist(), self.split.tolist(), strict=True))
            found = np.array([known.get(group, part) for group in dataset.group.tolist()], dtype="<U5")
        here = self.places(dataset.ids)
        found[here >= 0] = self.split[here[here >= 0]]
        return found

    def check_facts(self, other: RowTable) -> None:
        """Refuse rows to add that say other things of themselves, or, where they are there already, something else.

        Raises:
            UserError: other targets or types of targets, a split or group on one side alone, or a row that is there and
                has another target, split or group now.
        """
        mine, theirs = self._facts(), other._facts()
        if set(mine) != set(theirs):
            raise UserError(
                "rows that are added have the columns of the store",
                f"{some(sorted(mine))} there, {some(sorted(theirs))} now",
                "give the new rows the same target, split and group columns",
            )
        here = self.places(other.ids)
        both = np.flatnonzero(here >= 0)
        for name, old in mine.items():
            new = theirs[name]
            if _sort(old) != _sort(new) or old.shape[1:] != new.shape[1:]:
                found = f"{old.dtype} {old.shape[1:]} there, {new.dtype} {new.shape[1:]} now"
                raise UserError(f"{name} of the rows to add is of another type", found, "write it as it is there")
            equal = old[here[both]] == new[both]
            same = equal.all(axis=1) if equal.ndim == 2 else equal
            if not same.all():
                raise UserError(
                    f"rows that are in the store have another {name} now",
                    f"rows {some([other.ids[row] for row in both[~same]])}",
                    "give new rows ids of their own; to change what is known of old ones, encode all rows again",
                )

    def _facts(self) -> dict[str, np.ndarray]:
        known = {"split": self.split, "group": self.group}
        return {f"target {name!r}": values for name, values in self.targets.items()} | {
            name: values for name, values in known.items() if values is not None
        }

    def plus(self, other: RowTable) -> RowTable:
        """These rows, each with what ``other`` has of it where it lacked it, and then the new rows of ``other``."""
        here = self.places(other.ids)
        new, both = np.flatnonzero(here < 0), np.flatnonzero(here >= 0)
        filled = {}
        for name, pointer in self.pointers.items():
            filled[name] = pointer.copy()
            was, now = pointer[here[both]], other.pointers[name][both]
            filled[name][here[both]] = np.where(was < 0, now, was)
        added = other.take(new)
        return RowTable(
            self.ids + added.ids,
            {name: np.concatenate([values, added.targets[name]]) for name, values in self.targets.items()},
            None if self.split is None or added.split is None else np.concatenate([self.split, added.split]),
            None if self.group is None or added.group is None else np.concatenate([self.group, added.group]),
            {name: np.concatenate([pointer, added.pointers[name]]) for name, pointer in filled.items()},
        )


def _sort(values: np.ndarray) -> str:
    """What a column holds: words, whole numbers or fractions."""
    return {"U": "words", "O": "words", "S": "words", "b": "i", "u": "i"}.get(values.dtype.kind, values.dtype.kind)
