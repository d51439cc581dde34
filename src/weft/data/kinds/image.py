"""Images: a path, a PIL image or an ``(H, W[, C])`` array of 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.files import IMAGE_SUFFIXES, content_of, is_picture, open_image, read_image
from weft.data.kinds.base import FileKind, has_suffix, kinds, share


@kinds.register("image")
class Photo(FileKind):
    """Photos and drawings, read as upright RGB; cells may hold them: bytes of a file, or a picture of PIL."""

    encoder = "image-patches"
    better = ("hf:facebook/dinov2-small", "hf:google/siglip-base-patch16-224", "hf:google/vit-base-patch16-224")
    transformers = "hf-image"
    suffixes = IMAGE_SUFFIXES

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of image files, or embedded images."""
        return share(cells, lambda cell: has_suffix(_name(cell), self.suffixes) or is_picture(cell))

    def held(self, cell: Any, where: str) -> Any:
        """The image of these bytes, or the picture itself."""
        content = content_of(cell)
        if content is not None:
            return open_image(content, where)
        return cell if is_picture(cell) else super().held(cell, where)

    def read(self, value: Any, where: str) -> Any:
        """Upright RGB."""
        return read_image(value, where)


def _name(cell: Any) -> Any:
    return cell.get("path") if isinstance(cell, dict) else cell
