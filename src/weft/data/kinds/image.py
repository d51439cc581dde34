"""Images: a path, a PIL image or an ``(H, W[, C])`` array of 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.files import IMAGE_SUFFIXES, read_image
from weft.data.kinds.base import FileKind, has_suffix, kinds, share


@kinds.register("image")
class Photo(FileKind):
    """Photos and drawings, read as upright RGB."""

    encoder = "image-patches"
    better = ("hf:facebook/dinov2-small", "hf:google/siglip-base-patch16-224", "hf:google/vit-base-patch16-224")
    transformers = "hf-image"
    suffixes = IMAGE_SUFFIXES

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of image files, or embedded images."""
        return share(cells, lambda cell: has_suffix(cell, self.suffixes) or _embedded(cell))

    def read(self, value: Any, where: str) -> Any:
        """Upright RGB."""
        return read_image(value, where)


def _embedded(cell: Any) -> bool:
    return isinstance(cell, dict) and {"bytes", "path"} <= set(cell)
