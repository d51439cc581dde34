"""What generated sets share: their two options, and vectors to a :class:`Dataset`."""

from __future__ import annotations

import numpy as np

from weft.data.dataset import BuiltIn, Dataset, Modality, numbered
from weft.errors import UserError
from weft.registry import Seed

FEWEST_ROWS = 10


class Generated(BuiltIn):
    """A seeded set of vectors whose answer is known.

    Args:
        rows: how many.
        seed: the same seed gives the same bytes.
    """

    def __init__(self, *, rows: int = 1000, seed: Seed = 0) -> None:
        if rows < FEWEST_ROWS:
            raise UserError(f"a generated set has at least {FEWEST_ROWS} rows", f"rows={rows}", "choose more rows")
        self.rows, self.seed = rows, seed


def vectors(name: str, modalities: dict[str, np.ndarray], target: np.ndarray) -> Dataset:
    """A classification set of vectors ``{name: (N, D)}`` with one target, ``label`` ``(N,)``."""
    return Dataset(
        name=name,
        ids=numbered(f"{name}-", len(target)),
        modalities={key: Modality("vector", list(value.astype(np.float32))) for key, value in modalities.items()},
        targets={"label": target.astype(np.int64)},
        split=None,
        group=None,
        task="classification",
    )
