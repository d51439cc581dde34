"""What is warned of before a table is read: a target of which nothing can be learned or that may be a scale, columns
that tell it, dates read in doubt.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from weft.data.cells import (
    as_date,
    is_blank,
    is_numeric,
    read_or_none,
    reads_both_ways,
    said_of_unread,
    says_blank,
    several_units,
)
from weft.data.entities import EVENTS, ID_WORDS, NO_EVENTS, why_few, words_of
from weft.data.giveaway import rows_looked_at, why_given_away
from weft.data.table_config import ModalityConfig, TableConfig
from weft.data.target_cells import lacks_target
from weft.data.written import as_list
from weft.errors import short, some

Cells = Mapping[str, Sequence[Any]]
LOOKED_AT = 1000
FEW = 10
"""Rows up to which as many classes as rows are nothing strange."""
ORDINAL = '--task ordinal (in Python: task="ordinal")'
SHORT = 30
"""Characters of the longest cell that may be a date."""
READ = "2021-01-31, 31 Jan 2021, 1/31/2021, 31.01.2021, Jan-21, 2021-01, 2021-W04, 2021 Q1, each with a time"
_DATED = re.compile(r"(?=.*(?<!\d)(?:19|20)\d{2}(?!\d))(?=.*(?<!\d)\d{1,2}(?!\d)).*")
_PATH = re.compile(r"(?!\w{2,}://)\S*[\\/]\S*\.[A-Za-z]\w{1,4}")
_COMPACT = re.compile(r"(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")


def table_warnings(cells: Cells, config: TableConfig, target: np.ndarray | None) -> list[str]:
    """Warnings about a table as it is about to be read.

    Args:
        cells: ``{column: cells}``, None where empty.
        config: what the columns are.
        target: classes or floats of the rows that have one, ``(n,)``; None where there is none, or another.
    """
    found = [_names(cells)]
    if target is not None:
        name = config.target_names[0]
        looked_at = rows_looked_at(len(target))
        there = np.flatnonzero(~lacks_target(cells[name]))[looked_at]
        why = why_no_target(name, target)
        found += [why or why_given_away(_typed(cells, config, there), name, target[looked_at])]
        found += [] if why else spelt_alike(name, target)
    if config.group is not None:
        groups = [str(cell) for cell in cells[config.group] if not is_blank(cell)]
        found.append(why_few(config.group, len(set(groups)), len(groups)))
    for modality in config.modalities.values():
        for column in modality.names:
            found += [look(column, cells[column], modality) for look in (_dates, _units, _lengths, _names_of_files)]
    return [text for text in found if text is not None]


def _names(cells: Cells) -> str | None:
    """What to say of a table whose first line may be a row, or that may not have been cut into columns."""
    names = list(cells)
    if len(names) == 1:
        return f"the table has one column, {short(names[0])!r}: columns are delimited by , ; | or tabs"
    counted = names == [str(place) for place in range(len(names))]
    if not counted and all(_is_cell(name, list(islice(column, LOOKED_AT))) for name, column in cells.items()):
        return f"the first line looks like a row, not like names of columns: {some(names)}: put the names above it"
    return None


def _is_cell(name: str, column: Sequence[Any]) -> bool:
    """Whether the name of a column could be one of its cells."""
    there = [cell for cell in column if not is_blank(cell)]
    return bool(there) and (name in map(str, there) or (is_numeric([name]) and is_numeric(there)))


def why_no_target(name: str, target: np.ndarray) -> str | None:
    """Why nothing can be learned of a target ``(N,)``; floats are numbers, all else is classes."""
    values = np.unique(target)
    remedy = "choose another (weft init --target; in Python: target=)"
    if len(values) < 2:
        return f"target {name!r} is the same in every row, so nothing can be learned of it: {remedy}"
    number = target.dtype.kind == "f"
    counts = number and bool((np.abs(np.diff(target)) == 1).all())
    named = bool(words_of(name)) and words_of(name)[-1] in ID_WORDS and len(values) == len(target)
    if len(target) > FEW and (counts or named or (not number and len(values) > len(target) / 2)):
        return f"target {name!r} has {len(values):,} different values in {len(target):,} rows, as an id has: {remedy}"
    return None


def spelt_alike(name: str, target: np.ndarray) -> list[str]:
    """What to say of classes ``(N,)`` that differ in capitals or spaces alone."""
    alike = defaultdict(list)
    for label in np.unique(target).tolist() if target.dtype.kind != "f" else []:
        alike[" ".join(str(label).casefold().split())].append(label)
    return [f"classes of {name!r} that differ in spelling alone: {some(v)}" for v in alike.values() if len(v) > 1]


def why_ordinal(name: str, target: np.ndarray, order: Sequence[str] | None = None) -> list[str]:
    """What to say of classes ``(N,)`` that may be the steps of a scale: three whole numbers or more, without a gap; or
    words that the table itself puts in order.
    """
    if order is not None and len(order) > 2:
        return [f"target {name!r} has an order, {' < '.join(order)}, and is read as classes in none: {ORDINAL}"]
    levels = np.unique(target)
    if target.dtype.kind != "i" or len(levels) < 3 or levels[-1] - levels[0] != len(levels) - 1:
        return []
    read = f"target {name!r} is read as {len(levels)} classes in no order, {levels[0]} to {levels[-1]}"
    return [f"{read}; if they are steps of a scale: {ORDINAL}"]


def _typed(cells: Cells, config: TableConfig, rows: np.ndarray) -> dict[str, list[Any]]:
    """The columns side by side, read by their types, in some rows."""
    types = {column: type_ for modality in config.modalities.values() for column, type_ in modality.types.items()}
    return {column: [read_or_none(cells[column][row], type_) for row in rows] for column, type_ in types.items()}


def _dates(column: str, cells: Sequence[Any], modality: ModalityConfig) -> str | None:
    """What to say of a column of dates that may be read otherwise, or not at all."""
    type_ = modality.types.get(column, "category" if modality.kind == "text" else None)
    there = list(islice((cell for cell in cells if not is_blank(cell)), LOOKED_AT))
    about = f"column {column!r}"
    if type_ == "date, month first" and (cell := reads_both_ways(cells)) is not None:
        day = as_date(cell, False)
        return (
            f"{about}: {cell!r} is read as {day:%Y-%m-%d}, but all its dates read with the day first as well: if they "
            "are meant so, set its type to 'date, day first' in the YAML (in memory: give dates, not words)"
        )
    if type_ not in ("category", "number") or not there:
        return None
    if sum(map(_is_date, there)) > len(there) / 2:
        wrong = next((cell for cell in cells if not is_blank(cell) and not _is_date(cell)), None)
        why = "some with the day and some with the month first" if wrong is None else f"but {short(wrong)!r} is none"
        return f"{about}: (nearly) all cells are dates, {why}, so all are read as words: correct it, or empty the cell"
    says = bool(set(words_of(column)) & {*EVENTS, *NO_EVENTS})
    looks = [cell for cell in map(str, there) if len(cell) <= SHORT and _looks(cell, type_, says)]
    if len(looks) <= len(there) / 2:
        return None
    read = "numbers" if type_ == "number" else "words"
    return f"{about}: cells such as {looks[0]!r} look like dates and are read as {read}; dates are {READ}"


def _units(column: str, cells: Sequence[Any], modality: ModalityConfig) -> str | None:
    """What to say of a column of words that are numbers, each with one of several units."""
    if modality.kind != "text" and modality.types.get(column) != "category":
        return None
    units = several_units(list(islice((cell for cell in cells if not is_blank(cell)), LOOKED_AT)))
    read = f"column {column!r}: its cells are numbers with several units, {some(units)}, so all are read as words"
    return f"{read}: bring them to one" if units else None


def _lengths(column: str, cells: Sequence[Any], modality: ModalityConfig) -> str | None:
    """What to say of vectors of which a few have another length, which reading refuses."""
    if modality.kind != "vector" or modality.column is None:
        return None
    lengths = {row: len(items) for row, cell in enumerate(cells) if (items := as_list(cell)) is not None}
    usual = max(lengths.values(), key=Counter(lengths.values()).__getitem__, default=0)
    odd = [f"{row}: {length}" for row, length in lengths.items() if length != usual]
    if not odd:
        return None
    return (
        f"column {column!r}: its cells are vectors of {usual} numbers, but for {len(odd)} of {len(lengths)} rows: "
        f"{some(odd)} (rows from 0): cut or pad these, or empty the cells; where lengths differ on purpose, it is a "
        "series (in a YAML: kind: series)"
    )


def _names_of_files(column: str, cells: Sequence[Any], modality: ModalityConfig) -> str | None:
    """What to say of words that look like paths of files, and are not read."""
    if modality.kind != "text" and modality.types.get(column) != "category":
        return None
    there = [str(cell) for cell in islice((cell for cell in cells if not is_blank(cell)), LOOKED_AT)]
    if not there or not all(_PATH.fullmatch(cell) for cell in there):
        return None
    read = f"column {column!r}: cells such as {short(there[0])!r} look like paths of files, and no such file is read"
    return (
        f"{read}, only the words of the path: leave it out, or correct the folder and name .npy, image or sound files"
    )


def unread(cells: Cells, config: TableConfig) -> list[str]:
    """What reading the table will say of cells that their column's type does not read."""
    ids = range(len(next(iter(cells.values())))) if config.id is None else cells[config.id]
    found = []
    for modality in config.modalities.values():
        for column, type_ in modality.types.items():
            wrong = [
                (str(row), cell)
                for row, cell in zip(ids, cells[column], strict=True)
                if read_or_none(cell, type_) is None and not says_blank(cell)
            ]
            found += [said_of_unread(column, type_, wrong, remedy=True)] if wrong else []
    return found


def _looks(cell: str, type_: str, says: bool) -> bool:
    """Whether a cell that is read as no date may be one; ``says``: its column is called so."""
    if type_ == "number":
        return says and _COMPACT.fullmatch(cell) is not None
    return _DATED.fullmatch(cell) is not None or (says and any(c.isdigit() for c in cell))


def _is_date(cell: Any) -> bool:
    for day_first in (False, True):
        try:
            return as_date(cell, day_first) is not None
        except ValueError:
            continue
    return False
