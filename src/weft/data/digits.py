"""Handwritten digits, 8 x 8 pixels, as two halves: 1,797 rows, part of scikit-learn.

Modalities are vectors of 32 pixel values in [0, 1]: the ``left`` and the ``right`` half, row by row. Each half alone
tells most digits; together they tell nearly all. Target ``digit``.

Alpaydin, Kaynak 1998, Optical recognition of handwritten digits (UCI).
"""

from __future__ import annotations

import numpy as np

from weft.data.dataset import BuiltIn, Dataset, Modality, datasets, numbered


@datasets.register("digits")
class Digits(BuiltIn):
    """Handwritten digits as left and right half; classification."""

    paper = "Alpaydin, Kaynak 1998, Optical recognition of handwritten digits (UCI)"

    def make(self) -> Dataset:
        """The 1,797 rows."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = (bunch.images / 16.0).astype(np.float32)
        halves = {"left": pixels[:, :, :4], "right": pixels[:, :, 4:]}
        return Dataset(
            name="digits",
            ids=numbered("digit", len(pixels)),
            modalities={name: Modality("vector", list(half.reshape(len(half), -1))) for name, half in halves.items()},
            targets={"digit": bunch.target.astype(np.int64)},
            split=None,
            group=None,
            task="classification",
        )
