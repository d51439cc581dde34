r"""A table row as one token: numbers standardised, categories one-hot or by their spelling, dates by the calendar.

.. math:: \text{number: } \Big[\frac{x - \mu}{\sigma},\; m\Big], \qquad
          \text{category: } [\,[x = c_1], \dots, [x = c_K],\; \text{other},\; m\,], \qquad
          \text{date: } \Big[\frac{t - \mu}{\sigma},\; \frac{y - \mu_y}{\sigma_y},\;
          \sin, \cos \frac{2\pi\,\text{month}}{12},\; \sin, \cos \frac{2\pi\,\text{weekday}}{7},\;
          \sin, \cos \frac{2\pi\,\text{hour}}{24},\; \text{weekend},\; m\Big], \qquad
          \text{time of day: } \Big[\frac{h - \mu}{\sigma},\; \sin, \cos \frac{2\pi\,h}{24},\; m\Big]

``mu``, ``sigma`` and the categories come from the training rows, ``t`` is days, ``h`` hours; ``m`` is 1 where the cell
is missing, the other entries are 0 there. ``other`` is 1 for a category that training did not show, or showed too
seldom to stand alone (once; or beyond the ``max_categories`` most frequent). A number with at most ``levels`` different
whole values, which may be codes, has one-hot entries of them too. A column with rare categories has, beside the one-hot
entries, the logarithm of how often training showed the category, and ``spelling`` entries that are alike for categories
spelt alike (signed hashed n-grams, as in ``hashed-text``), so rare and new ones are not all the same. A constant column
has scale 1; numbers farther than 1,000 deviations off count as that far.

What a column is, its training cells say by their Python type: numbers, datetimes, times, or else categories. In an
unusual mix a string that reads as a number is still a category.

Tokens: ``(1, D)``. Cost: none to speak of.
When not to use it: for a column of free text; make that a text modality.

Source: frequency and n-gram encodings of dirty categories: Cerda and Varoquaux, "Encoding high-cardinality string
categorical variables", TKDE 2020.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.data.cells import LARGEST, as_category, as_number, is_blank
from weft.encoders.base import BadValue, Encoder, encoders
from weft.encoders.hashed_text import hashed_ngrams
from weft.errors import UserError

EPOCH = datetime(1970, 1, 1)
FARTHEST = 1000.0
CYCLES = ("month", "weekday", "hour")


@encoders.register("columns")
class Columns(Encoder):
    """Standardised numbers, one-hot categories and calendar entries of dates, fitted on the training rows.

    Args:
        max_categories: most one-hot entries of a column; rarer categories share ``other``.
        spelling: entries for the spelling of categories, in columns that have rare ones.
        levels: most different whole numbers of a column that are one-hot as well.
    """

    kinds = ("tabular", "date")
    refits = True

    def __init__(
        self,
        *,
        max_categories: Annotated[int, Field(ge=1)] = 64,
        spelling: Annotated[int, Field(ge=0)] = 16,
        levels: Annotated[int, Field(ge=0)] = 8,
    ) -> None:
        self.max_categories, self.spelling, self.levels = max_categories, spelling, levels
        self.columns: list[dict[str, Any]] = []

    def fit(self, values: Sequence[Any]) -> None:
        """Learn every column's kind, mean and deviation, or categories.

        Raises:
            UserError: no training rows, or rows with unequal numbers of cells.
        """
        if not values:
            raise UserError("the columns encoder learns from the training rows", "no training row", "check the split")
        sizes = {len(row) for row in values}
        if len(sizes) != 1:
            raise UserError("table rows have one number of cells", f"rows of {sorted(sizes)} cells", "fill every cell")
        self.load_state({"columns": [self._learn(cells) for cells in zip(*values, strict=True)]})

    def _learn(self, cells: Sequence[Any]) -> dict[str, Any]:
        present = [cell for cell in cells if not is_blank(cell)]
        if present and all(isinstance(cell, datetime) for cell in present):
            days, years = _scale([_days(cell) for cell in present]), _scale([cell.year for cell in present])
            return {"kind": "date", "days": days, "years": years}
        if present and all(isinstance(cell, time) for cell in present):
            return {"kind": "time", "hours": _scale([_hours(cell) for cell in present])}
        numbers = [number(cell) for cell in present if not isinstance(cell, str)]
        known = [n for n in numbers if n is not None]
        if known and len(known) == len(present):
            mean, scale = _scale(known)
            levels = sorted(set(known)) if all(n.is_integer() for n in known) else []
            few = 2 < len(levels) <= self.levels
            return {"kind": "numeric", "mean": mean, "scale": scale, "levels": levels if few else []}
        counts = Counter(as_category(cell) or "" for cell in present)
        ranked = sorted(counts, key=lambda category: (-counts[category], category))
        often = [category for category in ranked if counts[category] > 1] if len(ranked) > 2 else ranked
        categories = sorted(often[: self.max_categories])
        rare = {category: counts[category] for category in ranked if category not in set(categories)}
        return {"kind": "categorical", "categories": categories, "counts": dict(counts) if rare else {}}

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(1, D)`` float32 per row.

        Raises:
            UserError: the encoder is not fitted.
        """
        if not self.columns:
            raise UserError("the columns encoder is not fitted", "no statistics", "call fit() on the training rows")
        return [self._row(index, row) for index, row in enumerate(values)]

    def unknown(self, values: Sequence[Any]) -> dict[int, list[tuple[int, str]]]:
        """Categories that no training row has."""
        found: dict[int, list[tuple[int, str]]] = {}
        for position, column in enumerate(self.columns):
            if column["kind"] == "categorical":
                known = {*column["categories"], *column["counts"]}
                words = ((row, as_category(value[position])) for row, value in enumerate(values))
                found[position] = [(row, word) for row, word in words if word is not None and word not in known]
        return {position: words for position, words in found.items() if words}

    def _row(self, index: int, row: Sequence[Any]) -> np.ndarray:
        if len(row) != len(self.columns):
            raise BadValue(
                index,
                "a table row has as many cells as in training",
                f"{len(row)} cells, {len(self.columns)} in training",
                "give the same columns in the same order",
            )
        parts: list[float] = []
        for position, (cell, column) in enumerate(zip(row, self.columns, strict=True)):
            encoded = None if is_blank(cell) else self._cell(index, position, cell, column)
            parts += [0.0] * (self._width(column) - 1) + [1.0] if encoded is None else [*encoded, 0.0]
        return np.array([parts], dtype=np.float32)

    def _cell(self, index: int, position: int, cell: Any, column: dict[str, Any]) -> list[float] | None:
        """The entries of a cell, without the last, which says whether it is missing; None where it is."""
        if column["kind"] == "categorical":
            return self._category(as_category(cell) or "", column)
        what, read = _READ[column["kind"]]
        value = read(cell)
        if value is None:
            raise BadValue(
                index,
                f"cell {position} was {what} in every training row",
                f"{cell!r}",
                f"give {what} or leave the cell empty; a column that holds text in training is categorical",
            )
        if isinstance(value, datetime):
            return _calendar(value, column)
        if isinstance(value, time):
            hours = _hours(value)
            turn = 2 * math.pi * hours / 24
            return [_standard(hours, column["hours"]), math.sin(turn), math.cos(turn)]
        return [_standard(value, (column["mean"], column["scale"])), *(float(value == n) for n in column["levels"])]

    def _category(self, category: str, column: dict[str, Any]) -> list[float]:
        one_hot = [float(category == known) for known in column["categories"]]
        entries = [*one_hot, float(not any(one_hot))]
        if column["counts"]:
            entries.append(math.log1p(column["counts"].get(category, 0)))
            if self.spelling:
                entries += hashed_ngrams(category.lower(), self.spelling, 2, 4).tolist()
        return entries

    def _width(self, column: dict[str, Any]) -> int:
        if column["kind"] == "numeric":
            return 2 + len(column["levels"])
        if column["kind"] == "date":
            return 4 + 2 * len(CYCLES)
        if column["kind"] == "time":
            return 4
        return len(column["categories"]) + 2 + (1 + self.spelling if column["counts"] else 0)

    def identity(self) -> dict[str, Any]:
        """Name and options; the statistics are the state."""
        options = {"max_categories": self.max_categories, "spelling": self.spelling, "levels": self.levels}
        return {"name": "columns", "version": 2, **options}

    def state(self) -> dict[str, Any]:
        """The learned columns."""
        return {"columns": self.columns}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the learned columns back."""
        self.columns = state["columns"]
        self.width = sum(map(self._width, self.columns))


def number(cell: Any) -> float | None:
    """The finite number a cell is or reads as; None where it is none, or float32 does not hold it."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    try:
        value = float(cell) if isinstance(cell, bool) else as_number(cell)
    except ValueError:
        return None
    return value if value is not None and abs(value) <= LARGEST else None


_READ: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "numeric": ("a number", number),
    "date": ("a date", lambda cell: cell if isinstance(cell, datetime) else None),
    "time": ("a time of day", lambda cell: cell if isinstance(cell, time) else None),
}
"""What a cell of a kind is, and itself as that; None where it is none."""


def _scale(values: Sequence[float]) -> list[float]:
    """Mean and deviation; 1 where the values differ by rounding alone."""
    array = np.asarray(values, dtype=np.float64)
    mean, deviation = float(array.mean()), float(array.std())
    tiny = 1e-12 * max(abs(mean), float(np.abs(array).max()))
    return [mean, deviation if deviation > tiny else 1.0]


def _standard(value: float, scale: Sequence[float]) -> float:
    return min(max((value - scale[0]) / scale[1], -FARTHEST), FARTHEST)


def _days(cell: datetime) -> float:
    return (cell - EPOCH).total_seconds() / 86400


def _hours(cell: time) -> float:
    return cell.hour + cell.minute / 60 + cell.second / 3600


def _calendar(cell: datetime, column: dict[str, Any]) -> list[float]:
    entries = [_standard(_days(cell), column["days"]), _standard(cell.year, column["years"])]
    hour = cell.hour + cell.minute / 60
    for turn in ((cell.month - 1) / 12, cell.weekday() / 7, hour / 24):
        entries += [math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)]
    return [*entries, float(cell.weekday() >= 5)]
