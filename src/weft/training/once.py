"""What is computed of a row once, and kept as long as its data set: frozen features, codes, what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from weft.data import Dataset

V = TypeVar("V")


class Once(Generic[V]):
    """Values of rows, each computed when it is first asked for.

    Args:
        compute: the values of some rows of a data set, in their order.
        at_once: how many rows it gets at most.

    Example:
        >>> from weft.data import load_dataset
        >>> asked = []
        >>> once = Once(lambda data, rows: [asked.append(row) or 10 * row for row in rows.tolist()])
        >>> data = load_dataset("shapes", rows=12)
        >>> once(data, np.array([3, 1, 3])), once(data, np.array([1, 2])), asked
        ([30, 10, 30], [10, 20], [3, 1, 2])
    """

    def __init__(self, compute: Callable[[Dataset, np.ndarray], Sequence[V]], at_once: int = 32) -> None:
        self._compute, self._at_once = compute, at_once
        self._kept: WeakKeyDictionary[Dataset, dict[int, V]] = WeakKeyDictionary()

    def __call__(self, data: Dataset, rows: np.ndarray) -> list[V]:
        """The values of ``rows``, which may come again."""
        kept, asked = self._kept.setdefault(data, {}), np.asarray(rows).tolist()
        new = [row for row in dict.fromkeys(asked) if row not in kept]
        for start in range(0, len(new), self._at_once):
            part = new[start : start + self._at_once]
            kept.update(zip(part, self._compute(data, np.array(part)), strict=True))
        return [kept[row] for row in asked]
