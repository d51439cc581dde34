"""Synergy: each modality alone says nothing, the product of their signs decides.

Independent fair signs ``s, t``; ``a = 2.5 s u + e``, ``b = 2.5 t v + e'`` with random unit ``u``, ``v`` ``(8,)`` and
standard normal noise; ``label = [s t > 0]``. Either modality alone is at chance, 0.5, and so is a linear rule over
both; a fusion that multiplies reaches ``p^2 + (1 - p)^2 = 0.988`` with ``p = Phi(2.5)``.
"""

from __future__ import annotations

import numpy as np

from weft.data.dataset import Dataset, datasets
from weft.data.generated import Generated, vectors

WIDTH = 8
MARGIN = 2.5


@datasets.register("xor")
class Xor(Generated):
    """The product of two signs: each modality alone is at chance; classification."""

    def make(self) -> Dataset:
        """Modalities ``a`` and ``b``, 8 wide."""
        random = np.random.default_rng(self.seed)
        signs = random.choice([-1.0, 1.0], size=(2, self.rows))
        modalities = {}
        for name, sign in zip("ab", signs, strict=True):
            direction = random.normal(size=WIDTH)
            direction *= MARGIN / np.linalg.norm(direction)
            modalities[name] = sign[:, None] * direction + random.normal(size=(self.rows, WIDTH))
        return vectors("xor", modalities, signs.prod(axis=0) > 0)
