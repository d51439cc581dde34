"""Cells of a target: classes, numbers, sets of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.data.cells import LARGEST, as_category, as_number
from weft.data.columns import as_list


def classes_of(cells: Sequence[Any]) -> np.ndarray:
    """Whole numbers as ints, everything else as str; a cell is what :func:`~weft.data.cells.as_category` says."""
    texts = [as_category(cell) or "" for cell in cells]
    if all(re.fullmatch(r"[+-]?(0|[1-9]\d{0,17})", text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return np.array(texts)


def as_class(cell: Any, classes: Sequence[int | str]) -> int | str:
    """A cell as one of the classes, which are ints or words; as a word where it is none of them."""
    text = as_category(cell) or ""
    return next((known for known in classes if str(known) == text), text)


def number_or_nan(cell: Any) -> float:
    """A cell as a number; NaN where it is empty, none, or larger than float32 holds."""
    try:
        value = as_number(cell)
    except ValueError:
        value = None
    return float("nan") if value is None or not abs(value) <= LARGEST else value


def label_set(cell: Any) -> set[str]:
    """``["a", "b"]``, a JSON list, ``a|b`` or ``a;b``."""
    if cell is None:
        return set()
    items = as_list(cell)
    if items is None:
        items = re.split(r"[|;]", str(cell))
    return {str(item).strip() for item in items if str(item).strip()}
