"""Time series: a ``(T, C)`` array of numbers; ``T`` may differ between rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.columns import array_values, npy_axes, of_one_length, words_in
from weft.data.kinds.base import Kind, Place, check_arrays, kinds, share
from weft.data.written import as_list


@kinds.register("series")
class Series(Kind):
    """Lists of numbers, lists of lists, ``.npy`` files, or one column per time step or channel."""

    encoder = "random-kernels"
    better = ("raw-patches",)
    better_for = "For forecasts"
    several = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """``(T, C)`` float32."""
        return array_values(columns, "series", place.modality, place.ids, place.folder)

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Lists of lists, or lists of numbers of unequal length, or ``.npy`` files with two axes."""
        lists = [found for cell in cells if not words_in(cell) and (found := as_list(cell)) is not None]
        lists = lists if len(lists) > len(cells) / 2 else []
        nested = share(lists, lambda items: bool(items) and isinstance(items[0], list))
        uneven = len(lists) > 0 and not of_one_length(lists)
        return max(len(lists) / len(cells) if nested > 0.5 or uneven else 0.0, npy_axes(cells, folder, 2))

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """``(T, C)``, the same ``C`` in every row."""
        check_arrays(name, ids, values, "series", "(T, C)")
