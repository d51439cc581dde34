"""One vector per value: the mean of its tokens, each different value encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.encoders.base import Encoder


def pooled_vectors(encoder: Encoder, values: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
    """``(N, D)`` float32 means over the tokens of present, hashable values; like lengths share a batch."""
    unique = list(dict.fromkeys(values))
    order = np.argsort(-np.asarray(encoder.lengths(unique)), kind="stable")
    vectors = np.zeros((len(unique), encoder.width), dtype=np.float32)
    for start in range(0, len(unique), batch_size):
        rows = order[start : start + batch_size]
        for row, tokens in zip(rows, encoder.encode([unique[i] for i in rows]), strict=True):
            vectors[row] = tokens.mean(axis=0)
    place = {value: i for i, value in enumerate(unique)}
    return vectors[[place[value] for value in values]]
