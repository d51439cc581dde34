"""What a model saw: the rows it was trained on, chosen by and tested on, so that later verbs know which are new to it.

A row is known by its id. Where a table has no ids its rows are numbered, and a number says nothing about another table:
numbered rows are known again only in the same table, told by a hash of its ids and targets.

Ids are kept as 64-bit hashes: two of a million differ in all but one of 4e7 cases, and no id leaves the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch

from weft.data import Dataset
from weft.errors import UserError, did_you_mean
from weft.files import canonical, read_tensors, sha256, write_tensors
from weft.models.raw import table_of
from weft.store import Store

NAME = "seen.safetensors"
PARTS = ("train", "dev", "test")


class Rows(Protocol):
    """Rows with ids and targets: a ``Dataset`` or ``Features``."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def targets(self) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True)
class Seen:
    """The rows behind a model.

    Attributes:
        parts: ``{"train" | "dev" | "test": (n,) int64}`` hashes of ids.
        table: hash of all ids and targets of the data it came from.
        numbered: the ids were row numbers.
        fingerprint: of the features it was trained on.
    """

    parts: dict[str, np.ndarray]
    table: str
    numbered: bool
    fingerprint: str = ""

    @classmethod
    def of(cls, data: Rows, split: Sequence[np.ndarray], fingerprint: str = "") -> Self:
        """Rows of ``split`` (train, dev, test row numbers) of some data."""
        hashes = _hashes(data.ids)
        parts = {part: hashes[rows] for part, rows in zip(PARTS, split, strict=True)}
        return cls(parts, _table(data), _numbered(data), fingerprint)

    def part_of(self, data: Rows) -> np.ndarray:
        """``(N,)``: "train", "dev", "test", or "" for a row that the model has not seen.

        A row in several parts (folds) counts as the first of them. Rows that are known by their number only are those
        of the same table, to which others may have been appended since, or which had rows that were left out.
        """
        found, hashes = np.full(len(data.ids), "", dtype="<U5"), _hashes(data.ids)
        if self.numbered:
            then = np.flatnonzero(np.isin(hashes, np.concatenate(list(self.parts.values()))))
            if self.table not in (_table(data), _table(data, then)):
                return found
        for part in reversed(PARTS):
            found[np.isin(hashes, self.parts[part])] = part
        return found

    def save(self, folder: Path) -> None:
        """Write the file into a model's folder."""
        tensors = {part: torch.from_numpy(rows) for part, rows in self.parts.items()}
        about = {"table": self.table, "numbered": str(int(self.numbered)), "fingerprint": self.fingerprint}
        write_tensors(folder / NAME, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What :meth:`save` wrote; None where a model came without."""
        if not (folder / NAME).exists():
            return None
        tensors, about = read_tensors(folder / NAME)
        parts = {part: tensors[part].numpy() for part in PARTS}
        return cls(parts, about["table"], about["numbered"] == "1", about["fingerprint"])


def rows_for(seen: Seen | None, data: Rows, part: str) -> np.ndarray:
    """Numbers of the rows of ``data`` that were ``part`` to a model.

    Args:
        seen: what the model saw; None where that is not known.
        data: the rows it is asked about, of any table.
        part: ``"train"``, ``"dev"``; ``"test"``: the rows it was neither trained on nor chosen by, new ones
            included; ``"new"``: those it has never met; ``"all"``.

    Raises:
        UserError: an unknown part, no such row, or it is not known what the model saw.
    """
    if part not in (*PARTS, "new", "all"):
        raise UserError("unknown split", repr(part), did_you_mean(part, (*PARTS, "new", "all"), "splits"))
    if part == "all":
        return np.arange(len(data.ids))
    if seen is None:
        raise UserError(
            "it is not known which rows this model was trained on",
            "it was saved by hand, without what it saw",
            "ask for all rows if none of them served in training (--split all)",
        )
    parts = seen.part_of(data)
    found = np.flatnonzero(np.isin(parts, {"test": ["test", ""], "new": [""]}.get(part, [part])))
    if not len(found):
        counts = ", ".join(f"{name or 'new'} {int((parts == name).sum())}" for name in (*PARTS, ""))
        raise UserError(
            f"no row here is {part} to the model", f"{len(parts)} rows: {counts}", "ask for another, or give other rows"
        )
    return found


def _hashes(ids: Sequence[str]) -> np.ndarray:
    digests = b"".join(hashlib.sha256(str(row).encode()).digest()[:8] for row in ids)
    return np.frombuffer(digests, dtype=np.int64)


def _table(data: Rows, rows: np.ndarray | None = None) -> str:
    """Hash of the ids and targets, of all rows or of some."""
    chosen = list(range(len(data.ids))) if rows is None else rows.tolist()
    targets = {name: [str(v) for v in np.asarray(values)[chosen].tolist()] for name, values in data.targets.items()}
    return sha256(canonical([[data.ids[row] for row in chosen], targets]))[:16]


def _numbered(data: Rows) -> bool:
    """Whether the ids are row numbers: those of a table without ids, some of whose rows may have been left out."""
    table = data.table if isinstance(data, Dataset) else table_of(data) if isinstance(data, Store) else None
    if table is not None:
        return table["id"] is None
    return all(str(row) == str(number) for number, row in enumerate(data.ids))
