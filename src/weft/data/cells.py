"""Cells of a table as values: numbers, categories and dates, read by what a column was learned to be.

How a column's cells are read is its *type*, a word that is learned once, from training rows (:func:`learn_type`), and
travels with the model: a cell is then read by that word alone (:func:`read_cell`), never by the cells beside it.

* ``number``: ``12``, ``-1.5e-3``, ``1,234.5``, ``1 234``, ``1'234``, ``$5``, ``5 %``, ``(5.00)`` for what is owed;
  a duration in memory, in seconds; ``number, decimal comma``: ``12,5``, ``1.234,50 €``. ``number in kg``: ``12.5 kg``.
  ``, thousands`` behind these: training had separators of thousands.
* ``time of day``: ``13:05``, ``13:05:30``, ``1:05 PM``; ``duration``: ``26:05:30``, ``1 day 2:05:30``, in seconds.
* ``date``: ``2024-01-31``, ``2024/01/31 18:30``, ``31 Jan 2024 6:30 PM``, ``Wed, Jan 31st, 2024``; the first day of
  ``2024-01``, ``01/2024``, ``Jan-24``, ``2024-W05``, ``2024 Q1``; ``date, day first``: ``31.01.2024``, ``31/1/24``;
  ``date, month first``: ``1/31/2024``. A date is a ``datetime`` by the clock it was written in; years of two digits are
  1969 to 2068.
* ``category``: everything else, as words. ``1``, ``1.0`` and the number 1 are one category; ``00501``, ``10_20`` and
  ``12E5`` are codes, not numbers.

A column is of the first type that reads every cell that is there. Words that stand for an empty cell (``n/a``,
``unknown``, ``#DIV/0!``) are not there. Where no type does, it is of the one that reads most, if these are 95 % or more
of the cells and 20 different ones or more, so no few categories; and if no other cell is a code (``85123A``,
``00501``): the few others are missing, and whoever reads them says so.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache, partial
from typing import Annotated, Any, cast

from pydantic import AfterValidator

from weft.errors import count, did_you_mean, short, some

CELL_TYPES = (
    *("number", "number, decimal comma", "time of day", "duration"),
    *("date", "date, month first", "date, day first", "category"),
)
"""In the order in which a column is asked whether it is of them; numbers may have a unit and thousands beside."""
BLANK_WORDS = frozenset(
    {
        *("na", "n/a", "n.a.", "n.a", "n/d", "n.d.", "nd", "nan", "nat", "nil", "null", "none", "missing", "unknown"),
        *("?", "??", "???", "-", "--", "---", "–", "—", ".", "..", "...", "tbd", "tba", "tbc", "blank", "empty"),
        *("not available", "not applicable", "not known", "not given", "not recorded", "not reported", "no data"),
        *("unspecified", "not specified", "undefined", "#n/a", "#div/0!", "#value!", "#ref!", "#name?", "#num!"),
        *("#null!", "#spill!", "#calc!", "#error!"),
    }
)
"""Words that stand for an empty cell among numbers and dates, also in brackets: ``(blank)``, ``<NA>``."""
NEARLY, DIFFERENT = 0.95, 20
"""Part of the cells that are there, and how many different ones, that make a column what they are."""
SAID = 3
"""Cells that are named where some cannot be read."""
INFINITE_WORDS = frozenset({"inf", "infinity", "infty"})
LARGEST = 3e38
"""Numbers beyond what float32 holds are no values."""

_MONEY = r"(?:[$€£¥]|(?:AUD|CAD|CHF|CNY|DKK|EUR|GBP|INR|JPY|NOK|PLN|SEK|USD)\b)"
_DECORATION = re.compile(rf"^([+-]?)\s*{_MONEY}\s*|\s*(?:{_MONEY}|%)$")
_POINT = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+|[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:,\d*)?|,\d+|[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?)(?:[eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[\s'’]\d{3})+(?:[.,]\d*)?")
_CODE = re.compile(r"\d+[eE]\d+")
_LIKE_A_CODE = re.compile(r"0\d+|(?=\S*\d)(?=\S*[A-Za-z])[\w.:/-]+")
_NUMBER_TYPE = re.compile(
    r"number(?: in (?P<unit>[^\s,]+(?: [^\s,]+)?))?(?P<comma>, decimal comma)?(?P<thousands>, thousands)?"
)
_WITH_UNIT = re.compile(
    r"(?P<number>[+\-−]?\s*[\d.,'’\s]*\d)\s*"
    r"(?P<unit>(?!(?:[eE][23]|[aApP]\.?[mM]\.?)$)[^\W\d_][^\s\d,;:()]{0,11}(?: [^\W\d_][^\s\d,;:()]{0,7})?[23]?"
    r"|°[CFK]?)"
)
UNITS = frozenset(
    {
        *("kg", "g", "mg", "t", "lb", "oz", "km", "m", "cm", "mm", "µm", "in", "ft", "yd", "mi", "l", "L", "ml", "cl"),
        *("h", "hr", "hour", "min", "minute", "s", "sec", "second", "ms", "day", "week", "month", "year", "km/h"),
        *("mph", "m/s", "°", "°C", "°F", "W", "kW", "MW", "kWh", "MWh", "kJ", "cal", "kcal", "mA", "Hz", "kHz"),
        *("MHz", "GHz", "KB", "kB", "MB", "GB", "TB", "m²", "m2", "ft²", "sqft", "ha", "acre", "km²", "km2"),
    }
)
"""Units that are known for such; any other word is one too where all cells have it."""
_TIME = re.compile(
    r"(\d{1,2})(?::([0-5]\d)(?::([0-5]\d)(?:[.,]\d+)?)?)?\s*(?:([AP])\.?M\.?)?(?<!^\d)(?<!^\d\d)", re.IGNORECASE
)
_DURATION = re.compile(r"(-?)(?:(\d+) days?,? )?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")
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
    if not isinstance(cell, str):
        return is_blank(cell)
    word = cell.strip().lower()
    return not word or word in BLANK_WORDS or (word[0] in "(<[" and word[1:-1] in BLANK_WORDS)


def as_number(cell: Any, *, comma: bool = False, unit: str = "") -> float | None:
    """A cell as a float, infinite ones included; None where it is empty or says so.

    Args:
        cell: a cell.
        comma: ``1,5`` is one and a half, and ``1.500`` a thousand and a half.
        unit: what may stand behind the number.

    Raises:
        ValueError: it is no number.
    """
    if says_blank(cell):
        return None
    if isinstance(cell, str):
        text = _undecorated(cell)
        if unit and (found := _WITH_UNIT.fullmatch(text)) and _one(found["unit"]) == _one(unit):
            text = found["number"].strip()
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
    there = [cell for cell in cells if not says_blank(cell)]
    return bool(there) and _unread(there, partial(as_number, comma=comma), 0) == [] and not _codes(there)


def _codes(cells: Sequence[Any]) -> bool:
    """Whether half of the cells or more are codes like ``12E5``."""
    codes = sum(isinstance(cell, str) and _CODE.fullmatch(cell.strip()) is not None for cell in cells)
    return codes > 0 and 2 * codes >= len(cells)


def as_time(cell: Any) -> time | None:
    """A cell as a time of day; None where it is empty or says so.

    Raises:
        ValueError: it is none.
    """
    if says_blank(cell):
        return None
    if isinstance(cell, time):
        return cell.replace(tzinfo=None)
    found = _TIME.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if found is None:
        raise ValueError(f"no time of day: {cell!r}")
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    return time(_hour(hour, found[4]), minute, second)


def as_duration(cell: Any) -> float | None:
    """A cell as seconds; None where it is empty or says so.

    Raises:
        ValueError: it is no duration.
    """
    if says_blank(cell):
        return None
    if isinstance(cell, timedelta):
        return cell.total_seconds()
    found = _DURATION.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if found is None:
        raise ValueError(f"no duration: {cell!r}")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups()[1:])
    return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * (-1 if found[1] else 1)


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
    return day.replace(hour=_hour(hour, clock[5]), minute=minute, second=second)


def _hour(hour: int, half: str | None) -> int:
    """The hour of the day, of one with ``A`` or ``P`` for the half of it; 13 PM is none."""
    return hour if half is None else (hour % 12 if hour <= 12 else 24) + 12 * (half.upper() == "P")


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


Value = float | datetime | time | str | None
_READ: dict[str, Callable[[Any], Value]] = {
    "time of day": as_time,
    "duration": as_duration,
    "date": as_date,
    "date, month first": lambda cell: as_date(cell, False),
    "date, day first": lambda cell: as_date(cell, True),
    "category": as_category,
}


@cache
def _reader(type_: str) -> Callable[[Any], Value]:
    number = _NUMBER_TYPE.fullmatch(type_)
    if number is None:
        return _READ[type_]
    return partial(as_number, comma=number["comma"] is not None, unit=number["unit"] or "")


def known_type(type_: str) -> str:
    """A word for how cells are read, as it is.

    Raises:
        ValueError: there is no such type.
    """
    if type_ not in CELL_TYPES and _NUMBER_TYPE.fullmatch(type_) is None:
        raise ValueError(f"no such type of cells; {did_you_mean(type_, CELL_TYPES, 'types')}")
    return type_


CellType = Annotated[str, AfterValidator(known_type)]


def read_cell(cell: Any, type_: str) -> Value:
    """A cell read as its column's type says; None where it is empty.

    Raises:
        ValueError: it cannot be read so, or is a number that float32 does not hold.
    """
    value = _reader(type_)(cell)
    if isinstance(value, float) and abs(value) > LARGEST:
        raise ValueError(f"no finite number: {cell!r}")
    return value


def read_or_none(cell: Any, type_: str) -> Value:
    """:func:`read_cell`, but None where a cell cannot be read so."""
    try:
        return read_cell(cell, type_)
    except ValueError:
        return None


def number_or_none(cell: Any, *, comma: bool = False) -> float | None:
    """:func:`as_number`, but None where a cell is no number, or one that float32 does not hold."""
    return cast("float | None", read_or_none(cell, "number, decimal comma" if comma else "number"))


def learn_type(cells: Sequence[Any]) -> str:
    """The type of a column, see above; ``category`` reads all."""
    there = [cell for cell in cells if not says_blank(cell)]
    if not there:
        return "category"
    unit = _unit(there)
    numbers = [f"number in {unit}", f"number in {unit}, decimal comma"] if unit else []
    best, most = "category", int((1 - NEARLY) * len(there) + 1e-9)
    for type_ in [*numbers, *CELL_TYPES[:-1]]:
        wrong = _unread(there, _reader(type_), most)
        if wrong is None or (type_.startswith("number") and _codes(there)):
            continue
        if wrong and not _are_few(wrong, there, type_):
            continue
        best, most = type_, len(wrong) - 1
        if not wrong:
            break
    return with_thousands(best, there)


def _unread(cells: Sequence[Any], read: Callable[[Any], Value], most: int) -> list[Any] | None:
    """The cells that are not read so; None where they are more than ``most``."""
    wrong: list[Any] = []
    for cell in cells:
        try:
            read(cell)
        except ValueError:
            wrong.append(cell)
            if len(wrong) > most:
                return None
    return wrong


def _are_few(wrong: Sequence[Any], cells: Sequence[Any], type_: str) -> bool:
    """Whether cells that a type does not read are slips among many that it reads, and no codes."""
    if len(set(map(str, cells))) - len(set(map(str, wrong))) < DIFFERENT:
        return False
    codes = any(not isinstance(cell, str) or _LIKE_A_CODE.fullmatch(cell.strip()) for cell in wrong)
    return not codes and not (" in " in type_ and any(_WITH_UNIT.fullmatch(cell.strip()) for cell in wrong))


def _units(cells: Sequence[Any]) -> Counter[str]:
    found = (_WITH_UNIT.fullmatch(cell.strip()) for cell in cells if isinstance(cell, str))
    return Counter(match["unit"] for match in found if match)


def _one(unit: str) -> str:
    """One name for ``year`` and ``years``."""
    return unit[:-1] if len(unit) > 2 and unit.endswith("s") and unit.isalpha() else unit


def _unit(cells: Sequence[Any]) -> str | None:
    """What stands behind the number in most cells."""
    units = _units(cells)
    same = Counter[str]()
    for unit, times in units.items():
        same[_one(unit)] += times
    if not same or 2 * same.most_common(1)[0][1] <= len(cells):
        return None
    return max((unit for unit in units if _one(unit) == same.most_common(1)[0][0]), key=units.__getitem__)


def several_units(cells: Sequence[Any]) -> list[str]:
    """The units of a column of words that is (nearly) all numbers with one of several; none of other columns."""
    there = [cell for cell in cells if not says_blank(cell)]
    units = _units(there)
    known = {unit: times for unit, times in units.items() if _one(unit) in UNITS}
    if len({_one(unit) for unit in known}) < 2 or sum(known.values()) < NEARLY * len(there):
        return []
    return list(known) if learn_type(there) == "category" else []


def has_thousands(cell: Any, type_: str) -> bool:
    """Whether a number has a separator of thousands that is the decimal sign elsewhere, so it may be meant for one."""
    return isinstance(cell, str) and ("." if ", decimal comma" in type_ else ",") in cell


def with_thousands(type_: str, cells: Sequence[Any]) -> str:
    """A type of numbers, with what these cells of training add to it."""
    if not type_.startswith("number") or type_.endswith(", thousands"):
        return type_
    return f"{type_}, thousands" if any(has_thousands(cell, type_) and _reads(cell, type_) for cell in cells) else type_


def _reads(cell: Any, type_: str) -> bool:
    return _unread([cell], _reader(type_), 0) is not None


def reads_both_ways(cells: Sequence[Any]) -> Any:
    """A cell such as ``1/2/2024`` of a column whose dates read by day and by month first alike; None of others."""
    if learn_type(cells) != "date, month first":
        return None
    dates = [cell for cell in cells if not says_blank(cell) and _reads(cell, "date, month first")]
    if not all(_reads(cell, "date, day first") for cell in dates):
        return None
    return next((cell for cell in dates if as_date(cell, True) != as_date(cell, False)), None)


def why_category(cells: Sequence[Any]) -> str | None:
    """For a column of words in which most cells are numbers: the first cell that is none."""
    there = [cell for cell in cells if not says_blank(cell)]
    wrong = _unread(there, as_number, (len(there) - 1) // 2)
    if not wrong or learn_type(cells) != "category":
        return None
    return f"{len(wrong)} of {len(there)} cells are no numbers, e.g. {wrong[0]!r}"


def said_of_unread(column: str, type_: str, wrong: Sequence[tuple[str, Any]], *, remedy: bool) -> str:
    """What is said of the cells, with their rows, that a column's type does not read.

    Args:
        column: its name.
        type_: how it is read.
        wrong: ``(row, cell)``, one or more.
        remedy: say what to do, to somebody who can.
    """
    cells = some([f"{row}: {short(cell)}" for row, cell in wrong], SAID)
    text = f"column {column!r} ({type_}): {count(len(wrong), 'cell')} not readable so, taken as missing: {cells}"
    way_out = f"correct or empty them, leave the column out (drop), or read all as words: types: {{{column}: category}}"
    return f"{text}: {way_out}" if remedy else text


def _plain(text: str) -> str:
    """A number as a program writes it, of one as a book-keeper does: ``(5.00)``, ``−5``, ``1 234``, ``1'234``."""
    if text.startswith("(") and text.endswith(")"):
        text = f"-{_undecorated(text[1:-1])}"
    text = text.replace("−", "-")
    return re.sub(r"[\s'’]", "", text) if _GROUPED.fullmatch(text) else text


def _undecorated(text: str) -> str:
    """Without a currency before or behind, a percent sign, and spaces."""
    return _DECORATION.sub(r"\1", _DECORATION.sub(r"\1", text.strip())).replace("\N{NO-BREAK SPACE}", "").strip()
