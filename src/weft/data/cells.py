"""Cells of a table as values: numbers, categories and dates, read by what a column was learned to be.

How a column's cells are read is its *type*, a word that is learned once, from training rows (:func:`learn_type`), and
travels with the model: a cell is then read by that word alone (:func:`read_cell`), never by the cells beside it.

* ``number``: ``12``, ``-1.5e-3``, ``1,234.5``, ``1 234``, ``1'234``, ``$5``, ``5 %``, ``(5.00)`` for what is owed;
  a duration in memory, in seconds; ``number, decimal comma``: ``12,5``, ``1.234,50 €``.
* ``date``: ``2024-01-31``, ``2024/01/31 18:30``, ``31 Jan 2024 6:30 PM``, ``Wed, Jan 31st, 2024``; the first day of
  ``2024-01``, ``01/2024``, ``Jan-24``, ``2024-W05``, ``2024 Q1``; ``date, day first``: ``31.01.2024``, ``31/1/24``;
  ``date, month first``: ``1/31/2024``. A date is a ``datetime`` by the clock it was written in; years of two digits are
  1969 to 2068.
* ``category``: everything else, as words. ``1``, ``1.0`` and the number 1 are one category; ``00501``, ``10_20`` and
  ``12E5`` are codes, not numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args

CellType = Literal["number", "number, decimal comma", "date", "date, day first", "date, month first", "category"]
CELL_TYPES: tuple[str, ...] = get_args(CellType)
BLANK_WORDS = frozenset({"na", "n/a", "nan", "null", "none", "?", "-", "--", ".", "nat", "missing"})
"""Words that stand for an empty cell among numbers and dates."""
INFINITE_WORDS = frozenset({"inf", "infinity", "infty"})
LARGEST = 3e38
"""Numbers beyond what float32 holds are no values."""

_MONEY = r"(?:[$€£¥]|(?:AUD|CAD|CHF|CNY|DKK|EUR|GBP|INR|JPY|NOK|PLN|SEK|USD)\b)"
_DECORATION = re.compile(rf"^([+-]?)\s*{_MONEY}\s*|\s*(?:{_MONEY}|%)$")
_POINT = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+|[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:,\d*)?|,\d+|[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?)(?:[eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[\s'’]\d{3})+(?:[.,]\d*)?")
_CODE = re.compile(r"\d+[eE]\d+")
_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0+")
_CLOCK = re.compile(
    r"(.*\d),?[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([AP])?(?(5)\.?M\.?)\s*"
    r"(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE,
)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = rf"(?P<name>{'|'.join(rf'{name[:3]}(?:{name[3:]})?' for name in _MONTHS)}|sept)\.?"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_DAY, _YEAR, _CENTURY = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?", r"(?P<y>\d{4}|'?\d{2})", r"(?P<y>(?:19|20)\d{2})"
_FORMS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})",
        rf"{_WEEKDAY}{_DAY}[-. ]\s*(?:of\s+)?{_MONTH}[-, ]+{_YEAR}",
        rf"{_WEEKDAY}{_MONTH} {_DAY}[-, ]+{_YEAR}",
        rf"{_MONTH}[-/., ]*(?P<y>\d{{4}})",
        rf"{_MONTH}(?:[-/]| ')(?P<y>\d{{2}})",
        rf"{_CENTURY}[-/](?P<m>\d{{1,2}})",
        rf"(?P<m>\d{{1,2}})/{_CENTURY}",
        r"(?P<y>\d{4})[- ]?Q(?P<q>[1-4])",
        r"Q(?P<q>[1-4])[-/ ]?(?P<y>\d{4})",
        r"(?P<y>\d{4})-?W(?P<w>\d{2})(?:-?(?P<d>[1-7]))?",
    )
]
_YEAR_LAST = re.compile(
    r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})|(\d{1,2})[-/](\d{1,2})[-/](\d{2})|(\d{2})\.(\d{2})\.(\d{2})"
)
TURN = 69
"""Years of two digits from here on are of the last century."""


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
        form = _COMMA if comma else _POINT
        if form.fullmatch(text) is None and form.fullmatch(text := _plain(text)) is None:
            raise ValueError(f"no number: {cell!r}")
        return float(text.replace(".", "").replace(",", ".") if comma else text.replace(",", ""))
    if isinstance(cell, timedelta):
        return cell.total_seconds()
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
    clock = _CLOCK.fullmatch(text)
    day = _day(clock[1] if clock else text, day_first)
    if day is None:
        raise ValueError(f"no date: {cell!r}")
    if clock is None:
        return day
    hour, minute, second = (int(part or 0) for part in clock.groups()[1:4])
    if clock[5] is not None:
        hour = (hour % 12 if hour <= 12 else 24) + 12 * (clock[5].upper() == "P")  # 13 PM is none
    return day.replace(hour=hour, minute=minute, second=second)


def _day(text: str, day_first: bool | None) -> datetime | None:
    """The day that is written so, at midnight; None where no form fits."""
    found = next((match for form in _FORMS if (match := form.fullmatch(text))), None)
    if found is None:
        last = _YEAR_LAST.fullmatch(text) if day_first is not None else None
        if last is None:
            return None
        first, second, year = (part for part in last.groups() if part is not None)
        month, day = (second, first) if day_first else (first, second)
        return datetime(_year(year), int(month), int(day))
    part = found.groupdict()
    whole, number = _year(part["y"]), int(part.get("d") or 1)
    if part.get("w"):
        return datetime.fromisocalendar(whole, int(part["w"]), number)
    month = 3 * int(part["q"]) - 2 if part.get("q") else part.get("m")
    if part.get("name"):
        month = 1 + next(k for k, name in enumerate(_MONTHS) if name.startswith(part["name"][:3].lower()))
    return datetime(whole, int(month or 0), number)


def _year(text: str) -> int:
    year = int(text.lstrip("'"))
    return year if len(text.lstrip("'")) == 4 else year + (1900 if year >= TURN else 2000)


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


def reads_both_ways(cells: Sequence[Any]) -> Any:
    """A cell such as ``1/2/2024`` of a column whose dates read by day and by month first alike; None of others."""
    if learn_type(cells) != "date, month first":
        return None
    try:
        both = [(cell, as_date(cell, True), as_date(cell, False)) for cell in cells if not is_blank(cell)]
    except ValueError:
        return None
    return next((cell for cell, day, month in both if day != month), None)


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


def _plain(text: str) -> str:
    """A number as a program writes it, of one as a book-keeper does: ``(5.00)``, ``−5``, ``1 234``, ``1'234``."""
    if text.startswith("(") and text.endswith(")"):
        text = f"-{_undecorated(text[1:-1])}"
    text = text.replace("−", "-")
    return re.sub(r"[\s'’]", "", text) if _GROUPED.fullmatch(text) else text


def _undecorated(text: str) -> str:
    """Without a currency before or behind, a percent sign, and spaces."""
    return _DECORATION.sub(r"\1", _DECORATION.sub(r"\1", text.strip())).replace("\N{NO-BREAK SPACE}", "").strip()
