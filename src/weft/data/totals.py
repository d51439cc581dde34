"""Rows of sums and means under a table and within it, as spreadsheets have them: they are no samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

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
LONGEST, LARGEST = 60, 10_000
"""Characters of a cell that says so within a table, and rows of a group that it is of."""
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
    while under and not all(_is_total(names, row, range(above), cells) for row in range(rows - under, rows)):
        under, above = under - 1, above + 1
    return under


def label(names: Sequence[str], row: int, cells: Callable[[str], Sequence[Any]]) -> str | None:
    """The cell of a row that says it is a total, if the rows above have no such."""
    for name in names:
        cell = cells(name)[row]
        says = isinstance(cell, str) and _plain(cell) in WORDS
        if says and cell not in cells(name)[:row]:
            return str(cell).strip()
    return None


def within(names: Sequence[str], rows: int, cells: Callable[[str], Sequence[Any]]) -> dict[int, str]:
    """The rows of a table that are sums or means of the group of rows above them, subtotals, and what they say.

    A column has such rows where half or more of its cells that say so (``Subtotal``; ``North Total``, with ``North`` in
    a row above) stand in a row with numbers, half of which or more are the sum or mean of those since the last such
    row; or of all rows that are none, in the last if it follows another. A category that is called so is no sum by
    chance in half of its rows.

    Args:
        names, rows, cells: see :func:`totals`.
    """
    for name in names:
        column = cells(name)[:rows]
        words = {cell: _plain(cell) for cell in {*filter(_is_short, column)}}
        said = {cell: totalled for cell, word in words.items() if (totalled := _totalled(word)) is not None}
        known = {"", *words.values()} if said else set()
        found = [row for row, cell in enumerate(column) if _is_short(cell) and said.get(cell) in known]
        if not found:
            continue
        blocks: list[Sequence[int]] = [range(last + 1, row) for last, row in pairwise([-1, *found])]
        if not blocks[-1]:
            blocks[-1] = np.setdiff1d(np.arange(found[-1]), found).tolist()
        groups = [(row, block) for row, block in zip(found, blocks, strict=True) if FEWEST <= len(block) <= LARGEST]
        enough = max(1, len(found) / 2)
        if len(groups) >= enough and sum(_is_total(names, *group, cells) for group in groups) >= enough:
            return {row: column[row].strip() for row in found}
    return {}


def _plain(word: str) -> str:
    return word.strip().rstrip(":").strip().lower()


def _is_short(cell: Any) -> bool:
    return isinstance(cell, str) and len(cell) <= LONGEST


def _totalled(word: str) -> str | None:
    """What a word says is totalled: ``north`` of ``total north`` and of ``north total``, "" of ``total``."""
    if word in WORDS:
        return ""
    (first, _, rest), (start, _, last) = word.partition(" "), word.rpartition(" ")
    return rest if first in WORDS else start if last in WORDS else None


def _is_total(names: Sequence[str], row: int, above: Sequence[int], cells: Callable[[str], Sequence[Any]]) -> bool:
    """Whether a row has numbers, and half of them are what is made of the rows above."""
    right = wrong = 0
    for name in names:
        column = cells(name)
        others = [column[other] for other in above]
        comma = isinstance(column[row], str) and "decimal comma" in learn_type(others)
        own = number_or_none(column[row], comma=comma)
        if own is None:
            continue
        numbers = [number for cell in others if (number := number_or_none(cell, comma=comma)) is not None]
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
