r"""A grid of patches, each with its gradient orientations and colours: an image encoder without weights.

The image is resized to ``(G P, G P)`` pixels, ``P = 16``. Per patch: four cells (2 x 2) with a histogram each of the
gradient orientation in ``bins`` equal parts of [0, pi), weighted by the gradient's magnitude and normalised over the
patch, then mean and standard deviation of the three colours in [0, 1]:

.. math:: x = \Big[\frac{h}{\sqrt{\lVert h \rVert^2 + \epsilon}},\; \mu_{RGB},\; \sigma_{RGB}\Big],\qquad
          h \in R^{4\,\text{bins}},\; \epsilon = 10^{-2}

Tokens: ``(G^2, 4 bins + 6)``, row-major. Cost: a few array operations per image.
When not to use it: it knows shapes and colours, not objects; a pretrained network (``hf:``) is far better for content.

Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005 (hard binning here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from weft.data.files import read_image
from weft.encoders.base import Encoder, encoders, read_each

PATCH = 16
EPSILON = 1e-2


@encoders.register("image-patches")
class ImagePatches(Encoder):
    """Oriented gradients and colour statistics on a grid.

    Args:
        grid: patches per side ``G``; an image becomes ``G * G`` tokens.
        bins: orientations per cell.
    """

    kinds = ("image",)

    def __init__(
        self, *, grid: Annotated[int, Field(ge=1, le=64)] = 7, bins: Annotated[int, Field(ge=2, le=36)] = 8
    ) -> None:
        self.grid, self.bins = grid, bins
        self.width = 4 * bins + 6
        self.size = (grid * PATCH, grid * PATCH)

    def prepare(self, value: Any) -> Image.Image:
        """The image, in the size it is looked at."""
        return read_image(value).resize(self.size, Image.Resampling.BILINEAR)

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(G * G, D)`` per image, row-major."""
        return read_each(values, lambda value: self._tokens(read_image(value)))

    def _tokens(self, image: Image.Image) -> np.ndarray:
        side = self.grid * PATCH
        resized = image.resize(self.size, Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, dtype=np.float32) / 255
        dy, dx = np.gradient(pixels.mean(axis=2))
        bin_of = (np.arctan2(dy, dx) % np.pi / np.pi * self.bins).astype(np.int64) % self.bins
        cell_of = np.arange(side) // (PATCH // 2)
        slot = (cell_of[:, None] * 2 * self.grid + cell_of) * self.bins + bin_of
        counts = np.bincount(slot.ravel(), np.hypot(dx, dy).ravel(), minlength=4 * self.grid**2 * self.bins)
        cells = counts.reshape(self.grid, 2, self.grid, 2, self.bins).transpose(0, 2, 1, 3, 4)
        histogram = cells.reshape(self.grid**2, 4 * self.bins)
        histogram = histogram / np.sqrt((histogram**2).sum(axis=1, keepdims=True) + EPSILON)
        patches = pixels.reshape(self.grid, PATCH, self.grid, PATCH, 3).transpose(0, 2, 1, 3, 4)
        colours = patches.reshape(self.grid**2, PATCH * PATCH, 3)
        tokens = np.concatenate([histogram, colours.mean(axis=1), colours.std(axis=1)], axis=1)
        return tokens.astype(np.float32)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "image-patches", "version": 1, "grid": self.grid, "bins": self.bins, "patch": PATCH}
