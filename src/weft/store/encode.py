"""Encode a data set once and keep the features: shard by shard, resumable, each value once.

Values that repeat (an image with five captions) are found by the hash of their content and encoded once. Unique values
are kept in the order of their first row, ``shard_rows`` per shard. Inside a shard they are batched by length, longest
first; no batch spans two shards, so every shard has the same bytes whether or not the run was interrupted before it.
A store that is there is checked by its hashes first, and what is missing or damaged is made. Of two processes that
encode into one folder the second waits, and finds everything there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import Progress, TaskID

from weft.data import make_splits
from weft.data.dataset import Dataset
from weft.encoders import BadValue, Encoder
from weft.errors import UserError, did_you_mean, some
from weft.files import canonical, lock, sha256, write_bytes
from weft.progress import progress_bar
from weft.store.block import damage, repair_headers, write_shard
from weft.store.features import rows_content
from weft.store.files import (
    DTYPES,
    FORMAT,
    ROWS,
    VERSION,
    content_hash,
    modality_folder,
    read_manifest,
    rows_bytes,
    write_manifest,
)
from weft.store.refit import fitted_on, write_raw
from weft.store.store import Store

LOCK = ".lock"


@dataclass
class ModalityReport:
    """What encoding did for one modality.

    Attributes:
        rows: rows in which it is present.
        values: different values among them.
        encoded: values that were encoded now; the others were there already.
        seconds: wall time of that.
    """

    rows: int
    values: int
    encoded: int = 0
    seconds: float = 0.0

    @property
    def reused(self) -> int:
        """Values that were in the store already."""
        return self.values - self.encoded

    @property
    def per_second(self) -> float:
        """Encoded values per second; 0 when nothing was encoded."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


@dataclass
class EncodeReport:
    """What :func:`encode` did, by modality."""

    modalities: dict[str, ModalityReport] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            name: {**vars(report), "reused": report.reused, "per_second": report.per_second}
            for name, report in self.modalities.items()
        }


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


def encode(
    dataset: Dataset,
    encoders: dict[str, Encoder],
    folder: str | Path,
    *,
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16",
    shard_rows: int = 1024,
    batch_size: int = 32,
    progress: bool = True,
    train_rows: np.ndarray | None = None,
) -> Store:
    """Encode the modalities of a data set into a store, or finish one that was begun.

    Args:
        dataset: the samples.
        encoders: ``{modality: Encoder}`` for all or some of its modalities.
        folder: where the store lies or shall lie.
        dtype: of the features on disk; batches read from the store are float32.
        shard_rows: values per shard; a store that exists keeps its own.
        batch_size: values per call of an encoder.
        progress: show a bar, or print a line now and then where the output is no terminal.
        train_rows: the rows an encoder may learn from; None: the training rows of :func:`weft.data.make_splits`, as
            every verb takes them by default. Other splits and folds fit again: see :meth:`Store.fitted`.

    Returns:
        The store, opened; ``store.report`` says what was encoded, how fast, and what was there already.

    Raises:
        UserError: unknown modality or dtype, an encoder for another kind, a value that cannot be read (its row is
            named), a result that is not finite or does not fit ``dtype``, or a folder that holds other features.
    """
    folder = Path(folder)
    check_arguments(dataset, encoders, dtype, shard_rows, batch_size)
    names = [name for name in dataset.modalities if name in encoders]
    unique = {name: unique_values(name, dataset) for name in names}
    rows = training_rows(dataset, train_rows)
    check_folder(folder)
    report = EncodeReport()
    data = rows_bytes(
        dataset.ids, dataset.targets, dataset.split, dataset.group, {name: u.pointer for name, u in unique.items()}
    )
    with lock(folder / LOCK):
        before = read_manifest(folder)
        for name in names:
            known = None if before is None else before["modalities"].get(name)
            if not take_state(encoders[name], unique[name], rows, known):
                values = dataset.modalities[name].values
                encoders[name].fit([values[row] for row in rows if values[row] is not None])
        manifest = new_manifest(dataset, encoders, unique, dtype, shard_rows, data, rows)
        if before is not None:
            keep_finished(folder, manifest, before)
        write_manifest(folder, manifest)
        write_bytes(folder / ROWS, data)
        with progress_bar(progress) as bar:
            for name in names:
                entry = manifest["modalities"][name]
                (folder / entry["folder"]).mkdir(exist_ok=True)
                if entry["fitted"] is not None:
                    write_raw(folder / entry["folder"], entry["kind"], unique[name].values)
                present = int((unique[name].pointer >= 0).sum())
                report.modalities[name] = ModalityReport(present, len(unique[name].values))
                task = bar.add_task(name, total=len(unique[name].values))
                run = Run(folder, manifest, name, encoders[name], unique[name], dataset.ids, batch_size)
                run.finish(report.modalities[name], bar, task)
        opened = Store.open(folder)
    opened.report = report
    return opened


@dataclass(frozen=True)
class Run:
    """The encoding of one modality into its shards."""

    folder: Path
    manifest: dict[str, Any]
    name: str
    encoder: Encoder
    unique: Unique
    ids: Sequence[str]
    batch_size: int

    def finish(self, report: ModalityReport, bar: Progress, task: TaskID) -> None:
        """Make every shard that is not there, and list it in the manifest."""
        entry = self.manifest["modalities"][self.name]
        size = entry["shard_rows"]
        for index, done in enumerate(entry["shards"]):
            first, last = index * size, min((index + 1) * size, len(self.unique.values))
            if done is None or done["sha256"] is None:
                start = time.perf_counter()
                values = self.encode_values(first, last, entry["dtype"], bar, task)
                write_shard(self.folder / entry["folder"], entry, index, values)
                write_manifest(self.folder, self.manifest)
                report.encoded += last - first
                report.seconds += time.perf_counter() - start
            bar.update(task, completed=last)
        repair_headers(self.folder / entry["folder"], entry)

    def encode_values(self, first: int, last: int, dtype: str, bar: Progress, task: TaskID) -> list[np.ndarray]:
        """The values ``first .. last - 1`` as ``(T, D)`` arrays, encoded in batches of like length.

        Raises:
            UserError: a value cannot be encoded (its rows are named), or the result is what :meth:`check` refuses.
        """
        values = self.unique.values[first:last]
        order = np.argsort(-self.encoder.lengths(values), kind="stable")
        out: list[np.ndarray] = [np.empty(0)] * len(values)
        for begin in range(0, len(order), self.batch_size):
            batch = order[begin : begin + self.batch_size]
            try:
                encoded = self.encoder.encode([values[i] for i in batch])
            except BadValue as error:
                what = f"modality {self.name!r}, {self.rows_of(first + int(batch[error.index]))}: {error.what}"
                raise UserError(what, error.found, error.remedy) from error
            for i, array in zip(batch, encoded, strict=True):
                out[i] = self.check(array, first + int(i), dtype)
            bar.advance(task, len(batch))
        return out

    def check(self, array: np.ndarray, value: int, dtype: str) -> np.ndarray:
        """Refuse what an encoder must not return: not ``(T, D)``, NaN or infinite, or beyond the range of the dtype."""
        if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != self.encoder.width:
            raise UserError(
                f"the encoder of {self.name!r} returns (T, {self.encoder.width}) arrays with T >= 1",
                f"shape {array.shape} for {self.rows_of(value)}",
                "correct the encoder",
            )
        if not np.isfinite(array).all():
            raise UserError(
                f"the encoder of {self.name!r} gave NaN or infinite features",
                f"{self.rows_of(value)}",
                "look at that value; with half-precision autocast, use precision='bf16' or 'fp32'",
            )
        most = float(np.abs(array).max())
        if dtype == "fp16" and most > float(np.finfo(np.float16).max):
            raise UserError(
                f"features of {self.name!r} do not fit dtype 'fp16'",
                f"{most:.4g} in {self.rows_of(value)}; the largest fp16 is 65504",
                "encode with dtype='bf16' or 'fp32'",
            )
        return np.asarray(array, dtype=np.float32)

    def rows_of(self, value: int) -> str:
        """The ids of the rows that hold a value, for messages."""
        return f"row {some([self.ids[row] for row in np.flatnonzero(self.unique.pointer == value)])}"


def check_arguments(
    dataset: Dataset, encoders: dict[str, Encoder], dtype: str, shard_rows: int, batch_size: int
) -> None:
    """Refuse modalities, kinds, dtypes and sizes that cannot be."""
    if dtype not in DTYPES:
        raise UserError("unknown dtype of a store", f"dtype={dtype!r}", f"use one of {', '.join(DTYPES)}")
    if shard_rows < 1 or batch_size < 1:
        found = f"shard_rows={shard_rows}, batch_size={batch_size}"
        raise UserError("shard_rows and batch_size are positive", found, "leave them out for the defaults")
    if not encoders:
        raise UserError("nothing to encode", "no encoder", f"give one for some of {some(dataset.modalities)}")
    for name, encoder in encoders.items():
        if name not in dataset.modalities:
            remedy = did_you_mean(name, dataset.modalities, "modalities")
            raise UserError(f"the data set has no modality {name!r}", f"{some(dataset.modalities)}", remedy)
        kind = dataset.modalities[name].kind
        if kind not in encoder.kinds:
            raise UserError(
                f"the encoder of {name!r} does not read its kind",
                f"kind {kind!r}, the encoder reads {', '.join(encoder.kinds)}",
                f"create_encoder(spec, {kind!r}) finds one that does",
            )


def training_rows(dataset: Dataset, rows: np.ndarray | None) -> np.ndarray:
    """``(n,)`` rows encoders may learn from: given, or the training rows of the split; all, where none can be made."""
    if rows is not None:
        return np.asarray(rows)
    try:
        return make_splits(dataset).train
    except UserError:
        known = np.arange(len(dataset)) if dataset.split is None else np.flatnonzero(dataset.split == "train")
        return known


def take_state(encoder: Encoder, unique: Unique, rows: np.ndarray, before: dict[str, Any] | None) -> bool:
    """Take over what an encoder learned from the same values before; False where it has to learn."""
    if (
        before is None
        or before.get("fitted") != fitted_on(unique.pointer, rows)
        or before["encoder"] != encoder.identity()
    ):
        return False
    if before["values"] != values_digest(unique):
        return False
    encoder.load_state(before["state"])
    return True


def values_digest(unique: Unique) -> str:
    """Hash of the different values, in order."""
    return sha256("\n".join(unique.digests).encode())


def unique_values(name: str, dataset: Dataset) -> Unique:
    """The different values of a modality, by content.

    Raises:
        UserError: a file cannot be read; its row is named.
    """
    seen: dict[str, int] = {}
    files: dict[Path, str] = {}
    values: list[Any] = []
    pointer = np.full(len(dataset.ids), -1, dtype=np.int64)
    for row, value in enumerate(dataset.modalities[name].values):
        if value is None:
            continue
        try:
            digest = files.get(value) if isinstance(value, Path) else None
            digest = digest or content_hash(value)
        except OSError as error:
            raise UserError(
                f"modality {name!r}, row {dataset.ids[row]!r}: the file cannot be read",
                f"{value}: {error.strerror or error}",
                "put the file there, or leave the cell empty: a missing modality is allowed",
            ) from error
        if isinstance(value, Path):
            files[value] = digest
        if digest not in seen:
            seen[digest] = len(values)
            values.append(value)
        pointer[row] = seen[digest]
    return Unique(values, list(seen), pointer)


def raw_fingerprint(dataset: Dataset, names: Sequence[str] | None = None) -> str:
    """Hash of raw rows: the values of some or all modalities, files by their bytes, and ids, targets, split, group."""
    unique = {name: unique_values(name, dataset) for name in names or dataset.modalities}
    return content_hash(([(n, u.digests, u.pointer) for n, u in unique.items()], rows_content(dataset)))


def new_manifest(
    dataset: Dataset,
    encoders: dict[str, Encoder],
    unique: dict[str, Unique],
    dtype: str,
    shard_rows: int,
    data: bytes,
    rows: np.ndarray,
) -> dict[str, Any]:
    """The manifest of a store in which no shard is finished."""
    modalities = {}
    for name, values in unique.items():
        encoder = encoders[name]
        content = {
            "encoder": encoder.identity(),
            "state": encoder.state(),
            "dtype": dtype,
            "values": values_digest(values),
        }
        modalities[name] = {
            **content,
            "address": sha256(canonical(content)),
            "recipe": encoder.recipe,
            "kind": dataset.modalities[name].kind,
            "fitted": fitted_on(values.pointer, rows) if encoder.refits and encoder.recipe is not None else None,
            "folder": modality_folder(name),
            "width": encoder.width,
            "count": len(values.values),
            "shard_rows": shard_rows,
            "shards": [None] * -(-len(values.values) // shard_rows),
        }
    addresses = {name: entry["address"] for name, entry in modalities.items()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": dataset.name,
        "task": dataset.task,
        "labels": {name: list(names) for name, names in dataset.labels.items()},
        "table": dataset.table,
        "targets": list(dataset.targets),
        "order": list(unique),
        "rows": {"count": len(dataset.ids), "sha256": sha256(data)},
        "address": sha256(canonical({"rows": sha256(data), "modalities": addresses})),
        "modalities": modalities,
    }


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    folder.mkdir(parents=True, exist_ok=True)
    if read_manifest(folder) is None:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(
                "the folder of a new store is empty",
                f"{folder} holds {some(others)}",
                "give another folder, or empty it",
            )


def keep_finished(folder: Path, manifest: dict[str, Any], before: dict[str, Any]) -> None:
    """Take over the shards of the store that is there, if it is the same one; refuse to mix two.

    Raises:
        UserError: the folder holds other modalities, other encoders, another dtype or other values.
    """
    if set(before["modalities"]) != set(manifest["modalities"]):
        raise UserError(
            "the folder holds a store of other modalities",
            f"{some(before['modalities'])}, now {some(manifest['modalities'])}",
            "give another folder; a store is subset when it is read: store.subset(names)",
        )
    for name, entry in manifest["modalities"].items():
        old = before["modalities"][name]
        if old["address"] != entry["address"]:
            part = next(key for key in ("encoder", "dtype", "values", "state") if old[key] != entry[key])
            said = {
                "encoder": "was made with another encoder",
                "dtype": "has another dtype",
                "values": "holds features of other values",
                "state": "was fitted on other training rows",
            }
            raise UserError(
                f"the store in this folder {said[part]}: modality {name!r}",
                f"{old[part]} there, {entry[part]} now" if part in ("encoder", "dtype") else f"{folder}",
                "give another folder, or delete this one",
            )
        entry["shard_rows"], entry["shards"] = old["shard_rows"], old["shards"]
        for index, _ in list(damage(folder / entry["folder"], entry, verify=True)):
            entry["shards"][index]["sha256"] = None
