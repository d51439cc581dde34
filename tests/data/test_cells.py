"""Cells: numbers, dates and categories by what training learned; codes stay codes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from weft.data.cells import as_category, as_date, as_number, learn_type, read_cell
from weft.data.words import read_words, to_words


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *[("12", 12), ("-1.5e-3", -0.0015), ("1,234.5", 1234.5), (".5", 0.5), ("5.", 5), (" 7 ", 7), ("1e300", 1e300)],
        *[
            ("$5", 5),
            ("-$5", -5),
            ("5 %", 5),
            ("€ 1,000", 1000),
            ("3 €", 3),
            ("CHF 1,234", 1234),
            ("-EUR 5", -5),
            ("7 USD", 7),
            (4, 4),
            (4.5, 4.5),
            (Decimal("2.5"), 2.5),
        ],
        *[("CHF 1,234", 1234), ("-EUR 5", -5), ("7 USD", 7)],
        *[(None, None), ("", None), ("NA", None), ("?", None), (float("nan"), None), ("inf", float("inf"))],
    ],
)
def test_numbers(cell: Any, value: float | None) -> None:
    assert as_number(cell) == value


@pytest.mark.parametrize("cell", ["00501", "10_20", "1,5", "1,23,4", "abc", "3+", True, [1], "٣,", "0x1F", "1 2"])
def test_no_numbers(cell: Any) -> None:
    with pytest.raises(ValueError, match="no number"):
        as_number(cell)


@pytest.mark.parametrize(("cell", "value"), [("1,5", 1.5), ("1.234,50 €", 1234.5), ("7", 7), (",5", 0.5), (2.5, 2.5)])
def test_decimal_commas(cell: Any, value: float) -> None:
    assert as_number(cell, comma=True) == value


NOON = datetime(2024, 1, 31, 12)


@pytest.mark.parametrize(
    ("cell", "day_first", "value"),
    [
        ("2024-01-31", None, datetime(2024, 1, 31)),
        ("2024/1/31 12:00", None, NOON),
        ("2024-01-31T12:00:00.000Z", None, NOON),
        ("2024-01-31 12:00:00 -0800", None, NOON),
        ("31 Jan 2024", None, datetime(2024, 1, 31)),
        ("January 31, 2024 12:00", None, NOON),
        ("31.01.2024", True, datetime(2024, 1, 31)),
        ("3rd of Feb. 2024", None, datetime(2024, 2, 3)),
        ("Wed, Jan 31st, 2024 12:00 PM", None, NOON),
        ("1/31/24 12:00:00 am", False, datetime(2024, 1, 31)),
        ("31-Jan-69", None, datetime(1969, 1, 31)),
        ("Jan-24", None, datetime(2024, 1, 1)),
        ("Sept 2024", None, datetime(2024, 9, 1)),
        ("2024-02", None, datetime(2024, 2, 1)),
        ("02/2024", None, datetime(2024, 2, 1)),
        ("2024-W05", None, datetime(2024, 1, 29)),
        ("2024W053", None, datetime(2024, 1, 31)),
        ("2024 Q2", None, datetime(2024, 4, 1)),
        ("31.01.24", True, datetime(2024, 1, 31)),
        ("1/2/2024", True, datetime(2024, 2, 1)),
        ("1/2/2024", False, datetime(2024, 1, 2)),
        (date(2024, 1, 31), None, datetime(2024, 1, 31)),
        (NOON.replace(tzinfo=UTC), None, NOON),
        ("NA", None, None),
    ],
)
def test_dates(cell: Any, day_first: bool | None, value: datetime | None) -> None:
    assert as_date(cell, day_first) == value


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "2024-13-01",
            "2024-02-30",
            "1/2/2024",
            "12:30",
            "20240131",
            "soon",
            5,
            "May 5",
            "May 15",
            "2024-01-31 13:00 PM",
        ),
        *("market 5, 2024", "2010-13", "2024-W60", "1999", "Q5 2024", "1.2.10"),
    ],
)
def test_no_dates(cell: Any) -> None:
    with pytest.raises(ValueError):
        as_date(cell)


@pytest.mark.parametrize(
    ("cells", "name"),
    [((1, 1.0, "1", " 1 ", "1.0"), "1"), ((True, "true", "TRUE"), "True"), (("00501",), "00501"), (("Yes ",), "Yes")],
)
def test_one_category_from_every_format(cells: tuple[Any, ...], name: str) -> None:
    assert {as_category(cell) for cell in cells} == {name}


@pytest.mark.parametrize(
    ("cells", "type_"),
    [
        (["1", "2", "3+"], "category"),
        (["3+", "1", "2"], "category"),
        (["1", "", None, "NA", "?"], "number"),
        (["1.5", "2", "1e300"], "number"),
        (["1", "inf", "2"], "number"),
        (["12E5", "13E5"], "category"),
        (["10_20", "12E5"], "category"),
        (["00501", "10001"], "category"),
        (["1,234", "12,345"], "number, thousands"),
        (["1,5", "2,25"], "number, decimal comma"),
        (["$5", "$1,200"], "number, thousands"),
        (["2024-01-31", "", "2023-05-01 10:00"], "date"),
        (["1/2/2024", "31/1/2024"], "date, day first"),
        (["1/2/2024", "1/31/2024"], "date, month first"),
        (["2024-01-31", "soon"], "category"),
        ([True, False], "category"),
        ([1, 2.5, None], "number"),
        ([], "category"),
    ],
)
def test_types_do_not_depend_on_the_order(cells: list[Any], type_: str) -> None:
    assert learn_type(cells) == type_
    assert learn_type(cells[::-1]) == type_


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e300", 10**400])
def test_what_float32_does_not_hold_is_no_value(cell: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        read_cell(cell, "number")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[yes, no, on, off]", ["yes", "no", "on", "off"]),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-31", "2024-01-31"),
        ("[true, null, 7, 1.5, 1e3, 007]", [True, None, 7, 1.5, 1000.0, 7]),
        ("{a: [0.8, 0.2]}", {"a": [0.8, 0.2]}),
    ],
)
def test_words_stay_words(text: str, value: Any) -> None:
    assert read_words(text) == value


@pytest.mark.parametrize(
    "word",
    ["yes", "No", "on", "null", "~", "true", "1e3", "007", "1_000", "12:30", "2024-01-31", "#1", "a: b", "", "'"],
)
def test_words_come_back_as_words(word: str) -> None:
    assert read_words(to_words(word)) == word
    assert read_words(to_words([word, 1])) == [word, 1]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["($1,234.00)", "$(5)", "3", "-"], [-1234, -5, 3, None]),
        (["1 234 567.5", "1\u202f234", "2"], [1234567.5, 1234, 2]),
        (["1'234.50", "1’234", "CHF 5"], [1234.5, 1234, 5]),
        (["\u22125", "3"], [-5, 3]),
    ],
)
def test_numbers_as_book_keepers_write_them(cells: list[str], values: list[float | None]) -> None:
    assert learn_type(cells).removesuffix(", thousands") == "number"
    assert [read_cell(cell, "number") for cell in cells] == values
    assert learn_type(["1 234,5", "(2,5)"]) == "number, decimal comma"


@pytest.mark.parametrize("cell", ["(-5)", "()", "5 12", "089 123", "12 345 67", "1'23", "(a)", "2021 1000", "--5"])
def test_words_with_digits_stay_words(cell: str) -> None:
    assert learn_type([cell, "3"]) == "category"
