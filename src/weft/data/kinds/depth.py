"""Depth maps: a path of a grey image, or an ``(H, W)`` array, in units of distance; 0 is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.files import IMAGE_SUFFIXES, read_grey
from weft.data.kinds.base import Kind, Place, has_suffix, kinds, paths, share


@kinds.register("depth")
class Depth(Kind):
    """Distances as a sensor gives them, at their own precision (8, 16 or 32 bits)."""

    encoder = "depth-patches"
    files = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Paths relative to the table."""
        return paths(columns[0], place)

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of image files that say depth or disparity; as sure as an image, so asked before it."""
        named = share(cells, lambda cell: has_suffix(cell, IMAGE_SUFFIXES) and _says_depth(cell))
        return named * 1.01

    def read(self, value: Any, where: str) -> Any:
        """``(H, W)`` float32."""
        return read_grey(value, where)


def _says_depth(cell: str) -> bool:
    return any(word in cell.lower() for word in ("depth", "disparity"))
