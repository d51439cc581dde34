"""What the rooms below read: rows of features by modality, from disk or from memory.

:class:`Features` is the protocol; :class:`~weft.store.store.Store` (memory-mapped) and :class:`MemoryFeatures` keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch

from weft.errors import UserError, did_you_mean, some
from weft.store.column import Column
from weft.store.files import content_hash
from weft.tokens import Tokens


class RowFacts(Protocol):
    """What features say of their rows; see :class:`Features`."""

    ids: list[str]
    targets: dict[str, np.ndarray]
    labels: dict[str, tuple[str, ...]]
    split: np.ndarray | None
    group: np.ndarray | None
    task: str


class Features(RowFacts, Protocol):
    """Encoded rows.

    Attributes:
        ids: one per row, unique.
        dims: ``{modality: D}``, in the order of the modalities.
        presence: ``(N, M)`` bool, columns in the order of ``dims``.
        targets: ``{column: (N,) or (N, K)}``.
        labels: ``{column: names of the K entries}`` where a target has names.
        split, group: ``(N,)`` or None, see :class:`weft.data.dataset.Dataset`.
        task: what the data set is for.
        fingerprint: of all that is above and of the values; equal only where all of it is equal.
    """

    @property
    def dims(self) -> dict[str, int]: ...

    @property
    def presence(self) -> np.ndarray: ...

    @property
    def lengths(self) -> dict[str, np.ndarray]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> dict[str, Tokens]: ...

    def pooled(self, rows: np.ndarray) -> dict[str, np.ndarray]: ...

    def subset(self, names: Iterable[str]) -> Features: ...

    def fitted(self, rows: np.ndarray) -> Features: ...

    def cells(self) -> dict[str, tuple[Any, ...]]: ...


def rows_content(rows: Any) -> tuple[Any, ...]:
    """All that rows hold beside their values, in a form that :func:`~weft.store.files.content_hash` takes."""
    return rows.ids, rows.targets, rows.labels, rows.split, rows.group, rows.task


class ColumnFeatures(RowFacts):
    """Features made of one :class:`~weft.store.column.Column` per modality."""

    def _set_columns(self, columns: dict[str, Column]) -> None:
        self._columns = columns
        self.__dict__.pop("fingerprint", None)
        self.dims = {name: column.width for name, column in columns.items()}
        self.presence = np.stack([column.presence for column in columns.values()], axis=1)
        self._empty = np.logical_not(self.presence.any(axis=1))
        self._some_empty = bool(self._empty.any())
        self.lengths = {name: column.lengths for name, column in columns.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, targets, labels, split, group, task and of all values, in the order of the modalities."""
        columns = [(name, column.fingerprint) for name, column in self._columns.items()]
        return content_hash((columns, rows_content(self)))

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, rows: np.ndarray) -> dict[str, Tokens]:
        """A batch: ``{modality: Tokens}`` in float32, padded to the longest row of the batch.

        Args:
            rows: ``(n,)`` row numbers, in any order, repeats allowed.

        Raises:
            UserError: a number outside ``0 .. N-1``, or a row in which every modality is absent.
        """
        rows = self._check(rows)
        if self._some_empty and self._empty[rows].any():
            raise UserError(
                "a batch has rows in which every modality is absent",
                f"rows {some(self.ids[row] for row in rows[self._empty[rows]])} lack all of {some(self.dims)}",
                "leave them out: features.presence.any(axis=1) says which rows have something",
            )
        return {name: column.gather(rows) for name, column in self._columns.items()}

    def pooled(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``{modality: (n, D) float32}`` means over the tokens; a row of NaN where the modality is absent.

        Raises:
            UserError: a number outside ``0 .. N-1``.
        """
        rows = self._check(rows)
        return {name: column.pooled(rows) for name, column in self._columns.items()}

    def subset(self, names: Iterable[str]) -> Self:
        """The same rows with fewer modalities, in the order given; nothing is copied.

        Raises:
            UserError: an unknown modality, or none.
        """
        names = list(dict.fromkeys(names))
        unknown = [name for name in names if name not in self.dims]
        if unknown or not names:
            raise UserError(
                "a subset names one or more modalities of these features",
                f"unknown: {some(unknown)}" if unknown else "no name",
                did_you_mean(unknown[0] if unknown else "", self.dims, "modalities"),
            )
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part._set_columns({name: self._columns[name] for name in names})
        return part

    def fitted(self, rows: np.ndarray) -> Self:
        """The same rows under encoders that learned from ``rows`` alone; here nothing is known of encoders."""
        return self

    def cells(self) -> dict[str, tuple[Any, ...]]:
        """``{column: its cells}`` behind the features, where they are known; here they are not."""
        return {}

    def _check(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.dtype == bool or not np.issubdtype(rows.dtype, np.integer):
            if rows.size:
                raise UserError("rows are given by number", f"{rows.dtype}", "use np.flatnonzero() on a boolean mask")
            rows = rows.astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.ids)):
            wrong = rows[(rows < 0) | (rows >= len(self.ids))]
            raise UserError(
                "row numbers are 0 .. N-1", f"{some(wrong.tolist())} with N = {len(self.ids)}", "check them"
            )
        return rows


class MemoryFeatures(ColumnFeatures):
    """Features that are in memory already.

    Args:
        ids: one per row.
        modalities: ``{name: (N, D) array}`` (a row of NaN is absent, as in what ``pooled`` returns), or
            ``{name: list of (T, D) arrays, None where absent}``.
        targets: ``{column: (N,) or (N, K)}``.
        split, group: ``(N,)``.
        task: what the rows are for.
        labels: ``{column: names}`` of ``(N, K)`` targets.
        dims: ``{modality: D}`` of modalities that may be absent in every row.

    Attributes:
        notes: what a person should know of how they were read.

    Raises:
        UserError: unequal numbers of rows, repeated ids, shapes that do not fit, or values that are not finite.

    Example:
        >>> import numpy as np
        >>> text = np.ones((3, 4))
        >>> text[1] = np.nan  # no text in the second row
        >>> sounds = [np.ones((5, 2)), np.ones((2, 2)), None]  # sequences of unequal length; none in the third
        >>> features = MemoryFeatures(["a", "b", "c"], {"text": text, "sound": sounds}, {"label": [0, 1, 0]})
        >>> features.dims, features.presence.tolist()
        ({'text': 4, 'sound': 2}, [[True, True], [False, True], [True, False]])
        >>> features.gather(np.array([0, 1]))["sound"].values.shape
        torch.Size([2, 5, 2])
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        ids: Sequence[str],
        modalities: Mapping[str, np.ndarray | Sequence[np.ndarray | None]],
        targets: Mapping[str, Any],
        split: Any = None,
        group: Any = None,
        task: str = "classification",
        labels: Mapping[str, tuple[str, ...]] | None = None,
        dims: Mapping[str, int] | None = None,
    ) -> None:
        self.ids, self.task, self.labels = [str(i) for i in ids], task, dict(labels or {})
        self.targets = {name: np.asarray(values) for name, values in targets.items()}
        self.split, self.group = (None if values is None else np.asarray(values) for values in (split, group))
        if len(set(self.ids)) != len(self.ids):
            raise UserError("row ids are unique", f"{len(self.ids)} ids, {len(set(self.ids))} different", "number them")
        if not modalities:
            raise UserError("features have at least one modality", "none", "give {name: array}")
        sized = {**modalities, **self.targets, "split": self.split, "group": self.group}
        wrong = {name: len(v) for name, v in sized.items() if v is not None and len(v) != len(self.ids)}
        if wrong:
            raise UserError(
                "every column has one entry per id", f"{wrong}, {len(self.ids)} ids", "cut them to equal rows"
            )
        dims = dims or {}
        self._set_columns({name: self._column(name, v, dims.get(name)) for name, v in modalities.items()})

    def _column(self, name: str, values: np.ndarray | Sequence[np.ndarray | None], width: int | None) -> Column:
        if width is not None and all(value is None for value in values):
            return Column(torch.zeros(0, width), np.zeros(0, np.int64), np.full(len(values), -1))
        if isinstance(values, np.ndarray) and values.ndim == 2:
            array = np.asarray(values, dtype=np.float32)
            there = np.logical_not(np.isnan(array).all(axis=1))
            kept, lengths = array[there], np.ones(int(there.sum()), np.int64)
            rows = np.flatnonzero(there)
        else:
            present = [(row, np.asarray(v, dtype=np.float32)) for row, v in enumerate(values) if v is not None]
            shapes = {v.shape[1:] for _, v in present}
            odd = [self.ids[row] for row, v in present if v.ndim != 2 or v.size == 0]
            if len(shapes) != 1 or odd:
                raise UserError(
                    f"modality {name!r} is an (N, D) array, or a list of (T, D) arrays of one D, None where absent",
                    f"rows {some(odd)}" if odd else f"shapes after the first axis: {some(sorted(shapes))}",
                    "a vector of one row is array[None, :]",
                )
            there = np.array([v is not None for v in values], dtype=bool)
            kept = np.concatenate([v for _, v in present])
            lengths = np.array([len(v) for _, v in present], dtype=np.int64)
            rows = np.flatnonzero(there)
        bad = ~np.isfinite(kept).all(axis=1)
        if bad.any():
            owners = sorted({self.ids[row] for row in np.repeat(rows, lengths)[bad]})
            raise UserError(
                f"modality {name!r} has NaN or infinite values", f"rows {some(owners)}", "repair or drop them"
            )
        pointer = np.full(len(there), -1, dtype=np.int64)
        pointer[rows] = np.arange(len(rows))
        return Column(torch.from_numpy(np.ascontiguousarray(kept)), lengths, pointer)
