"""Moving pictures: a path (animated GIF, WebP or PNG, ``.npy``, others by ffmpeg), or an array."""

from __future__ import annotations

from typing import Any

from weft.data.files import VIDEO_SUFFIXES, read_frames
from weft.data.kinds.base import FileKind, kinds


@kinds.register("video")
class Video(FileKind):
    """Frames in the order of time, ``(T, H, W, 3)`` 8-bit integers."""

    encoder = "frame-patches"
    suffixes = VIDEO_SUFFIXES

    def read(self, value: Any, where: str) -> Any:
        """At most 32 frames, evenly taken."""
        return read_frames(value, 32, where)
