"""Images as systems take them."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An ``(H, W)`` float or bool, or ``(H, W, 3)`` uint8 image at ``(height, width)``, bilinear with antialiasing."""
    pixels = image.astype(np.float32) if image.ndim == 2 else image
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))
