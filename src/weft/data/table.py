"""Tables of one's own: one row per sample, columns that are modalities, targets, id, split and group.

:class:`TableConfig` says what each column is; it is a YAML that :mod:`weft.data.guess` proposes and a person corrects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
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
    path_values,
    tabular_values,
    text_values,
)
from weft.data.dataset import SPLITS, Dataset, Kind, Modality, TaskName
from weft.data.files import require_files
from weft.data.splits import FRACTIONS, Method, make_splits
from weft.errors import UserError, did_you_mean, some

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
FEW_CLASSES = 20


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
    classes = classes_of(cells)
    if training and config.task == "classification" and len(np.unique(classes)) < 2:
        raise UserError(
            f"{columns.path}: target {column!r} has only one class",
            f"{classes[0]!r} in all {len(ids)} rows",
            "choose another target column, or set task: regression if it is a number",
        )
    return classes, ()


def classes_of(cells: Sequence[Any]) -> np.ndarray:
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
    sets = [label_set(cell) for cell in cells]
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


def label_set(cell: Any) -> set[str]:
    """``["a", "b"]``, a JSON list, ``a|b`` or ``a;b``."""
    if cell is None:
        return set()
    items = as_list(cell)
    if items is None:
        items = re.split(r"[|;]", str(cell))
    return {str(item).strip() for item in items if str(item).strip()}


# --- looking at a table -------------------------------------------------------------------------------------------
