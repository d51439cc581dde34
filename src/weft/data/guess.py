"""Look at a table and propose what its columns are; write it as a YAML that a person corrects."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from weft.data.columns import Columns, as_list, is_numeric
from weft.data.dataset import Kind, TaskName
from weft.data.files import AUDIO_SUFFIXES, IMAGE_SUFFIXES, read_array
from weft.data.splits import Method
from weft.data.table import (
    FEW_CLASSES,
    SPLIT_WORDS,
    ModalityConfig,
    SplitsConfig,
    TableConfig,
    classes_of,
    label_set,
)
from weft.errors import UserError, some

LOOKED_AT = 1000
"""Cells of a column that a kind is guessed from."""

_ROLES = {
    "id": ("id", "uid", "key", "sample_id", "row_id"),
    "group": (
        "group",
        "group_id",
        "subject",
        "subject_id",
        "patient",
        "patient_id",
        "speaker",
        "speaker_id",
        "user_id",
    ),
    "target": ("target", "targets", "label", "labels", "class", "y", "answer", "tags", "sentiment", "outcome", "score"),
}


def guess_table(path: str | Path) -> TableConfig:
    """Propose a configuration from the names and cells of a table's columns.

    The split column is the one whose words are splits; other roles go by name: id, group, target (else the last column
    of numbers or of few distinct words). The rest become modalities: file names by their suffix, lists by their
    lengths, long strings as text, and all numbers and short words together as one tabular modality.

    Args:
        path: a CSV, Parquet or JSONL file. The configuration holds its absolute path.

    Raises:
        UserError: the file cannot be read, or no column can be a modality.
    """
    path = Path(path)
    columns = Columns(path)
    cells = {name: columns.cells(name, "guess") for name in columns.names}
    roles = {role: _by_name(cells, words) for role, words in _ROLES.items()}
    if roles["id"] is not None:
        values = cells[roles["id"]]
        if None in values or len({str(v) for v in values}) < len(values):
            roles["id"] = None
    roles["split"] = next((name for name in columns.names if _is_split(cells[name])), None)
    free = [n for n in columns.names if n not in roles.values() and any(c is not None for c in cells[n])]
    kinds = {name: _guess_kind(_first_present(cells[name]), path.parent) for name in free}
    if roles["target"] is None:
        plain = [name for name in free if kinds[name] == "tabular" and None not in cells[name]]
        if plain and len(free) > 1 and len(set(map(str, cells[plain[-1]]))) > 1:
            roles["target"] = plain[-1]
            del kinds[plain[-1]]
    modalities = {name: ModalityConfig(kind=kind, column=name) for name, kind in kinds.items() if kind != "tabular"}
    plain = [name for name, kind in kinds.items() if kind == "tabular"]
    if plain:
        modalities["tabular" if "tabular" not in modalities else "columns"] = ModalityConfig(
            kind="tabular", columns=plain
        )
    if not modalities:
        found = f"columns {some(columns.names, 20)}"
        raise UserError(f"{path}: no column can be a modality", found, "add a text, file, list or number column")
    target = roles["target"]
    task: TaskName = "retrieval" if target is None else _guess_task(cells[target])
    labels = None
    if target is not None and task == "multilabel":
        labels = sorted(set().union(*(label_set(cell) for cell in cells[target])))
    return TableConfig(
        table=str(path.absolute()),
        **roles,
        task=task,
        labels=labels,
        modalities=modalities,
        splits=SplitsConfig(method=_guess_split(roles, task, cells)),
    )


def _by_name(cells: dict[str, list[Any]], words: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in cells}
    return next(
        (lower[word] for word in words if word in lower and any(c is not None for c in cells[lower[word]])), None
    )


def _is_split(cells: Sequence[Any]) -> bool:
    """Whether a column says train, test and perhaps dev, and nothing else."""
    words = {str(cell).strip().lower() for cell in cells}
    return words <= set(SPLIT_WORDS) and {"train", "test"} <= {SPLIT_WORDS[word] for word in words}


def _first_present(cells: Sequence[Any]) -> list[Any]:
    """Enough cells to tell a kind from."""
    return list(islice((cell for cell in cells if cell is not None), LOOKED_AT))


def _guess_kind(cells: Sequence[Any], folder: Path) -> Kind:
    """The kind that most of these cells look like."""
    votes = Counter(_look(cell) for cell in cells)
    kind = votes.most_common(1)[0][0]
    if kind in ("vector", "series") and len({len(as_list(c) or ()) for c in cells}) > 1:
        return "series"
    if kind == "npy":
        first = next(cell for cell in cells if _look(cell) == "npy")
        return "vector" if read_array(folder / first, f"array {first!r}").ndim == 1 else "series"
    if kind == "words":
        distinct = {str(c) for c in cells}
        return "tabular" if len(distinct) <= FEW_CLASSES and len(distinct) < sum(votes.values()) else "text"
    return kind


def _look(cell: Any) -> Any:
    items = as_list(cell)
    if items is not None:
        return "series" if items and isinstance(items[0], list) else "vector"
    if isinstance(cell, dict):
        return "image"
    suffix = Path(cell).suffix.lower() if isinstance(cell, str) and len(cell) < 1024 else ""
    if suffix == ".npy":
        return "npy"
    if suffix in IMAGE_SUFFIXES | AUDIO_SUFFIXES:
        return "image" if suffix in IMAGE_SUFFIXES else "audio"
    if is_numeric([cell]):
        return "tabular"
    return "text" if len(str(cell).split()) > 3 else "words"


def _guess_task(cells: Sequence[Any]) -> TaskName:
    there = [cell for cell in cells if cell is not None]
    if any(as_list(cell) is not None or (isinstance(cell, str) and re.search(r"\w[|;]\w", cell)) for cell in there):
        return "multilabel"
    if not is_numeric(there):
        return "classification"
    classes = classes_of(there)
    return "classification" if classes.dtype.kind == "i" and len(np.unique(classes)) <= FEW_CLASSES else "regression"


def _guess_split(roles: dict[str, str | None], task: str, cells: dict[str, list[Any]]) -> Method:
    if roles["split"] is not None:
        return "given"
    if roles["group"] is not None:
        return "grouped"
    return "stratified" if task == "classification" else "random"


# --- writing the YAML ---------------------------------------------------------------------------------------------

PROPOSALS = {
    "text": (
        "hashed-text",
        (
            "hf:sentence-transformers/all-MiniLM-L6-v2",
            "hf:BAAI/bge-small-en-v1.5",
            "hf:answerdotai/ModernBERT-base",
        ),
    ),
    "image": (
        "image-patches",
        ("hf:facebook/dinov2-small", "hf:google/siglip-base-patch16-224", "hf:google/vit-base-patch16-224"),
    ),
    "audio": ("log-mel", ("hf:facebook/wav2vec2-base", "hf:openai/whisper-tiny")),
    "series": ("random-kernels", ("raw-patches",)),
    "tabular": ("columns", ()),
    "vector": ("precomputed", ()),
    "tokens": ("precomputed", ()),
}
"""For every kind the built-in encoder that is the default, and what is worth trying instead."""


def to_commented_yaml(config: TableConfig, folder: str | Path | None = None) -> str:
    """The configuration as YAML with comments that say what may be changed; :func:`load_config` reads it back.

    Args:
        config: what the columns are.
        folder: where the YAML will lie, as the table's path is written relative to it. None: the working folder.
    """
    table = os.path.relpath(config.table, folder or Path.cwd())
    lines = [
        "# Written by `weft init`. Check the guesses, then run: weft compare <this file>",
        f"table: {_scalar(table)}  # CSV, Parquet or JSONL; relative to this file; paths in its cells: to the table",
    ]
    notes = {
        "id": "column of unique row ids; null: rows are numbered",
        "split": "column with train, dev, test (val, validation and the like are understood); null: see splits",
        "group": "rows of one group (patient, speaker, source image) never cross a split; null: rows are independent",
        "target": "column to predict, or a list of columns (the first is the default); null for retrieval",
        "task": "classification, multilabel, regression or retrieval",
    }
    lines += [f"{key}: {_scalar(getattr(config, key))}  # {note}" for key, note in notes.items()]
    if config.labels is not None:
        lines.append(f"labels: {_scalar(config.labels)}  # in the order of the outputs")
    lines += ["", "modalities:  # the order here is the order everywhere"]
    for name, modality in config.modalities.items():
        lines += _modality_lines(name, modality)
    lines += ["", *_split_lines(config.splits)]
    return "\n".join(lines) + "\n"


def _modality_lines(name: str, modality: ModalityConfig) -> list[str]:
    built_in, models = PROPOSALS[modality.kind]
    lines = [f"  {_scalar(name)}:", f"    kind: {modality.kind}"]
    if modality.column is not None:
        lines.append(f"    column: {_scalar(modality.column)}")
    else:
        lines += ["    columns:", *(f"      - {_scalar(column)}" for column in modality.columns or ())]
    note = "built in, needs no weights"
    if models:
        note += (
            ". For forecasts, instead:"
            if modality.kind == "series"
            else ". Models that usually encode better, instead:"
        )
    lines.append(f"    encoder: {_scalar(modality.encoder or built_in)}  # {note}")
    lines += [f"    # encoder: {model}" for model in models]
    if modality.options:
        lines.append(f"    options: {_scalar(modality.options)}")
    return lines


def _split_lines(splits: SplitsConfig | None) -> list[str]:
    if splits is None:
        return []
    return [
        "splits:",
        f"  method: {_scalar(splits.method)}  # given (the split column), grouped, stratified or random",
        f"  fractions: {_scalar(list(splits.fractions))}  # train, dev, test",
        f"  seed: {splits.seed}",
    ]


def _scalar(value: Any) -> str:
    """One value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True).replace("\n...", "").strip()
