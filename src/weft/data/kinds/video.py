"""Moving pictures: a path (animated GIF, WebP or PNG, ``.npy``, a folder of frames; others need PyAV), or an array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.files import VIDEO_SUFFIXES, read_frames
from weft.data.kinds.base import Kind, Place, has_suffix, kinds, paths, share


@kinds.register("video")
class Video(Kind):
    """Frames in the order of time, ``(T, H, W, 3)`` 8-bit integers."""

    encoder = "frame-patches"
    files = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Paths relative to the table."""
        return paths(columns[0], place)

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of video files."""
        return share(cells, lambda cell: has_suffix(cell, VIDEO_SUFFIXES))

    def read(self, value: Any, where: str) -> Any:
        """At most 32 frames, evenly taken."""
        return read_frames(value, 32, where)
