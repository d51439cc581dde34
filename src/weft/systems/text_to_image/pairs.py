"""Pairs of images and captions as text-to-image training wants them: every image once, with all its captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.data import Dataset, read_image
from weft.errors import UserError, some
from weft.models.rows import refuse_no_rows
from weft.systems.images import resized

ENLARGED = 76 / 64
"""With ``augment``, images are resized to this times their size, before a random part is cut out."""


class ImagePairs:
    """Training images, each once, with the rows of their captions.

    Args:
        data: rows of one group show one image.
        rows: the rows to train on.
        column: of the images.
        size: side of the images in pixels; they are kept in memory at that size (enlarged with ``augment``), as uint8.
        augment: cut and mirror at random.

    Attributes:
        first: ``(images,)`` a row of each.

    Raises:
        UserError: no rows, rows without an image, or images smaller than they shall be drawn.
    """

    def __init__(self, data: Dataset, rows: np.ndarray, column: str, size: int, augment: bool) -> None:
        refuse_no_rows("train", rows)
        values = data.modalities[column].values
        blind = [data.ids[row] for row in rows if values[row] is None]
        if blind:
            raise UserError(
                "every image has a caption, and every caption an image",
                f"no image in {len(blind)} rows: {some(blind)}",
                "drop these rows, or find their images",
            )
        groups = np.arange(len(rows)) if data.group is None else data.group[rows]
        _, first, self._image = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(self._image, kind="stable")
        self.first = rows[first]
        self._place = {int(row): image for image, row in enumerate(self.first)}
        self._captions = np.split(rows[order], np.flatnonzero(np.diff(self._image[order])) + 1)
        self.size, self.augment = size, augment
        self._side = round(size * ENLARGED) if augment else size
        self._pixels = np.stack([pixels_of(values[row], data.ids[row], size, self._side) for row in rows[first]])

    def __len__(self) -> int:
        return len(self._captions)

    def places(self, first: np.ndarray) -> np.ndarray:
        """Images by the first of their rows, :attr:`first`."""
        return np.array([self._place[int(row)] for row in first])

    def images(self, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        """``(n, 3, size, size)`` in [-1, 1]."""
        images = self._pixels[chosen]
        if self.augment:
            room = self._side - self.size + 1
            corners = rng.integers(room, size=(len(chosen), 2))
            cut = [image[y : y + self.size, x : x + self.size] for image, (y, x) in zip(images, corners, strict=True)]
            mirrored = rng.random(len(chosen)) < 0.5
            images = np.stack([image[:, ::-1] if flip else image for image, flip in zip(cut, mirrored, strict=True)])
        return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def captions(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``(n,)``: one row of each image, drawn among its captions."""
        return np.array([rng.choice(self._captions[image]) for image in chosen])


def pixels_of(value: Any, row: str, size: int, side: int) -> np.ndarray:
    """An image at ``(side, side, 3)`` uint8, the longer edge cut to a square around the middle first.

    Raises:
        UserError: it has fewer than ``size`` pixels a side.
    """
    image = read_image(value, f"image of row {row!r}")
    edge = min(image.size)
    if edge < size:
        raise UserError(
            f"images have at least the {size} pixels a side that are drawn",
            f"row {row!r}: {image.size[0]} x {image.size[1]}",
            "choose a smaller size, or larger images",
        )
    left, upper = (image.size[0] - edge) // 2, (image.size[1] - edge) // 2
    square = np.asarray(image.crop((left, upper, left + edge, upper + edge)))
    return np.array(resized(square, (side, side)))
