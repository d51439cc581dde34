"""Uniqueness: one modality alone is informative, the two others are noise.

All three are ``N(0, I_8)``; ``label = [w.x + e / 2 > 0]`` with ``x`` the informative one, a random unit ``w`` and
``e ~ N(0, 1)``. The best possible accuracy is ``1 - atan(1/2) / pi = 0.852``, with or without the others.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from weft.data.dataset import Dataset, datasets
from weft.data.generated import Generated, vectors
from weft.registry import Seed

WIDTH = 8
LABEL_NOISE = 0.5


@datasets.register("unique")
class Unique(Generated):
    """One informative modality of three: the others are noise; classification.

    Args:
        rows, seed: as for every generated set.
        which: the informative modality.
    """

    def __init__(self, *, rows: int = 1000, seed: Seed = 0, which: Literal["a", "b", "c"] = "a") -> None:
        super().__init__(rows=rows, seed=seed)
        self.which = which

    def make(self) -> Dataset:
        """Modalities ``a``, ``b`` and ``c``, 8 wide."""
        random = np.random.default_rng(self.seed)
        modalities = {name: random.normal(size=(self.rows, WIDTH)) for name in "abc"}
        direction = random.normal(size=WIDTH)
        direction /= np.linalg.norm(direction)
        label = modalities[self.which] @ direction + LABEL_NOISE * random.normal(size=self.rows) > 0
        return vectors("unique", modalities, label)
