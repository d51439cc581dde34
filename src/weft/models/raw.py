"""From raw rows to features with a model's own encoders, as they were when it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from weft.data import Dataset, Modality
from weft.data.columns import Columns
from weft.data.failure import Failure
from weft.data.table import read_table
from weft.data.table_config import TableConfig
from weft.encoders import Encoder, restore_encoder
from weft.errors import UserError, count, did_you_mean, short, some
from weft.progress import progress_bar
from weft.store import Features, MemoryFeatures, Store
from weft.store.files import DTYPES
from weft.store.run import Run
from weft.store.unique import Unique, unique_values


def encoder_specs(features: Features, names: Sequence[str]) -> dict[str, Any] | None:
    """What made the features, as JSON: recipe, fitted state and dtype per modality. None where that is not known."""
    if not isinstance(features, Store):
        return None
    entries = {name: features.manifest["modalities"][name] for name in names}
    if any(entry["recipe"] is None for entry in entries.values()):
        return None
    return {
        name: {**entry["recipe"], "state": entry["state"], "identity": entry["encoder"], "dtype": entry["dtype"]}
        for name, entry in entries.items()
    }


def table_of(features: Features) -> dict[str, Any] | None:
    """How the table behind the features is read, as JSON. None where they do not come from a table."""
    return features.manifest.get("table") if isinstance(features, Store) else None


def read_frame(frame: Any, table: Mapping[str, Any] | None, partly: bool = False) -> Dataset:
    """A table, read as the training table was; its target is not needed.

    Args:
        frame: a DataFrame, ``{column: cells}``, or the path of a file.
        table: what :func:`table_of` returned, as the model keeps it.
        partly: modalities whose columns are not there are left out, if any other is.

    Raises:
        UserError: the model was not trained on a table, a column is missing, or a cell cannot be read.
    """
    if table is None:
        raise UserError(
            "the model does not know how to read a table",
            "it was trained on a named data set, or on features",
            "give it a data set or features, or train it on a table",
        )
    config = TableConfig(**table)
    if partly:
        columns = set(Columns(frame).names)
        there = {name: m for name, m in config.modalities.items() if columns.issuperset(m.names)}
        config = config.model_copy(update={"modalities": there or config.modalities})
    return read_table(frame, config, require_target=False)


def make_encoder(name: str, spec: Mapping[str, Any]) -> Encoder:
    """The encoder of a modality, with what it had learned.

    Raises:
        UserError: it cannot be made, or is another one by now (a changed model file).
    """
    return restore_encoder(name, spec, "this model was trained with")


def encode_rows(
    specs: Mapping[str, Any] | None,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    progress: bool = True,
    encoders: Mapping[str, Encoder] | None = None,
    failures: list[Failure] | None = None,
) -> MemoryFeatures:
    """Features of raw rows, in memory, rounded to the dtype the model was trained on.

    Args:
        specs: what :func:`encoder_specs` returned, as the model keeps it.
        dataset: the rows; modalities the model does not know are not read.
        encoders: those that :func:`make_encoder` made before; None: they are made.
        failures: values that cannot be read are put here and count as absent; None: they are an error.

    Returns:
        The features. Their ``notes`` are those of the rows, and what training did not meet.

    Raises:
        UserError: the model keeps no encoders, a modality is missing or of another kind, or a value cannot be read.
    """
    if specs is None:
        raise UserError(
            "the model does not know its encoders",
            "it was trained on features in memory",
            "give it features, or train it on a store (weft.encode) made by create_encoder() encoders",
        )
    modalities: dict[str, list[np.ndarray | None]] = {}
    dims: dict[str, int] = {}
    notes: list[str] = []
    with progress_bar(progress) as bar:
        for name, spec in specs.items():
            if name not in dataset.modalities:
                remedy = did_you_mean(name, dataset.modalities, "modalities")
                raise UserError(f"the rows lack modality {name!r} of the model", f"data set {dataset.name!r}", remedy)
            kind = dataset.modalities[name].kind
            if kind != spec["kind"]:
                raise UserError(
                    f"modality {name!r} is of another kind",
                    f"{kind!r}, trained on {spec['kind']!r}",
                    "correct the table",
                )
            unique = unique_values(name, dataset, failures)
            task = bar.add_task(name, total=len(unique.values))
            ready = make_encoder(name, spec) if encoders is None else encoders[name]
            dims[name] = ready.width
            notes += unknown_words(ready, dataset.modalities[name], dataset.ids)
            encoded = Run(name, ready, unique, dataset.ids, batch_size, failures).encode(
                range(len(unique.values)), spec["dtype"], bar, task
            )
            values = [None if array is None else _rounded(array, spec["dtype"]) for array in encoded]
            modalities[name] = [None if at < 0 else values[at] for at in unique.pointer.tolist()]
    found = MemoryFeatures(
        dataset.ids, modalities, dataset.targets, dataset.split, dataset.group, dataset.task, dataset.labels, dims
    )
    found.notes = (*dataset.notes, *notes)
    return found


def unknown_words(encoder: Encoder, modality: Modality, ids: Sequence[str]) -> list[str]:
    """What to say of cells whose words the encoder did not meet in training; nothing of kinds without cells."""
    if not modality.fields:
        return []
    there = [row for row, value in enumerate(modality.values) if value is not None]
    found = encoder.unknown([modality.values[row] for row in there])
    return [
        f"column {modality.fields[cell]!r}: {count(len(words), 'cell')} with what no training row holds: "
        f"{some([f'{ids[there[place]]}: {short(word)}' for place, word in words], 3)}"
        for cell, words in found.items()
    ]


def encode_row(
    specs: Mapping[str, Any], row: Mapping[str, Any], encoders: Mapping[str, Encoder]
) -> dict[str, np.ndarray | None]:
    """Features ``(T, D)`` of one row, None where a modality is absent: what :func:`encode_rows` gives of it, without a
    table around.

    Args:
        specs: as there.
        row: ``{modality: value}``, each value of its kind (:meth:`weft.data.Modality.check`).
        encoders: those that :func:`make_encoder` made before.

    Raises:
        UserError: a value cannot be read.
    """
    found: dict[str, np.ndarray | None] = dict.fromkeys(specs)
    for name, value in row.items():
        run = Run(name, encoders[name], Unique([value], [], np.zeros(1, np.int64)), ["0"], 1)
        found[name] = _rounded(run.one(specs[name]["dtype"]), specs[name]["dtype"])
    return found


def _rounded(array: np.ndarray | None, dtype: str) -> np.ndarray | None:
    """Features as they read when a store has kept them in this dtype."""
    return array if array is None or dtype == "fp32" else torch.from_numpy(array).to(DTYPES[dtype]).float().numpy()
