r"""A table row as one token: numbers standardised, categories one-hot, and what is missing said so.

.. math:: \text{numeric: } \Big[\frac{x - \mu}{\sigma},\; m\Big], \qquad
          \text{categorical: } [\,[x = c_1], \dots, [x = c_K],\; \text{other},\; m\,]

``mu``, ``sigma`` and the categories come from the training rows; ``m`` is 1 where the cell is missing, the other
entries are 0 there. ``other`` is 1 for a category that training did not show (or that was beyond the
``max_categories`` most frequent ones). A column is numeric when every present training cell is a number, or reads as
one.
Tokens: ``(1, D)``. Cost: none to speak of.

When not to use it: for a column of free text; make that a text modality.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.encoders.base import BadValue, Encoder, encoders
from weft.errors import UserError


@encoders.register("columns")
class Columns(Encoder):
    """Standardised numbers and one-hot categories, fitted on the training rows.

    Args:
        max_categories: most one-hot entries of a column; rarer categories share ``other``.
    """

    kinds = ("tabular",)

    def __init__(self, *, max_categories: Annotated[int, Field(ge=1)] = 64) -> None:
        self.max_categories = max_categories
        self.columns: list[dict[str, Any]] = []

    def fit(self, values: Sequence[Any]) -> None:
        """Learn every column's kind, mean and deviation, or categories."""
        if not values:
            raise UserError("the columns encoder learns from the training rows", "no training row", "check the split")
        sizes = {len(row) for row in values}
        if len(sizes) != 1:
            raise UserError("table rows have one number of cells", f"rows of {sorted(sizes)} cells", "fill every cell")
        self.load_state({"columns": [self._learn(cells) for cells in zip(*values, strict=True)]})

    def _learn(self, cells: Sequence[Any]) -> dict[str, Any]:
        present = [cell for cell in cells if not missing(cell)]
        numbers = [number(cell) for cell in present]
        known = [n for n in numbers if n is not None]
        if known and len(known) == len(present):
            mean, deviation = float(np.mean(known)), float(np.std(known))
            return {"kind": "numeric", "mean": mean, "scale": deviation if deviation > 0 else 1.0}
        counts = Counter(str(cell) for cell in present)
        ranked = sorted(counts, key=lambda category: (-counts[category], category))
        return {"kind": "categorical", "categories": sorted(ranked[: self.max_categories])}

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(1, D)`` per row."""
        if not self.columns:
            raise UserError("the columns encoder is not fitted", "no statistics", "call fit() on the training rows")
        return [self._row(index, row) for index, row in enumerate(values)]

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
            gone = missing(cell)
            if column["kind"] == "numeric":
                value = None if gone else number(cell)
                if value is None and not gone:
                    raise BadValue(
                        index,
                        f"cell {position} was a number in every training row",
                        f"{cell!r}",
                        "give a number or leave the cell empty; a column that holds text in training is categorical",
                    )
                parts += [0.0 if value is None else (value - column["mean"]) / column["scale"], float(gone)]
            else:
                one_hot = [float(not gone and str(cell) == category) for category in column["categories"]]
                parts += [*one_hot, float(not gone and not any(one_hot)), float(gone)]
        return np.array([parts], dtype=np.float32)

    def identity(self) -> dict[str, Any]:
        """Name and options; the statistics are the state."""
        return {"name": "columns", "version": 1, "max_categories": self.max_categories}

    def state(self) -> dict[str, Any]:
        """The learned columns."""
        return {"columns": self.columns}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the learned columns back."""
        self.columns = state["columns"]
        self.width = sum(2 if c["kind"] == "numeric" else len(c["categories"]) + 2 for c in self.columns)


def missing(cell: Any) -> bool:
    """None, NaN or an empty string."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())
    )


def number(cell: Any) -> float | None:
    """The finite number a cell is or reads as; None where it is none."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
