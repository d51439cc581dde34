"""Rows of sums and means under a table, as spreadsheets have them: they are no samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from weft.data.cells import learn_type, number_or_none

WORDS = frozenset(
    {
        *("total", "totals", "grand total", "subtotal", "sub-total", "sub total", "sum", "sums", "overall"),
        *(
            "average",
            "averages",
            "avg",
            "mean",
            "means",
            "summe",
            "gesamt",
            "gesamtsumme",
            "mittelwert",
            "durchschnitt",
        ),
        *("somme", "moyenne", "suma", "promedio", "media", "totale", "totaal", "gemiddelde"),
    }
)
MOST, FEWEST = 4, 3
"""Such rows under a table, and rows above them."""
NEAR = 1e-6
"""Relative difference of a sum that was made of rounded numbers, or was rounded itself."""


def totals(names: Sequence[str], rows: int, cells: Callable[[str], Sequence[Any]]) -> int:
    """How many of the last rows are sums or means of those above.

    One has a cell that says so (``Total``, ``Average:``) and that no row above has, and numbers, half of which or more
    are the sum or the mean of those above.

    Args:
        names: of the columns.
        rows: of the table.
        cells: the cells of a column.
    """
    under = 0
    while under < min(MOST, rows - FEWEST) and label(names, rows - under - 1, cells) is not None:
        under += 1
    above = rows - under
    while under and not all(_is_total(names, row, above, cells) for row in range(rows - under, rows)):
        under, above = under - 1, above + 1
    return under


def label(names: Sequence[str], row: int, cells: Callable[[str], Sequence[Any]]) -> str | None:
    """The cell of a row that says it is a total, if the rows above have no such."""
    for name in names:
        cell = cells(name)[row]
        says = isinstance(cell, str) and cell.strip().rstrip(":").strip().lower() in WORDS
        if says and cell not in cells(name)[:row]:
            return str(cell).strip()
    return None


def _is_total(names: Sequence[str], row: int, above: int, cells: Callable[[str], Sequence[Any]]) -> bool:
    """Whether a row has numbers, and half of them are what is made of the rows above."""
    right = wrong = 0
    for name in names:
        column = cells(name)
        comma = isinstance(column[row], str) and "decimal comma" in learn_type(column[:above])
        own = number_or_none(column[row], comma=comma)
        if own is None:
            continue
        numbers = [number for cell in column[:above] if (number := number_or_none(cell, comma=comma)) is not None]
        if len(numbers) < FEWEST or min(numbers) == max(numbers):
            continue
        total, spread = math.fsum(numbers), max(numbers) - min(numbers)
        made = any(_near(own, value, spread) for value in (total, total / len(numbers)))
        right, wrong = right + made, wrong + (not made)
    return right > 0 and right >= wrong


def _near(own: float, value: float, spread: float) -> bool:
    """Whether a number is a value, to the decimals that it is written with, in a column of this spread."""
    rounding = 0.5 * 10.0 ** -len(f"{own:.12f}".rstrip("0").partition(".")[2])
    return abs(own - value) <= max(NEAR * abs(value), min(rounding, spread / 100))
