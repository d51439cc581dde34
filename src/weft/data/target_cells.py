"""Cells of a target: classes, numbers, sets of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.data.cells import as_category, is_blank, learn_type, number_or_none, says_blank
from weft.data.written import as_list
from weft.errors import UserError, short, some

FEW_CLASSES = 20
"""Whole numbers of at most so many kinds are classes."""


def lacks_target(cells: Sequence[Any], classes: Sequence[int | str] = ()) -> np.ndarray:
    """``(N,)`` bool: the rows without a target. A word for missing (``N/A``) is one among numbers; else it is a class.

    Args:
        cells: of the target.
        classes: those that are known; none of them is a word for missing.
    """
    known = {str(label) for label in classes}
    says = [says_blank(cell) and as_category(cell) not in known for cell in cells]
    there = [cell for cell, gone in zip(cells, says, strict=True) if not gone]
    numbers = sum(map(_is_number, there)) > len(there) / 2
    return np.array([gone if numbers else is_blank(cell) for cell, gone in zip(cells, says, strict=True)], dtype=bool)


def refuse_doubtful(where: str, name: str, cells: Sequence[Any], ids: Sequence[Any]) -> None:
    """Refuse a target that is neither classes nor numbers as it stands.

    Args:
        where: the table.
        name, cells, ids: the target column, its cells that are there, and their rows.

    Raises:
        UserError: dates; or numbers of many kinds with words among them.
    """
    refuse_dates(where, name, cells)
    numbers = {str(cell).strip() for cell in cells if _is_number(cell)}
    words = [(row, cell) for row, cell in zip(ids, cells, strict=True) if not _is_number(cell)]
    if words and len(numbers) > FEW_CLASSES and len(words) < len(cells) / 2:
        raise UserError(
            f"{where}: target {name!r} is numbers with words among them",
            f"{len(words)} of {len(cells)} cells: {some(f'{row}: {short(cell)}' for row, cell in words)}",
            "correct these cells, or empty them (rows without a target are left out); where all of them are names of "
            "classes, say so with task: classification",
        )


def refuse_dates(where: str, name: str, cells: Sequence[Any]) -> None:
    """Refuse a target of dates.

    Raises:
        UserError: all cells are dates.
    """
    if learn_type(cells).startswith("date"):
        raise UserError(
            f"{where}: target {name!r} holds dates, which are neither classes nor numbers",
            some([str(cell) for cell in cells], 3),
            "predict a number instead, such as the days since a fixed day; or how long it takes, with task: survival "
            "and two target columns, time and event; a few dates that are classes: task: classification",
        )


def dates_as_classes(name: str, cells: Sequence[Any]) -> list[str]:
    """What to say of a target of a few dates that classes were asked of, each of which is one."""
    kinds = {str(cell): cell for cell in cells}
    if len(kinds) > FEW_CLASSES or not learn_type([*kinds.values()]).startswith("date"):
        return []
    said = (
        f"target {name!r} holds dates, and each of the {len(kinds)} is a class that has nothing to do with the others"
    )
    return [f"{said} ({some(kinds, 3)}): to predict when, give a number, such as the days since a fixed day"]


def _is_number(cell: Any) -> bool:
    """With a decimal point or comma."""
    return number_or_none(cell) is not None or number_or_none(cell, comma=True) is not None


def classes_of(cells: Sequence[Any]) -> np.ndarray:
    """Booleans as bools, whole numbers as ints, else str, by :func:`~weft.data.cells.as_category`."""
    texts = [as_category(cell) or "" for cell in cells]
    if {*texts} <= {"True", "False"}:
        return np.array([text == "True" for text in texts])
    if all(re.fullmatch(r"[+-]?(0|[1-9]\d{0,17})", text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return np.array(texts)


def classes_among(cells: Sequence[Any], known: Sequence[int | str] | None) -> np.ndarray:
    """Classes ``(N,)``, as :func:`as_class` says where some are known."""
    if known is None:
        return classes_of(cells)
    found = [as_class(cell, known) for cell in cells]
    return np.array(found if all(isinstance(value, int) for value in found) else [str(value) for value in found])


def as_class(cell: Any, classes: Sequence[int | str]) -> int | str:
    """A cell as one of the classes, which are booleans, ints or words; as a word where it is none of them."""
    text = as_category(cell) or ""
    return next((known for known in classes if str(known) == text), text)


def as_numbers(cells: Sequence[Any]) -> Sequence[Any]:
    """Cells of numbers; of a column of nothing but True and False, those as 1 and 0."""
    truth = {"True": 1.0, "False": 0.0, None: None}
    names = [None if says_blank(cell) else as_category(cell) for cell in cells]
    return [truth[name] for name in names] if {*names} <= {*truth} else cells


def number_or_nan(cell: Any) -> float:
    """A cell as a number; NaN where it is empty, none, or larger than float32 holds."""
    value = number_or_none(cell)
    return float("nan") if value is None else value


def label_set(cell: Any) -> set[str]:
    """``["a", "b"]``, a list written in the cell, ``a|b`` or ``a; b``."""
    if cell is None:
        return set()
    items = as_list(cell)
    if items is None:
        items = re.split(r"[|;]", str(cell))
    return {str(item).strip() for item in items if str(item).strip()}


def numbers_of(where: str, name: str, cells: Sequence[Any], ids: Sequence[str]) -> np.ndarray:
    """Numbers ``(N,)`` float64.

    Args:
        where: the table.
        name, cells, ids: the target column, its cells that are there, and their rows.

    Raises:
        UserError: dates, or a cell that is no finite number.
    """
    refuse_dates(where, name, cells)
    comma = ", decimal comma" in learn_type(cells)
    numbers = [number_or_none(cell, comma=comma) for cell in as_numbers(cells)]
    wrong = [f"{row}: {cell}" for row, cell, value in zip(ids, cells, numbers, strict=True) if value is None]
    if wrong:
        raise UserError(
            f"{where}: target {name!r} is to be a number, and holds cells that are no finite numbers",
            f"{len(wrong)} rows: {some(wrong)}",
            "correct these cells, or empty them: rows without a target are left out"
            if len(wrong) < len(cells)
            else "write the column as numbers (0 and 1 for no and yes), or name another",
        )
    return np.array(numbers, dtype=np.float64)


def indicators_of(
    where: str, name: str, cells: Sequence[Any], ids: Sequence[str], labels: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Sets of labels as ``(N, K)`` int64 zeros and ones, and the labels; an empty cell is a row without labels.

    Args:
        where: the table.
        name, cells, ids: the target column, its cells, and their rows.
        labels: those that there are; None: the ones in the cells, sorted.

    Raises:
        UserError: another label, or none at all.
    """
    sets = [label_set(cell) for cell in cells]
    names = tuple(labels) if labels else tuple(sorted(set().union(*sets)))
    if not names:
        raise UserError(f"{where}: target {name!r} has no labels", "every cell is empty", "check the target column")
    unknown = [f"{row}: {label}" for row, found in zip(ids, sets, strict=True) for label in sorted(found - set(names))]
    if unknown:
        what = f"{where}: target {name!r} has labels that 'labels' does not list"
        raise UserError(what, some(unknown), "add them to 'labels' in the configuration")
    index = {label: k for k, label in enumerate(names)}
    hot = np.zeros((len(ids), len(names)), dtype=np.int64)
    for row, found in enumerate(sets):
        hot[row, [index[label] for label in found]] = 1
    return hot, names
