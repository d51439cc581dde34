"""Redundancy: two modalities are rotations of the same latent, so fusion cannot help.

``z ~ N(0, I_8)``, ``a = z Q_a``, ``b = z Q_b`` with random orthogonal ``Q`` ``(8, 8)``; ``label = [w.z + e / 2 > 0]``
with a random unit ``w`` and ``e ~ N(0, 1)``. Either modality determines the other exactly (``b = a Q_a^T Q_b``). The
best possible accuracy, by one modality or by both, is ``1 - atan(1/2) / pi = 0.852``.
"""

from __future__ import annotations

import numpy as np

from weft.data.dataset import Dataset, datasets
from weft.data.generated import Generated, vectors

WIDTH = 8
LABEL_NOISE = 0.5


@datasets.register("redundant")
class Redundant(Generated):
    """Two rotations of one latent: fusion cannot help; classification."""

    def make(self) -> Dataset:
        """Modalities ``a`` and ``b``, 8 wide."""
        random = np.random.default_rng(self.seed)
        latent = random.normal(size=(self.rows, WIDTH))
        turns = [np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0] for _ in "ab"]
        direction = random.normal(size=WIDTH)
        direction /= np.linalg.norm(direction)
        label = latent @ direction + LABEL_NOISE * random.normal(size=self.rows) > 0
        return vectors("redundant", {"a": latent @ turns[0], "b": latent @ turns[1]}, label)
