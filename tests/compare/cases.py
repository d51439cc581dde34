"""Small features with known answers, and settings that train in a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.compare import CompareConfig
from weft.data import load_dataset
from weft.store import MemoryFeatures

QUICK = {"epochs": 25, "lr": 1e-2, "patience": 8, "batch_size": 64}


def generated(kind: str, rows: int = 600, seed: int = 0, **options: Any) -> MemoryFeatures:
    dataset = load_dataset(kind, rows=rows, seed=seed, **options)
    vectors = {name: np.stack(list(modality.values)) for name, modality in dataset.modalities.items()}
    return MemoryFeatures(dataset.ids, vectors, dataset.targets, task=dataset.task)


def quick(**settings: Any) -> CompareConfig:
    """Two operators, one trial, no decision-level models or ensembles, unless said otherwise."""
    defaults: dict[str, Any] = {"ensembles": False, "refit": False, "fusions": ["concat", "tfn"]}
    defaults |= {"decisions": [], "seeds": 2, "trials": 1, "dim": 16, "resamples": 1999}
    return CompareConfig(**{**defaults, "train": QUICK, **settings})


def small(task: str = "classification", rows: int = 120, **options: Any) -> MemoryFeatures:
    """Two modalities whose sum is the target; made for speed, not for an answer."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(rows, 4)).astype(np.float32)
    value = a[:, 0] + b[:, 0]
    target = {
        "classification": (value > 0).astype(np.int64),
        "regression": value.astype(np.float64),
        "multilabel": np.stack([value > 0, a[:, 1] > 0.3, b[:, 1] > 0], axis=1).astype(np.int64),
    }[task]
    ids = [f"row{i}" for i in range(rows)]
    return MemoryFeatures(ids, {"a": a, "b": b}, {"y": target}, task=task, **options)
