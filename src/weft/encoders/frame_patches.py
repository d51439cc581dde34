r"""A video as one token per frame: the mean of the patches of ``image-patches``, and its change since the last frame.

.. math:: x_t = [\,\bar p_t,\; \bar p_t - \bar p_{t-1}\,], \qquad \bar p_t = \frac{1}{G^2} \sum_i p_{t,i}

``frames`` frames are taken evenly. Tokens: ``(T, 2 (4 bins + 6))``, ``T <= frames``. Cost: that of as many images.
When not to use it: where a pretrained video or image network can be had; encode frames with it, kind ``tokens``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.data.files import read_frames
from weft.encoders.base import Encoder, encoders, read_each
from weft.encoders.image_patches import ImagePatches


@encoders.register("frame-patches")
class FramePatches(Encoder):
    """Gradients and colours of each frame, and how they change.

    Args:
        frames: most frames.
        grid, bins: of ``image-patches``.
    """

    kinds = ("video",)

    def __init__(
        self,
        *,
        frames: Annotated[int, Field(ge=1)] = 8,
        grid: Annotated[int, Field(ge=1, le=64)] = 4,
        bins: Annotated[int, Field(ge=2, le=36)] = 8,
    ) -> None:
        self.frames, self.image = frames, ImagePatches(grid=grid, bins=bins)
        self.width = 2 * self.image.width

    def prepare(self, value: Any) -> np.ndarray:
        """The frames, in the size they are looked at."""
        return np.stack([np.asarray(self.image.prepare(frame)) for frame in read_frames(value, self.frames)])

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(T, D)`` per video."""
        return read_each(values, lambda value: self._tokens(read_frames(value, self.frames)))

    def _tokens(self, frames: np.ndarray) -> np.ndarray:
        means = np.stack([patches.mean(axis=0) for patches in self.image.encode(list(frames))])
        return np.concatenate([means, np.diff(means, axis=0, prepend=means[:1])], axis=1)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "frame-patches", "version": 1, "frames": self.frames, "image": self.image.identity()}
