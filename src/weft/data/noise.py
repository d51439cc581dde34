"""Nothing to find: two modalities of noise and a fair coin. Every honest accuracy is 0.5 within its error."""

from __future__ import annotations

import numpy as np

from weft.data.dataset import Dataset, datasets
from weft.data.generated import Generated, vectors

WIDTH = 8


@datasets.register("noise")
class Noise(Generated):
    """Pure noise: nothing predicts the label; classification."""

    def make(self) -> Dataset:
        """Modalities ``a`` and ``b``, 8 wide."""
        random = np.random.default_rng(self.seed)
        modalities = {name: random.normal(size=(self.rows, WIDTH)) for name in "ab"}
        return vectors("noise", modalities, random.integers(2, size=self.rows))
