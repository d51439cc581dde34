"""Encode a data set once and keep the features: shard by shard, resumable, each value once.

Values that repeat (an image with five captions) are found by the hash of their content and encoded once. Unique values
are kept in the order of their first row, ``shard_rows`` per shard. Inside a shard they are batched by length, longest
first; no batch spans two shards, so every shard has the same bytes whether or not the run was interrupted before it.
A store that is there is checked by its hashes first, and what is missing or damaged is made. Of two processes that
encode into one folder the second waits, and finds everything there.

New rows are appended: their values come into new shards behind those that are there, whose bytes stay, under the
encoders as they are. The table of rows and the manifest that belongs to it are written last.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import Progress, TaskID

from weft.data import make_splits
from weft.data.dataset import Dataset
from weft.data.failure import OnError
from weft.encoders import Encoder
from weft.errors import UserError, did_you_mean, some
from weft.files import ask_folder, canonical, lock, sha256, write_bytes, write_json
from weft.progress import progress_bar
from weft.store import ray
from weft.store.block import DIGESTS, as_bytes, damage, place, read_digests, repair_headers, write_at, write_shard
from weft.store.encode_report import EncodeReport, ModalityReport
from weft.store.files import (
    DTYPES,
    FAILED,
    FORMAT,
    ROWS,
    VERSION,
    modality_folder,
    read_failures,
    read_manifest,
    write_manifest,
)
from weft.store.refit import fitted_on, write_raw
from weft.store.rows import RowTable
from weft.store.run import Run
from weft.store.store import Store
from weft.store.unique import Unique, unique_values, values_digest

LOCK = ".lock"
SKIP = "; or leave out what cannot be read: --on-error skip (on_error='skip')"


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
    on_error: OnError = "stop",
    append: bool = False,
    on: str | None = None,
) -> Store:
    """Encode the modalities of a data set into a store, finish one that was begun, or add new rows to one.

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
        on_error: what a value that cannot be read does. ``"stop"``: it ends the run with an error that names its row;
            finished shards stay, and the next run goes on there. ``"skip"``: the modality is absent in its row, a row
            with nothing left is left out, and ``store.report.failures`` and ``failed.json`` say which and why. The next
            run tries these again.
        append: keep the rows that are in the store and add those of ``dataset`` whose ids are new. Encoders are taken
            as they are, never fitted again; rows that are there already have to be the same. A store that is not there
            is made.
        on: where encoders run: None, here; "ray", "auto" or "ray://HOST:PORT", in processes of Ray
            (:mod:`weft.store.ray`), with the same bytes.

    Returns:
        The store, opened; ``store.report`` says what was encoded, how fast, what was there already and what failed.

    Raises:
        UserError: unknown modality or dtype, an encoder for another kind, a value that cannot be read (its row is
            named), a result that is not finite or does not fit ``dtype``, or a folder that holds other features.
    """
    folder = Path(folder)
    check_arguments(dataset, encoders, dtype, shard_rows, batch_size)
    names = [name for name in dataset.modalities if name in encoders]
    report = EncodeReport(failures=[failure for failure in dataset.failures if failure.modality in names])
    skipped = report.failures if on_error == "skip" else None
    runs = {
        name: Run(name, encoders[name], unique_values(name, dataset, skipped), dataset.ids, batch_size, skipped, SKIP)
        for name in names
    }
    teachers = training_rows(dataset, train_rows)
    check_folder(folder)
    with lock(folder / LOCK):
        before = read_manifest(folder)
        old = None if before is None or before["rows"] is None else RowTable.read(folder, before)
        if before is not None:
            check_known(runs, dtype, before)
            if append and old is not None:
                dataset = as_there(dataset, before, old)
            append = append and check_added(dataset, before, old)
        for name, run in runs.items():
            known = None if before is None else before["modalities"][name]
            learn(run, teachers, known, fixed=append)
        if before is None:
            kinds = {name: dataset.modalities[name].kind for name in names}
            manifest = new_manifest(runs, kinds, dtype, shard_rows, teachers)
            write_manifest(folder, manifest)
        else:
            manifest = before
            check_values(runs, folder, manifest, old, append=append)
            flag_damage(folder, manifest)
        with progress_bar(progress) as bar, nullcontext() if on is None else ray.connected(on):
            for name, run in runs.items():
                where = folder / manifest["modalities"][name]["folder"]
                where.mkdir(exist_ok=True)
                if refits(run.encoder):
                    values = dict(zip(run.unique.digests, run.unique.values, strict=True))
                    write_raw(where, manifest["modalities"][name]["kind"], values)
                report.modalities[name] = ModalityReport(int((run.unique.pointer >= 0).sum()), len(run.unique.values))
                make_shards(folder, manifest, run, report.modalities[name], bar, on)
        finish(folder, manifest, dataset, runs, teachers, old if append else None, report)
        opened = Store.open(folder)
    opened.report = report
    return opened


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


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    ask_folder(folder)
    if read_manifest(folder) is None:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(
                "the folder of a new store is empty",
                f"{folder} holds {some(others)}",
                "give another folder, or empty it",
            )


def flag_damage(folder: Path, manifest: dict[str, Any]) -> None:
    """Mark the shards that are not what was written: they are to be made anew."""
    for entry in manifest["modalities"].values():
        for index, _ in list(damage(folder / entry["folder"], entry, verify=True)):
            entry["shards"][index]["sha256"] = None


def as_there(dataset: Dataset, before: dict[str, Any], old: RowTable) -> Dataset:
    """The rows to add, with a split where that of the store was drawn and not read from a column.

    A row of a group that is there belongs to its part. Others train, so that the test rows stay what they were; where
    the split is by time they are test rows, since training must not see what is later.
    """
    drawn = (before["table"] or {}).get("splits")
    if drawn is None or old.split is None:
        return dataset
    return replace(dataset, split=old.split_for(dataset, "test" if drawn["method"] == "temporal" else "train"))


def check_added(dataset: Dataset, before: dict[str, Any], old: RowTable | None) -> bool:
    """Whether rows are added: the store is finished. One that is not is finished first, by the rows it was begun with.

    Raises:
        UserError: the table of rows is damaged, or the rows are not of the store's kind.
    """
    if before["rows"] is None:
        return False
    if old is None:
        raise UserError(
            f"the table of rows {ROWS} is damaged, so none can be added", "other bytes than the manifest says",
            "encode all rows that are in the store again, not appending: it is cheap",
        )  # fmt: skip
    labels = {name: list(names) for name, names in dataset.labels.items()}
    if (dataset.task, labels) != (before["task"], before["labels"]):
        found = f"{before['task']} {before['labels']} there, {dataset.task} {labels} now"
        raise UserError("rows that are added have the task and labels of the store", found, "read them as those were")
    old.check_facts(RowTable.of(dataset, {}))
    return True


def check_known(runs: dict[str, Run], dtype: str, before: dict[str, Any]) -> None:
    """Refuse to mix two stores.

    Raises:
        UserError: the folder holds other modalities, other encoders or another dtype.
    """
    known = before["modalities"]
    if set(known) != set(runs):
        raise UserError(
            "the folder holds a store of other modalities",
            f"{some(known)}, now {some(runs)}",
            "give another folder; a store is subset when it is read: store.subset(names)",
        )
    for name, run in runs.items():
        now = {"encoder": run.encoder.identity(), "dtype": dtype}
        for part, said in (("encoder", "was made with another encoder"), ("dtype", "has another dtype")):
            if canonical(known[name][part]) != canonical(now[part]):
                raise other_store(said, name, f"{known[name][part]} there, {now[part]} now")


def other_store(said: str, name: str, found: str) -> UserError:
    """The error for a folder whose store is not the one that is asked for."""
    remedy = "give another folder, or delete this one; rows with new ids are added with --append (append=True)"
    return UserError(f"the store in this folder {said}: modality {name!r}", found, remedy)


def learn(run: Run, teachers: np.ndarray, known: dict[str, Any] | None, *, fixed: bool) -> None:
    """Fit an encoder, or take over what it learned from the same values before; ``fixed``: from whatever it learned."""
    if known is not None and (fixed or known["taught"] == run.unique.taught(teachers)):
        run.encoder.load_state(known["state"])
    else:
        run.fit(teachers)


def new_manifest(
    runs: dict[str, Run], kinds: dict[str, str], dtype: str, shard_rows: int, teachers: np.ndarray
) -> dict[str, Any]:
    """The manifest of a store in which no shard is finished."""
    modalities: dict[str, dict[str, Any]] = {
        name: {
            "encoder": run.encoder.identity(),
            "state": run.encoder.state(),
            "dtype": dtype,
            "values": values_digest([]),
            "address": None,
            "recipe": run.encoder.recipe,
            "kind": kinds[name],
            "taught": run.unique.taught(teachers),
            "fitted": None,
            "folder": modality_folder(name),
            "width": run.encoder.width,
            "count": 0,
            "shard_rows": shard_rows,
            "shards": [],
        }
        for name, run in runs.items()
    }
    return {"format": FORMAT, "version": VERSION, "rows": None, "modalities": modalities}


def check_values(
    runs: dict[str, Run], folder: Path, manifest: dict[str, Any], old: RowTable | None, *, append: bool
) -> None:
    """Refuse rows that are not those of the store, or, where rows are added, rows of its ids that are not the same.

    What failed before may be there now.

    Raises:
        UserError: other values, or an encoder that learned other things from them.
    """
    failed = {(failure.row, failure.modality) for failure in read_failures(folder)}
    for name, run in runs.items():
        entry, unique = manifest["modalities"][name], run.unique
        stored = stored_digests(folder / entry["folder"], entry, unique)
        if append and old is not None:
            here = old.places(list(run.ids))
            there = np.array([*stored, ""])[old.pointers[name]]
            now = np.array([*unique.digests, ""])[unique.pointer]
            other = [
                row
                for row, place, digest in zip(run.ids, here, now, strict=True)
                if place >= 0 and digest not in ("", there[place]) and (row, name) not in failed
            ]
            if other:
                raise UserError(
                    f"rows that are in the store hold something else now: modality {name!r}",
                    f"rows {some(other)}",
                    "give new rows ids of their own (an id column in the YAML), or encode all rows into another folder",
                )
            continue
        used = set(stored) if old is None else {stored[value] for value in old.pointers[name] if value >= 0}
        missing = used - set(unique.digests)
        fresh = set() if old is None else set(unique.digests) - set(stored)
        unknown = [
            row
            for row, value in zip(run.ids, unique.pointer, strict=True)
            if value >= 0 and unique.digests[value] in fresh and (row, name) not in failed
        ]
        if missing or unknown:
            raise other_store("holds features of other values", name, f"{folder}")
        if canonical(entry["state"]) != canonical(run.encoder.state()):
            raise other_store("was fitted on other training rows", name, f"{folder}")


def stored_digests(folder: Path, entry: dict[str, Any], unique: Unique) -> list[str]:
    """What the values of a modality were made from; a file of digests that is damaged is made again from the rows."""
    stored = read_digests(folder, entry)
    if values_digest(stored) != entry["values"]:
        stored = unique.digests[: place(entry, len(entry["shards"]))[1]]
        if values_digest(stored) != entry["values"]:
            found = f"{folder / DIGESTS}: other bytes than the manifest says"
            raise UserError("a file of the store is damaged", found, "restore it, or encode into another folder")
        write_at(folder / DIGESTS, as_bytes(stored), 0, len(stored), entry)
    return stored


def make_shards(
    folder: Path, manifest: dict[str, Any], run: Run, report: ModalityReport, bar: Progress, on: str | None
) -> None:
    """Make every shard that is damaged or not there, and list it in the manifest.

    Raises:
        UserError: a shard is damaged, and its values are not among these rows.
    """
    entry, unique = manifest["modalities"][run.name], run.unique
    where, size = folder / entry["folder"], entry["shard_rows"]
    stored, position = read_digests(where, entry), {digest: i for i, digest in enumerate(unique.digests)}
    known, first = set(stored), 0
    work: list[tuple[int | None, list[int]]] = []
    for number, shard in enumerate(entry["shards"]):
        held = stored[first : first + shard["values"]]
        first += shard["values"]
        if shard["sha256"] is None:
            if not all(digest in position for digest in held):
                found = f"shard {number} of {where}, and its values are not among these rows"
                raise UserError("a shard is damaged", found, "encode all rows again, not the new ones alone")
            work.append((number, [position[digest] for digest in held]))
    new = [i for i, digest in enumerate(unique.digests) if digest not in known]
    groups = [list(group) for _, group in groupby(new, key=lambda i: i // size)]
    work += [(None, group) for group in groups]
    shards = [places for _, places in work]
    made = hashlib.sha256("\n".join(stored).encode())
    task = bar.add_task(run.name, total=len(unique.values), completed=len(unique.values) - sum(len(w) for _, w in work))
    start = time.perf_counter()
    for (index, places), arrays in zip(work, encoded(run, shards, entry["dtype"], bar, task, on), strict=True):
        good = [(array, unique.digests[i]) for array, i in zip(arrays, places, strict=True) if array is not None]
        if not good:
            continue
        values, digests = zip(*good, strict=True)
        write_shard(where, entry, len(entry["shards"]) if index is None else index, values, digests)
        if index is None:
            made.update((b"\n" if stored else b"") + "\n".join(digests).encode())
            stored += digests
            entry["values"] = made.hexdigest()
        write_manifest(folder, manifest)
        report.encoded += len(good)
    report.seconds += time.perf_counter() - start if work else 0.0
    repair_headers(where, entry)


def encoded(
    run: Run, work: list[list[int]], dtype: str, bar: Progress, task: TaskID, on: str | None
) -> Iterator[list[np.ndarray | None]]:
    """The values of every shard, in order, made here or on Ray; see :meth:`Run.encode`."""
    if on is None:
        yield from (run.encode(places, dtype, bar, task) for places in work)
    elif work:
        yield from ray.encoded(run, work, dtype, bar, task, on)


def finish(
    folder: Path,
    manifest: dict[str, Any],
    dataset: Dataset,
    runs: dict[str, Run],
    teachers: np.ndarray,
    old: RowTable | None,
    report: EncodeReport,
) -> None:
    """Write what failed, the manifest of the finished store, and its table of rows.

    Raises:
        UserError: nothing of a modality could be read.
    """
    pointers = {}
    for name, run in runs.items():
        entry = manifest["modalities"][name]
        at = {digest: value for value, digest in enumerate(read_digests(folder / entry["folder"], entry))}
        places = np.array([*(at.get(digest, -1) for digest in run.unique.digests), -1], dtype=np.int64)
        pointers[name] = places[run.unique.pointer]
        bad = [failure for failure in report.failures if failure.modality == name]
        if bad and not at:
            what = f"nothing of modality {name!r} could be read"
            raise UserError(
                what, f"{len(bad)} rows; the first, {bad[0].row!r}: {bad[0].value}: {bad[0].why}", "mend these"
            )
        if old is None:
            entry["taught"] = run.unique.taught(teachers)
            entry["fitted"] = fitted_on(pointers[name], teachers) if refits(run.encoder) else None
        entry["count"] = len(at)
        content = {key: entry[key] for key in ("encoder", "state", "dtype", "values")}
        entry["address"] = sha256(canonical(content))
    rows = RowTable.of(dataset, pointers)
    failed_in = {failure.row for failure in report.failures}
    lost = np.array([row in failed_in for row in rows.ids]) & ~rows.present()
    rows = rows.take(np.flatnonzero(~lost))
    if old is None:
        manifest |= {
            "name": dataset.name,
            "task": dataset.task,
            "labels": {name: list(names) for name, names in dataset.labels.items()},
            "table": dataset.table,
            "targets": list(dataset.targets),
            "order": list(runs),
        }
    else:
        now = set(dataset.ids)
        report.failures[:0] = [failure for failure in read_failures(folder) if failure.row not in now]
        rows = old.plus(rows)
        if manifest["table"] is not None and dataset.table is not None:
            manifest["table"]["classes"] = dataset.table["classes"]
    data = rows.to_bytes()
    kept, addresses = set(rows.ids), {name: entry["address"] for name, entry in manifest["modalities"].items()}
    report.left_out = list(dict.fromkeys(failure.row for failure in report.failures if failure.row not in kept))
    before = manifest["rows"]["sha256"] if old is not None else sha256(data)
    manifest["rows"] = {"count": len(rows.ids), "sha256": sha256(data)}
    manifest["rows"] |= {"before": before} if before != sha256(data) else {}
    manifest["address"] = sha256(canonical({"rows": sha256(data), "modalities": addresses}))
    if report.failures:
        failed = [failure.to_dict() for failure in report.failures]
        write_json(folder / FAILED, {"failures": failed, "left_out": report.left_out})
    else:
        (folder / FAILED).unlink(missing_ok=True)
    write_manifest(folder, manifest)
    write_bytes(folder / ROWS, data)


def refits(encoder: Encoder) -> bool:
    """Whether other training rows need this encoder fitted again, and it can be made again."""
    return encoder.refits and encoder.recipe is not None
