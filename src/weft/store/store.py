"""A store opened for reading: memory-mapped features of every row, see :mod:`weft.store.files` for the layout."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.data.dataset import Modality
from weft.data.failure import Failure
from weft.data.table_config import ModalityConfig
from weft.encoders import Encoder, restore_encoder
from weft.errors import UserError, did_you_mean
from weft.files import sha256
from weft.places import here
from weft.store.block import damage, damaged, map_block
from weft.store.column import Column
from weft.store.features import ColumnFeatures
from weft.store.files import MANIFEST, ROWS, content_hash, read_failures, read_manifest, to_numpy
from weft.store.refit import fitted_on, read_raw, refit

if TYPE_CHECKING:
    from weft.store.encode_report import EncodeReport


class Store(ColumnFeatures):
    """Features on disk; make one with :func:`weft.store.encode`, open one with :meth:`Store.open`.

    Attributes:
        folder: where it lies.
        manifest: what it holds: encoders, dtypes, shards with their hashes, the content address.
        report: what :func:`weft.store.encode` did; None for a store that was only opened.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], report: EncodeReport | None = None) -> None:
        self.folder, self.manifest, self.report = folder, manifest, report
        self._fitted: np.ndarray | None = None
        self.task = manifest["task"]
        self.labels = {name: tuple(names) for name, names in manifest["labels"].items()}
        table = read_rows(folder / ROWS)
        self.ids = table["id"].to_pylist()
        self.split, self.group = (
            to_numpy(table[name]) if name in table.column_names else None for name in ("split", "group")
        )
        self.targets = {name: to_numpy(table[f"target/{name}"]) for name in manifest["targets"]}
        self._set_columns({name: self._column(name, to_numpy(table[f"value/{name}"])) for name in manifest["order"]})

    def _column(self, name: str, pointer: Any) -> Column:
        entry = self.manifest["modalities"][name]
        return Column(*map_block(self.folder / entry["folder"], entry), pointer)

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> Self:
        """Open a finished store.

        Args:
            folder: where it lies: a path, the name of a repository of the hub (``"user/name"``) or a URL, see
                :mod:`weft.places`.
            verify: hash every shard and compare with the manifest, instead of the sizes alone.

        Raises:
            UserError: there is no store, it is not finished, or a file is damaged (the message names it).
        """
        folder = here(folder, "dataset")
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(
                "there is no feature store here", f"no {MANIFEST} in {folder}", "make one with weft.encode()"
            )
        for name, entry in manifest["modalities"].items():
            finished = sum(shard["sha256"] is not None for shard in entry["shards"])
            if manifest["rows"] is None or finished < len(entry["shards"]):
                raise UserError(
                    f"the store is not finished: modality {name!r}",
                    f"{finished} shards in {folder}",
                    "run encode again with the same settings: it goes on where it stopped",
                )
            for index, found in damage(folder / entry["folder"], entry, verify):
                raise damaged(folder / entry["folder"], index, found)
        rows = folder / ROWS
        if not rows.is_file() or sha256(rows.read_bytes()) != manifest["rows"]["sha256"]:
            raise UserError(
                f"the table of rows {ROWS} is damaged",
                f"{rows}: other bytes than the manifest says",
                "run encode again: it is cheap",
            )
        return cls(folder, manifest)

    from_pretrained = open

    def push_to_hub(self, place: str, *, private: bool = False) -> str:
        """Put the store, with a card, where others open it from: features, rows, and raw values that encoders refit on.

        Args:
            place: ``"user/name"`` on the Hugging Face hub, or a URL; see :mod:`weft.places`.
            private: whether a repository that is created is private.

        Returns:
            Its address.

        Raises:
            UserError: this is a part of the store, no right to write there, or it cannot be reached.
        """
        from weft.store.card import push_store

        return push_store(self, place, private=private)

    @property
    def failures(self) -> list[Failure]:
        """The cells that could not be read when the store was made with ``on_error="skip"``."""
        return read_failures(self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """The content address: encoders, dtype and values of each modality, and the hash of the table of rows."""
        addresses = [(name, self.manifest["modalities"][name]["address"]) for name in self.dims]
        return content_hash((addresses, self.labels, self.task, self.manifest["rows"]["sha256"]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the files again."""
        return _reopen, (self.folder.resolve(), list(self.dims), self._fitted)

    def fitted(self, rows: np.ndarray) -> Self:
        """The same rows under encoders that have learned from ``rows`` alone, the training rows of a split or fold.

        Modalities whose encoders learn nothing but scales stay as they are; where all are fitted on these rows already,
        the store itself comes back.

        Raises:
            UserError: an encoder has nothing to learn from in these rows.
        """
        columns, entries = dict(self._columns), dict(self.manifest["modalities"])
        for name, column in self._columns.items():
            entry = entries[name]
            if entry.get("fitted") in (None, fitted_on(column.pointer, rows)):
                continue
            tensors, entries[name] = refit(self.folder, name, entry, column.pointer, rows)
            columns[name] = Column(tensors["values"], tensors["lengths"].numpy(), column.pointer)
        if all(columns[name] is column for name, column in self._columns.items()):
            return self
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.manifest = {**self.manifest, "modalities": entries}
        part._fitted = np.asarray(rows)
        part._set_columns(columns)
        return part

    def cells(self) -> dict[str, tuple[Any, ...]]:
        """``{column: its cells}`` of columns side by side whose raw values are kept, see :mod:`weft.store.refit`."""
        found: dict[str, tuple[Any, ...]] = {}
        table = (self.manifest.get("table") or {}).get("modalities", {})
        for name, column in self._columns.items():
            entry = self.manifest["modalities"][name]
            if entry.get("fitted") is not None and table.get(name, {}).get("types"):
                values, fields = read_raw(self.folder, entry), ModalityConfig(**table[name]).names
                rows = [None if at < 0 else values[at] for at in column.pointer.tolist()]
                found |= Modality(entry["kind"], rows, tuple(fields)).cells()
        return found

    def encoder(self, name: str) -> Encoder:
        """The encoder of a modality, as it was when the store was made: for new rows.

        Raises:
            UserError: unknown modality, or an encoder that was not made by ``create_encoder``, or whose model changed.
        """
        if name not in self.dims:
            raise UserError(
                f"unknown modality {name!r}", "not in this store", did_you_mean(name, self.dims, "modalities")
            )
        entry = self.manifest["modalities"][name]
        recipe = entry["recipe"]
        if recipe is None:
            raise UserError(
                f"the encoder of {name!r} cannot be made again",
                "it was built by hand",
                "make encoders with create_encoder()",
            )
        spec = {**recipe, "state": entry["state"], "identity": entry["encoder"]}
        return restore_encoder(name, spec, "this store was made with")


def _reopen(folder: Path, names: list[str], rows: np.ndarray | None) -> Store:
    store = Store.open(folder).subset(names)
    return store if rows is None else store.fitted(rows)


def read_rows(path: Path) -> pa.Table:
    """The table of rows.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        remedy = "run encode again with the same settings: the table is made anew"
        raise UserError(f"the table of rows {path.name} is damaged", f"{path}: {error}", remedy) from error
