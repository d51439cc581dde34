"""Tables of one's own: one row per sample, columns that are modalities, targets, id, split and group.

:class:`TableConfig` says what each column is; it is a YAML that ``guess_table`` proposes and a person corrects.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weft.data.columns import (
    Columns,
    array_values,
    as_list,
    as_number,
    is_numeric,
    path_values,
    tabular_values,
    text_values,
)
from weft.data.dataset import SPLITS, Dataset, Kind, Modality, TaskName
from weft.data.files import AUDIO_SUFFIXES, IMAGE_SUFFIXES, read_array, require_files
from weft.data.splits import FRACTIONS, Method, make_splits
from weft.errors import UserError, did_you_mean, some

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
FEW_CLASSES = 20
LOOKED_AT = 1000
"""Cells of a column that a kind is guessed from."""


class ModalityConfig(BaseModel):
    """One modality of a table: its kind, its column or columns, its encoder and the encoder's options."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    column: str | None = None
    columns: list[str] | None = None
    encoder: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.columns is None) or self.columns == []:
            raise ValueError("give either 'column' or 'columns'")
        if self.kind in ("text", "image", "audio") and len(self.names) != 1:
            raise ValueError(f"a modality of kind {self.kind} has one column")
        return self

    @property
    def names(self) -> list[str]:
        """The columns, one or several."""
        return [self.column] if self.column is not None else list(self.columns or ())


class SplitsConfig(BaseModel):
    """How rows are split; see :func:`weft.data.make_splits`."""

    model_config = ConfigDict(extra="forbid")

    method: Method | None = None
    fractions: tuple[float, float, float] = FRACTIONS
    seed: int = 0


class TableConfig(BaseModel):
    """What the columns of a table are.

    Attributes:
        table: path of the CSV, Parquet or JSONL file. :func:`load_config` makes it absolute.
        id, split, group: columns, if there are such. Without ``id`` the rows are numbered.
        target: the target column, or several; the first is the one asked for by default. None for retrieval.
        task: what is asked.
        labels: for ``multilabel``, the labels in the order of the outputs; None: those found, sorted.
        modalities: in the order of the modalities everywhere.
        splits: made when the table is read. None: whoever trains splits by its own seed.
    """

    model_config = ConfigDict(extra="forbid")

    table: str
    id: str | None = None
    split: str | None = None
    group: str | None = None
    target: str | list[str] | None = None
    task: TaskName
    labels: list[str] | None = None
    modalities: dict[str, ModalityConfig] = Field(min_length=1)
    splits: SplitsConfig | None = None

    @model_validator(mode="after")
    def _target_for_task(self) -> Self:
        if self.task != "retrieval" and not self.target_names:
            raise ValueError(f"task {self.task} needs a target; without one the task is retrieval")
        return self

    @property
    def target_names(self) -> list[str]:
        """The target columns, none, one or several."""
        return [self.target] if isinstance(self.target, str) else list(self.target or ())


def load_config(path: str | Path) -> TableConfig:
    """Read a YAML; the table's path is relative to the YAML's folder and comes back absolute.

    Raises:
        UserError: missing file, no YAML, an unknown key or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("the configuration does not exist", str(path), "write one with: weft init TABLE")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML", str(error), "check the indentation and the quotes") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a configuration", f"{content!r}"[:80], "write one with: weft init TABLE")
    try:
        config = TableConfig(**content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        known = ModalityConfig.model_fields if first["loc"][:1] == ("modalities",) else TableConfig.model_fields
        extra = first["type"] == "extra_forbidden"
        remedy = did_you_mean(str(first["loc"][-1]), known, "keys") if extra else "correct the value"
        raise UserError(f"{path}: {key}: {first['msg']}", f"{first.get('input')!r}"[:200], remedy) from None
    return config.model_copy(update={"table": os.path.abspath(path.parent / config.table)})


def read_table(path: str | Path, config: TableConfig, *, require_target: bool = True) -> Dataset:
    """Read a table as its configuration says.

    Args:
        path: a CSV, Parquet or JSONL file; files named in it are relative to its folder.
        config: what the columns are.
        require_target: False for prediction on new rows: target, split and group columns may then be missing, and a
            modality may be absent in every row.

    Raises:
        UserError: a missing column, duplicate ids, a missing file, an empty modality, a ragged or non-finite array, a
            missing, non-numeric or one-class target, a row without any modality, a group in two splits. Rows are named
            by id.
    """
    path = Path(path)
    columns = Columns(path)
    ids = _ids(columns, config.id)
    modalities = {name: _modality(columns, name, m, ids) for name, m in config.modalities.items()}
    empty = [name for name, modality in modalities.items() if not modality.presence.any()]
    if empty and require_target:
        used = {name: config.modalities[name].names for name in empty}
        raise UserError(
            f"{path}: modality {empty[0]!r} is empty in every row", f"columns {used}", "remove the modality"
        )

    def optional(column: str | None) -> bool:
        return column is not None and (require_target or column in columns.names)

    targets = {
        name: _target(columns, name, config, ids, require_target) for name in config.target_names if optional(name)
    }
    multilabel = config.task == "multilabel"
    dataset = Dataset(
        name=path.stem,
        ids=ids,
        modalities=modalities,
        targets={name: values for name, (values, _) in targets.items()},
        split=_split(columns, config.split, ids) if config.split is not None and optional(config.split) else None,
        group=_group(columns, config.group, ids) if config.group is not None and optional(config.group) else None,
        task=config.task,
        labels={name: labels for name, (_, labels) in targets.items()} if multilabel else {},
        table=config.model_dump(mode="json"),
    )
    return _with_splits(dataset, config.splits) if config.splits is not None and require_target else dataset


def _with_splits(dataset: Dataset, splits: SplitsConfig) -> Dataset:
    parts = make_splits(dataset, splits.method, splits.fractions, splits.seed)
    names = np.full(len(dataset), "train", dtype="<U5")
    for name, rows in zip(SPLITS, parts, strict=True):
        names[rows] = name
    return replace(dataset, split=names)


def _ids(columns: Columns, column: str | None) -> list[str]:
    if column is None:
        return [str(row) for row in range(columns.rows)]
    cells = columns.cells(column, "id")
    gone = [row for row, cell in enumerate(cells) if cell is None]
    if gone:
        remedy = "give every row an id, or leave 'id' out of the configuration: rows are then numbered"
        raise UserError(f"{columns.path}: empty ids in column {column!r}", f"rows {some(gone)} (from 0)", remedy)
    return [str(cell) for cell in cells]


def _modality(columns: Columns, name: str, config: ModalityConfig, ids: list[str]) -> Modality:
    cells = [columns.cells(column, f"modality {name!r}") for column in config.names]
    folder = columns.path.parent
    if config.kind == "text":
        return Modality("text", text_values(cells[0]))
    if config.kind in ("image", "audio"):
        values = path_values(folder)(cells[0], name, ids)
        require_files(name, ids, values)
        return Modality(config.kind, values)
    if config.kind == "tabular":
        return Modality("tabular", tabular_values(cells), tuple(config.names))
    return Modality(config.kind, array_values(cells, config.kind, name, ids, folder))


def _split(columns: Columns, column: str, ids: list[str]) -> np.ndarray:
    words = [str(cell).strip().lower() for cell in columns.cells(column, "split")]
    unknown = [f"{row}: {word}" for row, word in zip(ids, words, strict=True) if word not in SPLIT_WORDS]
    if unknown:
        known = ", ".join(SPLIT_WORDS)
        raise UserError(f"{columns.path}: column {column!r} names no split", some(unknown), f"known words: {known}")
    return np.array([SPLIT_WORDS[word] for word in words])


def _group(columns: Columns, column: str, ids: list[str]) -> np.ndarray:
    cells = columns.cells(column, "group")
    gone = [row for row, cell in zip(ids, cells, strict=True) if cell is None]
    if gone:
        remedy = "give each of these rows a group; a row of its own has a group of its own"
        raise UserError(f"{columns.path}: empty cells in group column {column!r}", f"rows {some(gone)}", remedy)
    return np.array([str(cell) for cell in cells])


def _target(
    columns: Columns, column: str, config: TableConfig, ids: list[str], training: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The target and, for lists of labels, the names of its columns."""
    cells = columns.cells(column, "target")
    gone = [row for row, cell in zip(ids, cells, strict=True) if cell is None]
    if gone and config.task != "multilabel":
        raise UserError(
            f"{columns.path}: target {column!r} is missing in {len(gone)} of {len(ids)} rows",
            f"rows {some(gone)}",
            "drop these rows; or take the target out and set task: retrieval, which needs none",
        )
    if config.task == "multilabel":
        return _indicators(columns, column, config.labels, cells, ids)
    if config.task == "regression":
        return _numbers(columns, column, cells, ids), ()
    classes = _classes(cells)
    if training and config.task == "classification" and len(np.unique(classes)) < 2:
        raise UserError(
            f"{columns.path}: target {column!r} has only one class",
            f"{classes[0]!r} in all {len(ids)} rows",
            "choose another target column, or set task: regression if it is a number",
        )
    return classes, ()


def _classes(cells: Sequence[Any]) -> np.ndarray:
    """Whole numbers as ints, everything else as str."""
    texts = [str(cell).strip() for cell in cells]
    if all(re.fullmatch(r"[+-]?(0|[1-9]\d{0,17})(\.0+)?", text) for text in texts):
        return np.array([int(text.split(".")[0]) for text in texts], dtype=np.int64)
    return np.array(texts)


def _numbers(columns: Columns, column: str, cells: Sequence[Any], ids: list[str]) -> np.ndarray:
    numbers, wrong = [], []
    for row, cell in zip(ids, cells, strict=True):
        try:
            value = as_number(cell)
        except (ValueError, TypeError):
            value = None
        if value is None or not np.isfinite(value):
            wrong.append(f"{row}: {cell}")
        numbers.append(value)
    if wrong:
        raise UserError(
            f"{columns.path}: regression target {column!r} holds cells that are no finite numbers",
            f"{len(wrong)} rows: {some(wrong)}",
            "correct or drop these rows, or set task: classification",
        )
    return np.array(numbers, dtype=np.float64)


def _indicators(
    columns: Columns, column: str, labels: list[str] | None, cells: Sequence[Any], ids: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Lists of labels as ``(N, K)`` zeros and ones; an empty cell is a row without labels."""
    sets = [_label_set(cell) for cell in cells]
    names = tuple(labels) if labels else tuple(sorted(set().union(*sets)))
    index = {label: k for k, label in enumerate(names)}
    unknown = [f"{row}: {label}" for row, found in zip(ids, sets, strict=True) for label in sorted(found - set(names))]
    if unknown or not names:
        raise UserError(
            f"{columns.path}: target {column!r} has labels that 'labels' does not list"
            if unknown
            else f"{columns.path}: target {column!r} has no labels",
            some(unknown) if unknown else "every cell is empty",
            "add them to 'labels' in the configuration" if unknown else "check the target column",
        )
    hot = np.zeros((len(ids), len(names)), dtype=np.int64)
    for row, found in enumerate(sets):
        hot[row, [index[label] for label in found]] = 1
    return hot, names


def _label_set(cell: Any) -> set[str]:
    """``["a", "b"]``, a JSON list, ``a|b`` or ``a;b``."""
    if cell is None:
        return set()
    items = as_list(cell)
    if items is None:
        items = re.split(r"[|;]", str(cell))
    return {str(item).strip() for item in items if str(item).strip()}


# --- looking at a table -------------------------------------------------------------------------------------------

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
        labels = sorted(set().union(*(_label_set(cell) for cell in cells[target])))
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
    classes = _classes(there)
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
    "series": ("random-kernels", ()),
    "tabular": ("columns", ()),
    "vector": ("precomputed", ()),
    "tokens": ("precomputed", ()),
}
"""For every kind the built-in encoder, which needs no weights, and Hugging Face models worth trying."""


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
    note = "built in, needs no weights" + (". Models that usually encode better, instead:" if models else "")
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
