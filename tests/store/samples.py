"""A small data set of every shape a store has to keep, and an encoder that is easy to check."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.data.dataset import Dataset, Modality
from weft.encoders import Encoder, create_encoder, default_encoder


class Letters(Encoder):
    """One token per letter: its code, its square and its position; slow on purpose where asked."""

    kinds = ("text",)
    width = 3

    def __init__(self, scale: float = 1.0, pause: float = 0.0) -> None:
        self.scale, self.pause = scale, pause
        self.batches: list[list[str]] = []

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        time.sleep(self.pause)
        self.batches.append(list(values))
        with np.errstate(over="ignore"):
            return [letters(value) * np.float32(self.scale) for value in values]

    def lengths(self, values: Sequence[Any]) -> np.ndarray:
        return np.array([len(value) for value in values])

    def identity(self) -> dict[str, Any]:
        return {"name": "letters", "scale": self.scale}


def letters(text: str) -> np.ndarray:
    return np.array([[ord(c) % 32, (ord(c) % 32) ** 2, i] for i, c in enumerate(text)], dtype=np.float32)


def toy(rows: int = 40, seed: int = 0) -> Dataset:
    """Text that repeats and is sometimes absent, series of unequal length, a table."""
    generator = np.random.default_rng(seed)
    words = ["a", "bc", "def", "weft", "woven", "fabric"]
    texts = [None if row % 7 == 3 else words[generator.integers(len(words))] + "x" * (row % 5) for row in range(rows)]
    return Dataset(
        name="toy",
        ids=[f"row-{row}" for row in range(rows)],
        modalities={
            "text": Modality("text", texts),
            "a series/..": Modality(
                "series", [generator.standard_normal((5 + 9 * (row % 4), 2)) for row in range(rows)]
            ),
            "table": Modality("tabular", [(float(row), "odd" if row % 2 else None) for row in range(rows)], ("n", "p")),
        },
        targets={
            "label": np.array(["yes", "no"])[generator.integers(0, 2, rows)],
            "count": np.arange(rows),
            "tags": generator.integers(0, 2, (rows, 3)),
        },
        split=np.array(["train"] * (rows - 10) + ["dev"] * 5 + ["test"] * 5),
        group=np.arange(rows) // 2,
        task="classification",
        labels={"tags": ("p", "q", "r")},
    )


def toy_encoders(pause: float = 0.0) -> dict[str, Encoder]:
    return {
        "text": Letters(pause=pause),
        "a series/..": create_encoder("random-kernels", "series", kernels=8, patch=8),
        "table": create_encoder(default_encoder("tabular"), "tabular"),
    }
