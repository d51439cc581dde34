"""Depth maps: the path of a grey image, a :class:`DepthFile`, or an ``(H, W)`` array of distances; 0 is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weft.data.files import IMAGE_SUFFIXES, read_grey
from weft.data.kinds.base import FileKind, has_suffix, kinds, share


class DepthFile(NamedTuple):
    """A depth image and whether it stores near ``"bright"`` or ``"dark"``."""

    path: Path
    near: str


@kinds.register("depth")
class Depth(FileKind):
    """Distances as a sensor gives them, at their own precision (8, 16 or 32 bits)."""

    encoder = "depth-patches"
    suffixes = IMAGE_SUFFIXES

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of image files that say depth or disparity; as sure as an image, so asked before it."""
        named = share(cells, lambda cell: has_suffix(cell, IMAGE_SUFFIXES) and _says_depth(cell))
        return named * 1.01

    def read(self, value: Any, where: str) -> Any:
        """``(H, W)`` float32, as it is stored."""
        return read_grey(value.path if isinstance(value, DepthFile) else value, where)


def _says_depth(cell: str) -> bool:
    return any(word in cell.lower() for word in ("depth", "disparity"))
