"""Ready-made embeddings: a ``(D,)`` array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.columns import array_values, npy_axes, of_one_length
from weft.data.kinds.base import Kind, Place, check_arrays, kinds
from weft.data.written import as_list


@kinds.register("vector")
class Vector(Kind):
    """Lists of numbers of one length, ``.npy`` files, or one column per entry."""

    encoder = "precomputed"
    several = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """``(D,)`` float32."""
        return array_values(columns, "vector", place.modality, place.ids, place.folder)

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Lists of numbers of (nearly) one length, or ``.npy`` files with one axis."""
        lists = [found for cell in cells if (found := as_list(cell)) is not None]
        lists = lists if len(lists) > len(cells) / 2 else []
        numbers = [all(isinstance(item, int | float | None) for item in found) for found in lists]
        return max(sum(numbers) / len(cells) if of_one_length(lists) else 0.0, npy_axes(cells, folder, 1))

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """``(D,)``, the same ``D`` in every row."""
        check_arrays(name, ids, values, "vector", "(D,)")
