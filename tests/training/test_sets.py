"""What ``weft fit`` trains gives sets and intervals that hold the truth as often as they say, also where something is
missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.models import FusedModel
from weft.store import MemoryFeatures
from weft.training import train_model

ROWS, NEW, DRAWS = 8000, 6000, 5
"""Dev has 1200 rows, 400 of them without the second modality: 1.5 points of noise in a draw, 0.7 in the mean."""


def problem(rows: int, seed: int, values: bool) -> MemoryFeatures:
    """A target that two modalities tell, the second absent in every third row."""
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=(rows, 3)).astype(np.float32) for name in ("a", "b")}
    score = x["a"][:, 0] + x["b"][:, 0] + 0.5 * rng.normal(size=rows)
    x["b"][rng.random(rows) < 1 / 3] = np.nan
    target: Any = score if values else np.digitize(score, [-0.7, 0.7])
    task = "regression" if values else "classification"
    return MemoryFeatures([f"{seed}-{i}" for i in range(rows)], x, {"y": target}, task=task)


@pytest.mark.parametrize("values", [False, True], ids=["sets", "intervals"])
def test_a_fitted_model_covers_new_rows(values: bool, tmp_path: Path) -> None:
    shares = []
    for seed in range(DRAWS):
        settings = {"epochs": 2, "lr": 0.02, "batch_size": 256, "seed": seed}
        folder = tmp_path / str(seed)
        train_model(problem(ROWS, seed, values), "concat", folder, dim=8, config=settings, progress=False)
        model, new = FusedModel.from_pretrained(folder), problem(NEW, 100 + seed, values)
        found, truth = model.predict(new, sets=0.9), new.targets["y"]
        inside = (
            (found["low"] <= truth) & (truth <= found["high"])
            if values
            else np.array([str(y) in row.split(" | ") for y, row in zip(truth.tolist(), found["set"], strict=True)])
        )
        whole = new.presence.all(axis=1)
        shares.append([inside.mean(), inside[whole].mean(), inside[~whole].mean()])
    np.testing.assert_allclose(np.mean(shares, axis=0), 0.9, atol=0.02)


def test_a_task_without_sets_is_fitted_all_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2)).astype(np.float32)
    target = np.stack([np.exp(x[:, 0]), rng.integers(0, 2, 120)], axis=1)
    features = MemoryFeatures([str(i) for i in range(120)], {"x": x}, {"y": target}, task="survival")
    train_model(features, "concat", tmp_path, dim=4, config={"epochs": 1}, progress=False)
    assert FusedModel.from_pretrained(tmp_path).conformal is None
