"""Small problems with known answers."""

from __future__ import annotations

import numpy as np

from weft.data import Split
from weft.models import FusedModel
from weft.store import MemoryFeatures
from weft.tasks.base import create_task


def xor(rows: int = 600, seed: int = 0, width: int = 4, absent: float = 0.0) -> tuple[MemoryFeatures, Split]:
    """The label is the XOR of two signs, one in each modality: neither knows anything alone.

    With ``absent``, that share of the rows lacks one modality.
    """
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (rows, 2))
    values = {name: rng.normal(3, 0.3, (rows, width)) for name in ("a", "b")}
    for index, name in enumerate(values):
        values[name][:, 0] += 2 * bits[:, index]
    gone = rng.random(rows) < absent
    side = rng.integers(0, 2, rows)
    for index, name in enumerate(values):
        values[name][gone & (side == index)] = np.nan
    order = rng.permutation(rows)
    split = Split(*np.split(order, [rows * 3 // 5, rows * 4 // 5]))
    return MemoryFeatures([f"row-{i}" for i in range(rows)], values, {"label": bits.sum(axis=1) % 2}), split


def sequences(rows: int = 60, seed: int = 0) -> tuple[MemoryFeatures, Split]:
    """Sequences of unequal length, some absent; the label is the sign of the mean of the first feature of ``long``."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, rows)
    long = [rng.normal(5 * label[i], 1, (rng.integers(1, 7), 3)) for i in range(rows)]
    short = [None if rng.random() < 0.3 else rng.normal(size=(rng.integers(1, 3), 2)) for _ in range(rows)]
    features = MemoryFeatures([str(i) for i in range(rows)], {"long": long, "short": short}, {"label": label})
    return features, Split(*np.split(np.arange(rows), [rows // 2, rows * 3 // 4]))


def build(features, split, **settings) -> FusedModel:
    """A small classifier of the first target."""
    task = create_task("classification", next(iter(features.targets.values()))[split.train])
    return FusedModel.build(dims=features.dims, task=task, **{"dim": 32, **settings})


def pairs(items=150, captions=1, seed=0):
    """An image and its captions are two linear views of one hidden vector, with noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(items, 6))
    item = np.repeat(np.arange(items), captions)
    image = (hidden @ rng.normal(size=(6, 10)))[item]
    text = hidden[item] @ rng.normal(size=(6, 8)) + 0.1 * rng.normal(size=(items * captions, 8))
    ids = [str(i) for i in range(len(item))]
    features = MemoryFeatures(ids, {"image": image, "text": text}, {}, group=item, task="retrieval")
    parts = np.split(rng.permutation(items), [items * 2 // 3, items * 5 // 6])
    return features, Split(*(np.flatnonzero(np.isin(item, part)) for part in parts))
