"""The different values of a modality, known by their content, so that each is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.data.dataset import Dataset
from weft.data.failure import Failure
from weft.errors import UserError
from weft.files import sha256
from weft.store.features import rows_content
from weft.store.files import content_hash


@dataclass(frozen=True)
class Unique:
    """The different values of a modality.

    Attributes:
        values: in the order of their first row.
        digests: hash of each one's content.
        pointer: ``(N,)`` the value of each row, -1 where absent.
    """

    values: list[Any]
    digests: list[str]
    pointer: np.ndarray

    def taught(self, rows: np.ndarray) -> str:
        """A hash of what an encoder that is fitted on ``rows`` learns from: their values, in order."""
        found = self.pointer[np.asarray(rows, dtype=np.int64)]
        return values_digest([self.digests[value] for value in found[found >= 0]])


def values_digest(digests: Sequence[str]) -> str:
    """Hash of different values, in order."""
    return sha256("\n".join(digests).encode())


def unique_values(name: str, dataset: Dataset, failures: list[Failure] | None = None) -> Unique:
    """The different values of a modality, by content.

    Args:
        name: of the modality.
        dataset: the rows.
        failures: files that cannot be read are put here and count as absent; None: the first is an error.

    Raises:
        UserError: a file cannot be read; its row is named.
    """
    seen: dict[str, int] = {}
    files: dict[Path, str | OSError] = {}
    values: list[Any] = []
    pointer = np.full(len(dataset.ids), -1, dtype=np.int64)
    for row, value in enumerate(dataset.modalities[name].values):
        if value is None:
            continue
        if isinstance(value, Path):
            if value not in files:
                files[value] = _file_digest(value)
            digest = files[value]
        else:
            digest = content_hash(value)
        if isinstance(digest, OSError):
            why = f"the file cannot be read: {digest.strerror or digest}"
            if failures is None:
                raise UserError(
                    f"modality {name!r}, row {dataset.ids[row]!r}: the file cannot be read",
                    f"{value}: {digest.strerror or digest}",
                    "put the file there, or leave the cell empty: a modality may be absent "
                    "(weft encode and weft predict: --on-error skip)",
                ) from digest
            failures.append(Failure(dataset.ids[row], name, str(value), why))
            continue
        if digest not in seen:
            seen[digest] = len(values)
            values.append(value)
        pointer[row] = seen[digest]
    return Unique(values, list(seen), pointer)


def _file_digest(path: Path) -> str | OSError:
    try:
        return content_hash(path)
    except OSError as error:
        return error


def raw_fingerprint(dataset: Dataset, names: Sequence[str] | None = None) -> str:
    """Hash of raw rows: the values of some or all modalities, files by their bytes, and ids, targets, split, group."""
    unique = {name: unique_values(name, dataset) for name in names or dataset.modalities}
    return content_hash(([(n, u.digests, u.pointer) for n, u in unique.items()], rows_content(dataset)))
