"""Tables of one's own: one row per sample, columns that are modalities, targets, id, split and group.

:class:`~weft.data.table_config.TableConfig` says what each column is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from weft.data.cells import (
    CellType,
    as_category,
    is_blank,
    learn_type,
    read_or_none,
    says_blank,
    with_thousands,
)
from weft.data.columns import Columns, said_of_totals
from weft.data.dataset import SPLITS, Dataset, Modality
from weft.data.failure import Failure, OnError
from weft.data.kinds import Kind, Place, kind_named
from weft.data.splits import Split, make_splits
from weft.data.table_config import ModalityConfig, SplitsConfig, TableConfig
from weft.data.target_cells import (
    FEW_CLASSES,
    as_class,
    as_numbers,
    classes_among,
    dates_as_classes,
    indicators_of,
    lacks_target,
    number_or_nan,
    numbers_of,
    refuse_dates,
)
from weft.data.targets import reads_of, tasks
from weft.errors import UserError, count, did_you_mean, some

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
EPOCH = datetime(1970, 1, 1)


def read_table(source: Any, config: TableConfig, *, require_target: bool = True, on_error: OnError = "stop") -> Dataset:
    """Read a table as its configuration says.

    How cells are read (``types``), and the classes of a target, are what the configuration says, else what the training
    rows teach; both are in the ``table`` of the data set, so new rows are read by what training learned and never by
    the rows beside them. Rows without a target, and rows of sums under the table, are left out, and that is noted.

    Args:
        source: a CSV, Parquet or JSONL file; files named in it are relative to its folder. Or a table in memory, whose
            files are relative to the working folder.
        config: what the columns are.
        require_target: False for prediction on new rows: target, split, group and id may then be missing or say
            anything, the columns of a modality may all be missing, and rows may be empty.
        on_error: ``"skip"``: a cell that is no value of its kind, or names a file that is not there, counts as absent,
            rows with nothing left are left out (new rows stay), and both are in the ``failures`` of the data set.

    Raises:
        UserError: a missing column, duplicate ids, a missing file, an empty modality, a ragged or non-finite array, a
            non-numeric or constant target, or one that no row has, a row without any modality, a group in two splits.
            Rows are named by id.
    """
    columns = Columns(source)
    path = columns.path
    totals = columns.leave_out_totals() if require_target else []
    rows = _training_rows(columns, config) if require_target else _new_rows(columns, config)
    rows.notes[:0] = totals
    if config.splits is not None and require_target:
        rows.split = _split_names(rows, _parts(rows, config.splits))
    teachers = _teachers(rows, config) if require_target else np.arange(len(rows))
    known = [column for modality in config.modalities.values() for column in modality.names]
    if not require_target and not set(known) & set(columns.names):
        found, remedy = f"columns {some(columns.names, 20)}", did_you_mean(known[0], columns.names, "columns")
        raise UserError(f"{path}: no column {known[0]!r}, nor any other of {some(known, 20)}", found, remedy)
    modalities, chosen = {}, {}
    failures: list[Failure] = []
    skipped = failures if on_error == "skip" else None
    for name, modality in config.modalities.items():
        if not require_target and not set(modality.names) & set(columns.names):
            chosen[name], modalities[name] = modality, _absent(modality, rows, name)
        else:
            taught = teachers if require_target else None
            chosen[name], modalities[name] = _modality(columns, name, modality, rows, taught, skipped)
    if not require_target:
        _say_what_is_blank(rows, modalities, {failure.row for failure in failures})
    empty = [name for name, modality in modalities.items() if not modality.presence.any()]
    if empty and require_target:
        used = {name: config.modalities[name].names for name in empty}
        raise UserError(
            f"{path}: modality {empty[0]!r} is empty in every row", f"columns {used}", "remove the modality"
        )
    if require_target:
        rows, modalities = _with_something(rows, modalities, skipped)
    labels = config.labels
    if reads_of(config.task) == "sets" and rows.labels:
        labels = list(next(iter(rows.labels.values())))
    classes = {**config.classes, **rows.classes}
    learned = config.model_copy(update={"modalities": chosen, "classes": classes, "labels": labels})
    return Dataset(
        name=path.stem,
        ids=rows.ids,
        modalities=modalities,
        targets=rows.targets,
        split=rows.split,
        group=rows.group,
        task=config.task,
        labels=rows.labels,
        table=learned.model_dump(mode="json"),
        time=rows.time,
        notes=tuple(rows.notes),
        failures=tuple(failures),
        blank=not require_target,
    )


def _with_something(
    rows: _Rows, modalities: dict[str, Modality], failures: list[Failure] | None
) -> tuple[_Rows, dict[str, Modality]]:
    """The rows that have any modality, of those that are kept; the others are failures, or are said to be left out."""
    there = _anything(modalities)
    kept = np.isin(np.arange(len(rows)), np.arange(len(rows)) if rows.kept is None else rows.kept)
    empty = [rows.ids[row] for row in np.flatnonzero(kept & ~there)]
    if failures is None and empty:
        rows.notes.append(f"left out: {count(len(empty), 'empty row')}: {some(empty)}")
    elif failures is not None:
        said = {failure.row for failure in failures}
        gone = [row for row in empty if row not in said]
        failures.extend(Failure(row, next(iter(modalities)), "", "every cell of the row is empty") for row in gone)
    keep = np.flatnonzero(kept & there)
    if not len(keep):
        found = f"{count(len(empty), 'row')} with a target, each of them empty: {some(empty)}"
        if failures:
            found = f"{count(len(failures), 'cell')}; the first, row {failures[0].row!r}: {failures[0].why}"
        raise UserError("no row has anything that can be read", found, "mend the table")
    if len(keep) == len(rows):
        return rows, modalities
    return rows.take(keep), {name: modality.take(keep) for name, modality in modalities.items()}


def _anything(modalities: Mapping[str, Modality]) -> np.ndarray:
    """``(N,)`` bool: the rows of which anything is known."""
    found: np.ndarray = np.any([modality.presence for modality in modalities.values()], axis=0)
    return found


@dataclass
class _Rows:
    """All of a table but its modalities; a ``Splittable``."""

    ids: list[str]
    task: str
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    classes: dict[str, list[bool | int | str]] = field(default_factory=dict)
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    time: np.ndarray | None = None
    kept: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> _Rows:
        """What a split looks at, of some rows."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            targets={name: values[rows] for name, values in self.targets.items()},
            split=None if self.split is None else self.split[rows],
            group=None if self.group is None else self.group[rows],
            time=None if self.time is None else self.time[rows],
            kept=None,
        )


def _training_rows(columns: Columns, config: TableConfig) -> _Rows:
    rows = _Rows(_ids(columns, config.id), config.task)
    for name in config.target_names:
        _read_target(columns, name, config, rows)
    _side_by_side(config, rows)
    if reads_of(config.task) == "columns":
        _refuse_rows(config, rows)
    rows.split = None if config.split is None else _split(columns, config.split, rows.ids)
    rows.group = None if config.group is None else _group(columns, config, rows.ids)
    rows.time = None if config.time is None else _time(columns, config.time, rows.ids)
    for name, classes in config.classes.items():
        if name in rows.targets:
            known = np.isin(rows.targets[name], classes)
            rows.kept = np.flatnonzero(known if rows.kept is None else known & np.isin(np.arange(len(rows)), rows.kept))
            if not known.all():
                others = Counter(rows.targets[name][~known].tolist())
                rows.notes.append(
                    f"left out: {int((~known).sum())} rows whose {name!r} is not in 'classes': {_counted(others)}"
                )
    if rows.kept is not None and not len(rows.kept):
        found = f"{list(config.classes)} in {columns.path}"
        raise UserError("no row has one of the 'classes' of the configuration", found, "correct the classes")
    return rows


def _new_rows(columns: Columns, config: TableConfig) -> _Rows:
    known = config.id is not None and config.id in columns.names
    rows = _Rows(_ids(columns, config.id if known else None), config.task)
    if under := columns.totals():
        rows.notes.append(f"answered like any other, and not judged: {said_of_totals(under)}")
    for name in config.target_names:
        if name in columns.names:
            _read_new_target(columns, name, config, rows, len(under))
    _side_by_side(config, rows)
    return rows


def _side_by_side(config: TableConfig, rows: _Rows) -> None:
    """One target ``(N, C)``, under the first name, for a task that asks for all target columns together."""
    if reads_of(config.task) != "columns":
        return
    there = [name for name in config.target_names if name in rows.targets]
    columns = [rows.targets.pop(name) for name in there]
    if len(columns) == len(config.target_names):
        rows.targets[there[0]] = np.stack(columns, axis=1)
        rows.labels[there[0]] = tuple(there)


def _refuse_rows(config: TableConfig, rows: _Rows) -> None:
    """Refuse rows with a target of several columns that their task cannot learn from."""
    kept = np.arange(len(rows)) if rows.kept is None else rows.kept
    if not len(kept):
        found = f"{len(rows)} rows, in each {some(config.target_names)} or one of them is missing"
        raise UserError("no row has a whole target", found, "name the columns of the target")
    target = next(iter(rows.targets.values()))
    tasks.get(config.task).check_rows(target[kept], [rows.ids[row] for row in kept])


def _parts(rows: _Rows, splits: SplitsConfig | None) -> Split:
    """The split, by row numbers of the whole table; rows that are left out are in no part."""
    kept = np.arange(len(rows)) if rows.kept is None else rows.kept
    splits = splits or SplitsConfig()
    return Split(*(kept[part] for part in make_splits(rows.take(kept), splits.method, splits.fractions, splits.seed)))


def _split_names(rows: _Rows, parts: Split) -> np.ndarray:
    names = np.full(len(rows), "train", dtype="<U5")
    for name, part in zip(SPLITS, parts, strict=True):
        names[part] = name
    return names


def _teachers(rows: _Rows, config: TableConfig) -> np.ndarray:
    """The rows that types are learned from: those of training; all, where there are too few to split."""
    if rows.split is not None and (rows.split == "train").any():
        return np.flatnonzero(rows.split == "train")
    try:
        return _parts(rows, config.splits).train
    except UserError:
        return np.arange(len(rows)) if rows.kept is None else rows.kept


def _ids(columns: Columns, column: str | None) -> list[str]:
    if column is None:
        return [str(row) for row in range(columns.rows)]
    cells = columns.cells(column, "id")
    gone = [row for row, cell in enumerate(cells) if cell is None]
    if gone:
        remedy = "give every row an id, or leave 'id' out of the configuration: rows are then numbered"
        raise UserError(f"{columns.path}: empty ids in column {column!r}", f"rows {some(gone)} (from 0)", remedy)
    return [str(cell) for cell in cells]


def _absent(config: ModalityConfig, rows: _Rows, name: str) -> Modality:
    """A modality of which new rows have no column."""
    rows.notes.append(f"modality {name!r} is absent in every row: there is no column {some(config.names)}")
    return Modality(config.kind, [None] * len(rows), tuple(config.names) if kind_named(config.kind).typed else ())


def said_of_blank(ids: Sequence[str]) -> str:
    """What is said of rows to predict that hold nothing a model can read."""
    return f"{count(len(ids), 'empty row')} answered as one of which nothing is known: {some(ids)}"


def _say_what_is_blank(rows: _Rows, modalities: Mapping[str, Modality], failed: Container[str]) -> None:
    """Note new rows of which nothing is known, but those whose cells cannot be read."""
    there = _anything(modalities)
    blank = [rows.ids[row] for row in np.flatnonzero(~there) if rows.ids[row] not in failed]
    if blank:
        rows.notes.append(said_of_blank(blank))


def _modality(
    columns: Columns,
    name: str,
    config: ModalityConfig,
    rows: _Rows,
    teachers: np.ndarray | None,
    failures: list[Failure] | None,
) -> tuple[ModalityConfig, Modality]:
    """The modality, and its configuration with the types that were learned; ``teachers`` None: of new rows."""
    kind = kind_named(config.kind)
    lacking = [column for column in config.names if column not in columns.names]
    if len(lacking) > 1:
        found = f"{some(lacking, 20)} are missing; there are {some(columns.names, 20)}"
        remedy = (
            f"add them, with empty cells where nothing is known ({did_you_mean(lacking[0], columns.names, 'columns')})"
        )
        raise UserError(f"{columns.path}: no columns {some(lacking, 3)} (modality {name!r})", found, remedy)
    cells = [columns.cells(column, f"modality {name!r}") for column in config.names]
    if kind.typed:
        config = config.model_copy(update={"types": _types(config, cells, teachers)})
    teaches, types = teachers is not None, dict(config.types)
    place = Place(name, config.names, rows.ids, columns.path.parent, types, rows.notes, teaches)
    try:
        values = kind.convert(cells, place)
    except UserError:
        if failures is None:
            raise
        values = list(_one_by_one(kind, cells, place, failures))
    return config, Modality(config.kind, values, tuple(config.names) if kind.typed else ())


def _types(
    config: ModalityConfig, columns: Sequence[Sequence[Any]], teachers: np.ndarray | None
) -> dict[str, CellType]:
    """How each column is read: as it is said, else as the teachers teach; theirs are the separators of thousands."""
    types = {}
    for column, cells in zip(config.names, columns, strict=True):
        known, shown = config.types.get(column), cells if teachers is None else [cells[row] for row in teachers]
        types[column] = learn_type(shown) if known is None else known
        if teachers is not None:
            types[column] = with_thousands(types[column], shown)
    return types


def _one_by_one(kind: Kind, cells: Sequence[Sequence[Any]], place: Place, failures: list[Failure]) -> Iterator[Any]:
    """Each row's value, None where it is none; that is a failure."""
    for row, *own in zip(place.ids, *cells, strict=True):
        try:
            yield kind.convert([[cell] for cell in own], replace(place, ids=[row]))[0]
        except UserError as error:
            shown = ", ".join(str(cell)[:200] for cell in own)
            what = error.what.removeprefix(f"modality {place.modality!r}, row {row!r}: ")
            failures.append(Failure(row, place.modality, shown, f"{what}: {error.found}"))
            yield None


def _split(columns: Columns, column: str, ids: list[str]) -> np.ndarray:
    words = [str(cell).strip().lower() for cell in columns.cells(column, "split")]
    unknown = [f"{row}: {word}" for row, word in zip(ids, words, strict=True) if word not in SPLIT_WORDS]
    if unknown:
        known = ", ".join(SPLIT_WORDS)
        raise UserError(f"{columns.path}: column {column!r} names no split", some(unknown), f"known words: {known}")
    return np.array([SPLIT_WORDS[word] for word in words])


def _group(columns: Columns, config: TableConfig, ids: list[str]) -> np.ndarray:
    """``(N,)`` names of groups; a row that lacks the photo or text by which rows are grouped stands alone."""
    column = str(config.group)
    cells = columns.cells(column, "group")
    if column in (modality.column for modality in config.modalities.values()):
        cells = [f"(row {row})" if cell is None else cell for row, cell in zip(ids, cells, strict=True)]
    gone = [row for row, cell in zip(ids, cells, strict=True) if cell is None]
    if gone:
        remedy = "give each of these rows a group; a row of its own has a group of its own"
        raise UserError(f"{columns.path}: empty cells in group column {column!r}", f"rows {some(gone)}", remedy)
    return np.array([str(cell) for cell in cells])


def _time(columns: Columns, column: str, ids: list[str]) -> np.ndarray:
    """``(N,)`` seconds."""
    cells = columns.cells(column, "time")
    type_ = learn_type(cells)
    if type_ == "category":
        raise UserError(
            f"{columns.path}: column {column!r} is to order the rows in time",
            f"{some([cell for cell in cells if not is_blank(cell)], 3)}",
            "name a column of dates or numbers",
        )
    values, wrong = [], []
    for row, cell in zip(ids, cells, strict=True):
        value = read_or_none(cell, type_)
        if isinstance(value, float | datetime):
            values.append(value if isinstance(value, float) else (value - EPOCH).total_seconds())
        else:
            wrong.append(row)
    if wrong:
        raise UserError(
            f"{columns.path}: rows without a time in column {column!r}",
            f"{len(wrong)} rows: {some(wrong)}",
            "drop these rows, or split by another method",
        )
    return np.array(values, dtype=np.float64)


def _read_target(columns: Columns, column: str, config: TableConfig, rows: _Rows) -> None:
    """Put a target, and its labels or classes, into ``rows``."""
    cells, ids, where = columns.cells(column, "target"), rows.ids, str(columns.path)
    reads = reads_of(config.task)
    lacks = lacks_target(cells, config.classes.get(column, ()))
    gone = [ids[row] for row in np.flatnonzero(lacks)]
    if reads != "sets" and len(gone) == len(ids):
        remedy = "choose another target column, or set task: retrieval, which needs none"
        raise UserError(f"{columns.path}: target {column!r} is missing in every row", f"{len(ids)} rows", remedy)
    if reads == "sets":
        rows.targets[column], rows.labels[column] = indicators_of(where, column, cells, ids, config.labels)
        return
    there = np.flatnonzero(~lacks)
    told = [cells[row] for row in there]
    if gone:
        words = dict.fromkeys(str(cells[row]).strip() for row in np.flatnonzero(lacks) if cells[row] is not None)
        missing = f"missing ({some(words, 3)})" if words else "missing"
        rows.notes.append(
            f"left out: {len(gone)} of {len(ids)} rows whose target {column!r} is {missing}: {some(gone)}"
        )
        rows.kept = there if rows.kept is None else np.intersect1d(rows.kept, there)
    if reads in ("numbers", "columns"):
        values = numbers_of(where, column, told, [ids[row] for row in there])
    else:
        if column not in config.classes:
            if len({*map(str, told)}) > FEW_CLASSES:
                refuse_dates(where, column, told)
            rows.notes += dates_as_classes(column, told)
        values = classes_among(told, config.classes.get(column))
    rows.targets[column] = np.full(len(ids), values[0], dtype=values.dtype)
    rows.targets[column][there] = values
    if reads is None or reads in ("numbers", "columns"):
        return
    if config.labels:
        rows.labels[column] = tuple(config.labels)
    classes = np.unique(values).tolist()
    rows.classes[column] = list(config.classes.get(column, classes))


def _read_new_target(columns: Columns, column: str, config: TableConfig, rows: _Rows, totals: int) -> None:
    """The target of new rows where it is there: a cell that says nothing is None or NaN, and nothing is refused."""
    cells = columns.cells(column, "target")
    cells = [*cells[: len(cells) - totals], *[None] * totals]
    if all(says_blank(cell) for cell in cells):
        return
    reads = reads_of(config.task)
    if reads == "sets":
        try:
            rows.targets[column], rows.labels[column] = indicators_of(
                str(columns.path), column, cells, rows.ids, config.labels
            )
        except UserError as error:
            rows.notes.append(f"the target {column!r} of these rows is not read: {error.what}")
        return
    if reads in ("numbers", "columns"):
        rows.targets[column] = np.array([number_or_nan(cell) for cell in as_numbers(cells)], dtype=np.float64)
        return
    known = config.classes.get(column, [])
    unsaid = [says_blank(cell) and str(as_category(cell)) not in map(str, known) for cell in cells]
    if any(unsaid):
        values = [None if gone else as_class(cell, known) for cell, gone in zip(cells, unsaid, strict=True)]
        rows.targets[column] = np.array(values, dtype=object)
    else:
        rows.targets[column] = classes_among(cells, config.classes.get(column))


def _counted(counts: Mapping[Any, int], most: int = 5) -> str:
    shown = [f"{name!r} ({count})" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")
