r"""Colour of pictures made one: the network joins luma, chroma follows by a closed formula.

.. math::
    C_f = \frac{\sum_i C_i |C_i - 128|}{\sum_i |C_i - 128|}, \qquad 128 \text{ where every } |C_i - 128| = 0

for ``C`` in ``Cb``, ``Cr``: a picture counts as much as it has colour there. ``Y'CbCr`` is ITU-R BT.601 in its studio
range: 16..235 for ``Y'``, 16..240 for chroma.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FORWARD = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
OFFSET = np.array([16.0, 128.0, 128.0])
BACK = np.linalg.inv(FORWARD)


def to_ycbcr(image: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` float of an image ``(H, W, 3)`` in 0..255."""
    return image.astype(np.float64) @ FORWARD.T + OFFSET


def to_rgb(ycbcr: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8 of what :func:`to_ycbcr` gives, cut to 0..255."""
    return np.clip(np.round((ycbcr - OFFSET) @ BACK.T), 0, 255).astype(np.uint8)


def fused_chroma(chroma: Sequence[np.ndarray]) -> np.ndarray:
    """One plane of chroma ``(H, W, ...)`` of several, by the formula."""
    planes = np.stack(chroma)
    weights = np.abs(planes - 128)
    total = weights.sum(axis=0)
    grey = total == 0
    return np.where(grey, 128.0, (planes * weights).sum(axis=0) / np.where(grey, 1.0, total))
