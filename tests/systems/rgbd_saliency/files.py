"""Small RGB-D saliency sets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_set(root: Path, rows: int = 4, size: tuple[int, int] = (40, 52), seed: int = 0) -> Path:
    """``rows`` scenes: a rectangle, brighter in the photo and nearer in the depth, on noise."""
    rng = np.random.default_rng(seed)
    for name in ("RGB", "depth", "GT"):
        (root / name).mkdir(parents=True)
    for row in range(rows):
        mask = np.zeros(size, dtype=bool)
        top, left = rng.integers(4, 16, 2)
        mask[top : top + 16, left : left + 20] = True
        photo = rng.integers(0, 90, (*size, 3)) + 120 * mask[..., None]
        depth = rng.integers(0, 60, size) + 150 * mask
        Image.fromarray(photo.astype(np.uint8)).save(root / f"RGB/s{row}.png")
        Image.fromarray(depth.astype(np.uint8)).save(root / f"depth/s{row}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"GT/s{row}.png")
    return root
