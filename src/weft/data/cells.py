"""Cells of a table as values: numbers, categories and dates, read by what a column was learned to be.

How a column's cells are read is its *type*, a word that is learned once, from training rows (:func:`learn_type`), and
travels with the model: a cell is then read by that word alone (:func:`read_cell`), never by the cells beside it.

* ``number``: ``12``, ``-1.5e-3``, ``1,234.5``, ``$5``, ``5 %``; ``number, decimal comma``: ``12,5``, ``1.234,50 €``.
* ``date``: ``2024-01-31``, ``2024/01/31 18:30``, ``31 Jan 2024``; ``date, day first``: ``31.01.2024``;
  ``date, month first``: ``1/31/2024``. A date is a ``datetime`` by the clock it was written in.
* ``category``: everything else, as words. ``1``, ``1.0`` and the number 1 are one category; ``00501``, ``10_20`` and
  ``12E5`` are codes, not numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, get_args

CellType = Literal["number", "number, decimal comma", "date", "date, day first", "date, month first", "category"]
CELL_TYPES: tuple[str, ...] = get_args(CellType)
BLANK_WORDS = frozenset({"na", "n/a", "nan", "null", "none", "?", "-", "--", ".", "nat", "missing"})
"""Words that stand for an empty cell among numbers and dates."""
INFINITE_WORDS = frozenset({"inf", "infinity", "infty"})
LARGEST = 3e38
"""Numbers beyond what float32 holds are no values."""

_DECORATION = re.compile(r"^([+-]?)\s*[$€£¥]\s*|\s*[$€£¥%]$")
_POINT = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+|[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:,\d*)?|,\d+|[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?)(?:[eE][+-]?\d+)?")
_CODE = re.compile(r"\d+[eE]\d+")
_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0+")
_CLOCK = r"(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?"
_YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})" + _CLOCK)
_YEAR_LAST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + _CLOCK)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*\.?"
_NAMED = re.compile(rf"(?:(\d{{1,2}})[-. ]\s*{_MONTH}|{_MONTH} (\d{{1,2}}))[-, ]+(\d{{4}}){_CLOCK}", re.IGNORECASE)


def is_blank(cell: Any) -> bool:
    """None, NaN, or a string of nothing but spaces."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())
    )


def says_blank(cell: Any) -> bool:
    """Whether a cell is empty or says so (``NA``, ``?``); for numbers, dates and targets, where it cannot be a word."""
    return is_blank(cell) or (isinstance(cell, str) and cell.strip().lower() in BLANK_WORDS)


def as_number(cell: Any, *, comma: bool = False) -> float | None:
    """A cell as a float, infinite ones included; None where it is empty or says so.

    Args:
        cell: a cell.
        comma: ``1,5`` is one and a half, and ``1.500`` a thousand and a half.

    Raises:
        ValueError: it is no number.
    """
    if says_blank(cell):
        return None
    if isinstance(cell, str):
        text = _undecorated(cell)
        if text.lstrip("+-").lower() in INFINITE_WORDS:
            return -math.inf if text.startswith("-") else math.inf
        if not (_COMMA if comma else _POINT).fullmatch(text):
            raise ValueError(f"no number: {cell!r}")
        return float(text.replace(".", "").replace(",", ".") if comma else text.replace(",", ""))
    if isinstance(cell, bool) or not isinstance(cell, int | float | Decimal):
        raise ValueError(f"no number: {cell!r}")
    try:
        value = float(cell)
    except OverflowError:
        return math.inf
    return None if math.isnan(value) else value


def is_numeric(cells: Sequence[Any], *, comma: bool = False) -> bool:
    """Whether some cells are numbers and all others are empty; codes like ``12E5`` count among plain numbers only."""
    plain = codes = 0
    for cell in cells:
        try:
            if as_number(cell, comma=comma) is None:
                continue
        except ValueError:
            return False
        code = isinstance(cell, str) and _CODE.fullmatch(cell.strip()) is not None
        codes, plain = codes + code, plain + (not code)
    return plain > codes


def as_date(cell: Any, day_first: bool | None = None) -> datetime | None:
    """A cell as a date and time, by the clock it was written in; None where it is empty or says so.

    Args:
        cell: a cell.
        day_first: how ``1/2/2024`` is read; None: such a cell is no date.

    Raises:
        ValueError: it is no date.
    """
    if says_blank(cell):
        return None
    if isinstance(cell, datetime):
        return cell.replace(tzinfo=None)
    if isinstance(cell, date):
        return datetime(cell.year, cell.month, cell.day)
    text = cell.strip() if isinstance(cell, str) else ""
    if found := _YEAR_FIRST.fullmatch(text):
        year, month, day, *clock = found.groups()
    elif found := _NAMED.fullmatch(text):
        before, name, other_name, after, year, *clock = found.groups()
        month, day = _MONTHS.index((name or other_name)[:3].lower()) + 1, before or after
    elif day_first is not None and (found := _YEAR_LAST.fullmatch(text)):
        first, second, year, *clock = found.groups()
        day, month = (first, second) if day_first else (second, first)
    else:
        raise ValueError(f"no date: {cell!r}")
    hour, minute, second = (int(part or 0) for part in clock)
    return datetime(int(year), int(month), int(day), hour, minute, second)


def as_category(cell: Any) -> str | None:
    """A cell as the name of a category, the same from CSV, Parquet and JSON; None where it is empty."""
    if is_blank(cell):
        return None
    if isinstance(cell, float | Decimal) and float(cell).is_integer() and abs(float(cell)) < 1e15:
        return str(int(cell))
    text = str(cell).strip()
    if text.lower() in ("true", "false"):
        return text.capitalize()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


_READ: dict[str, Callable[[Any], float | datetime | str | None]] = {
    "number": as_number,
    "number, decimal comma": lambda cell: as_number(cell, comma=True),
    "date": as_date,
    "date, month first": lambda cell: as_date(cell, False),
    "date, day first": lambda cell: as_date(cell, True),
    "category": as_category,
}


def read_cell(cell: Any, type_: str) -> float | datetime | str | None:
    """A cell read as its column's type says; None where it is empty.

    Raises:
        ValueError: it cannot be read so, or is a number that float32 does not hold.
    """
    value = _READ[type_](cell)
    if isinstance(value, float) and abs(value) > LARGEST:
        raise ValueError(f"no finite number: {cell!r}")
    return value


def learn_type(cells: Sequence[Any]) -> str:
    """The type of a column: the first that reads every cell that is there; ``category`` reads all."""
    present = [cell for cell in cells if not is_blank(cell)]
    if is_numeric(present):
        return "number"
    if is_numeric(present, comma=True):
        return "number, decimal comma"
    for type_ in ("date", "date, month first", "date, day first"):
        try:
            dates = [_READ[type_](cell) for cell in present]  # all of them: one that is no date ends it
        except ValueError:
            continue
        if any(found is not None for found in dates):
            return type_
    return "category"


def why_category(cells: Sequence[Any]) -> str | None:
    """For a column of words in which most cells are numbers: the first cell that is none."""
    wrong = []
    for cell in cells:
        try:
            as_number(cell)
        except ValueError:
            wrong.append(cell)
    there = sum(not is_blank(cell) for cell in cells)
    return f"{len(wrong)} of {there} cells are no numbers, e.g. {wrong[0]!r}" if 0 < len(wrong) < there / 2 else None


def _undecorated(text: str) -> str:
    """Without a currency before or behind, a percent sign, and spaces."""
    return _DECORATION.sub(r"\1", _DECORATION.sub(r"\1", text.strip())).replace("\N{NO-BREAK SPACE}", "").strip()
