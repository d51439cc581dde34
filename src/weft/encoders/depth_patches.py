r"""A grid of patches of a depth map, each with its slopes and distances: a depth encoder without weights.

Distances become logarithms, ``l = log(1 + d / m)`` with ``m`` the median of the known ones of the map, so metres and
millimetres are alike; unknown pixels (0, NaN) are 0. The map is resized to ``(G P, G P)``, ``P = 16``. Per patch: a
histogram of the slope's orientation in ``bins`` parts of [0, 2 pi), weighted by the slope and of length at most 1, then
mean and deviation of ``l`` and the share of known pixels; ``log m`` is the last entry.

Tokens: ``(G^2, bins + 4)``, row-major. Cost: a few array operations per map.
When not to use it: where a network pretrained on depth can be had.

Source: Spinello and Arras, "People detection in RGB-D data" (histograms of oriented depths), IROS 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from weft.data.files import read_grey
from weft.encoders.base import Encoder, encoders, read_each
from weft.errors import UserError

PATCH, EPSILON = 16, 1e-2


@encoders.register("depth-patches")
class DepthPatches(Encoder):
    """Oriented slopes and distances on a grid.

    Args:
        grid: patches per side ``G``.
        bins: orientations.
    """

    kinds = ("depth",)

    def __init__(
        self, *, grid: Annotated[int, Field(ge=1, le=64)] = 7, bins: Annotated[int, Field(ge=2, le=36)] = 8
    ) -> None:
        self.grid, self.bins, self.width = grid, bins, bins + 4

    def prepare(self, value: Any) -> np.ndarray:
        """The distances."""
        return _distances(value)

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(G * G, D)`` per map, row-major."""
        return read_each(values, lambda value: self._tokens(_distances(value)))

    def _tokens(self, depth: np.ndarray) -> np.ndarray:
        known = np.isfinite(depth) & (depth > 0)
        median = float(np.median(depth[known])) if known.any() else 1.0
        logs, known = self._resized(np.log1p(np.where(known, depth, 0) / median)), self._resized(known)
        dy, dx = np.gradient(logs)
        slope = np.hypot(dx, dy)
        part = (np.arctan2(dy, dx) % (2 * np.pi) / (2 * np.pi) * self.bins).astype(np.int64) % self.bins
        weights = self._patches(slope)
        parts = self._patches(part)
        histogram = np.stack([(weights * (parts == k)).sum(axis=1) for k in range(self.bins)], axis=1)
        histogram /= np.sqrt((histogram**2).sum(axis=1, keepdims=True) + EPSILON)
        patches = self._patches(logs)
        facts = [patches.mean(axis=1), patches.std(axis=1), self._patches(known).mean(axis=1)]
        facts.append(np.full(self.grid**2, np.log(median)))
        return np.concatenate([histogram, np.stack(facts, axis=1)], axis=1).astype(np.float32)

    def _resized(self, map_: np.ndarray) -> np.ndarray:
        side = self.grid * PATCH
        return np.asarray(Image.fromarray(map_.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))

    def _patches(self, map_: np.ndarray) -> np.ndarray:
        """``(side, side)`` as ``(G * G, P * P)``."""
        return map_.reshape(self.grid, PATCH, self.grid, PATCH).transpose(0, 2, 1, 3).reshape(self.grid**2, -1)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "depth-patches", "version": 1, "grid": self.grid, "bins": self.bins, "patch": PATCH}


def _distances(value: Any) -> np.ndarray:
    depth = np.asarray(value, dtype=np.float64) if isinstance(value, np.ndarray | Image.Image) else read_grey(value)
    if depth.ndim != 2 or depth.size == 0:
        raise UserError("a depth map is (H, W)", f"shape {depth.shape}", "give one channel of distances")
    return depth
