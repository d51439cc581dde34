"""Coverage of conformal sets and intervals within 2 points, also for each pattern of missing modalities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weft.errors import UserError
from weft.models import FusedModel
from weft.store import MemoryFeatures
from weft.tasks.base import Task, create_task
from weft.tasks.conformal import Conformal, threshold


def covered(task: Task, found: dict[str, np.ndarray], target: np.ndarray) -> np.ndarray:
    """``(N,)`` whether the truth is inside."""
    if "low" in found:
        return np.asarray((found["low"] <= target) & (target <= found["high"]))
    return np.array([str(label) in row.split(" | ") for label, row in zip(target.tolist(), found["set"], strict=True)])


def simulated(name: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs that are far worse where the second modality is absent, the target, and presence ``(N, 2)``."""
    rng = np.random.default_rng(seed)
    presence = np.stack([np.ones(rows, bool), rng.random(rows) < 0.6], axis=1)
    noise = np.where(presence[:, 1], 0.5, 2.5)[:, None]
    if name == "regression":
        y = rng.normal(size=rows)
        return y[:, None] + noise * rng.standard_t(4, (rows, 1)), y, presence
    y = rng.integers(0, 4, rows)
    hot = np.eye(4)[y] * 1.2 + 2 * noise * rng.normal(size=(rows, 4))
    if name == "classification":
        return hot, y, presence
    log_p = torch.log_softmax(torch.from_numpy(hot), -1).unsqueeze(-2)
    return create_task("ordinal", y).from_log_probabilities(log_p).numpy(), y, presence


@pytest.mark.parametrize("name", ["classification", "ordinal", "regression"])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_coverage_per_pattern(name: str, level: float) -> None:
    """Mean over 40 draws of 600 dev rows, on 1,500 test rows each."""
    shares = []
    for seed in range(40):
        outputs, y, presence = simulated(name, 2100, seed)
        task = create_task(name, y)
        if name == "regression":
            outputs = (outputs - task.mean) / task.scale  # in the task's own units
        found = Conformal.fit(task, outputs[:600], y[:600], presence[:600], ["a", "b"])
        assert set(found.rows) == {"all", "10", "11"}
        inside = covered(task, found.predict(task, outputs[600:], presence[600:], level), y[600:])
        there = presence[600:, 1]
        shares.append([inside.mean(), inside[there].mean(), inside[~there].mean()])
    np.testing.assert_allclose(np.mean(shares, axis=0), level, atol=0.02)


def test_without_patterns_the_weak_rows_would_be_left_out() -> None:
    """What the thresholds per pattern are for: one for all rows covers too few of those that lack a modality."""
    outputs, y, presence = simulated("classification", 4000, 0)
    task = create_task("classification", y)
    whole = Conformal.fit(task, outputs[:2000], y[:2000], np.ones((2000, 1), bool), ["a"])
    inside = covered(task, whole.predict(task, outputs[2000:], np.ones((2000, 1), bool)), y[2000:])
    assert inside[~presence[2000:, 1]].mean() < 0.88


def test_labels_are_questions_of_their_own() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (3000, 3))
    outputs = 2.0 * (2 * y - 1) + 2 * rng.normal(size=y.shape)
    task = create_task("multilabel", y, labels=["red", "big", "old"])
    found = Conformal.fit(task, outputs[:1000], y[:1000], np.ones((1000, 1), bool), ["a"])
    sets = found.predict(task, outputs[1000:], np.ones((2000, 1), bool))["set"]
    for k, name in enumerate(task.labels):
        words = [row.split(" | ") for row in sets]
        wrong = [(name in w and not t) or (t and name not in w and f"{name}?" not in w)
                 for w, t in zip(words, y[1000:, k], strict=True)]  # fmt: skip
        assert np.mean(wrong) == pytest.approx(0.1, abs=0.03)


def test_threshold_by_hand_and_json() -> None:
    scores = np.arange(1.0, 10.0)[:, None]
    assert threshold(scores, 0.9) == [9.0]
    assert threshold(scores, 0.8) == [8.0]
    assert threshold(scores[:8], 0.9) == [float("inf")]
    y = np.arange(40) % 2
    task = create_task("classification", y)
    found = Conformal.fit(task, np.eye(2)[y], y, np.ones((40, 2), bool), ["a", "b"])
    assert set(found.rows) == {"all"}
    again = Conformal.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    with pytest.raises(UserError, match=r"levels: 0.8, 0.9, 0.95"):
        found.predict(task, np.eye(2)[y], np.ones((40, 2), bool), 0.5)
    survival = create_task("survival", np.stack([np.arange(1, 41), y], axis=1))
    with pytest.raises(UserError, match="values that the table holds"):
        Conformal.fit(
            survival, np.zeros((40, 1)), np.stack([np.arange(1, 41), y], axis=1), np.ones((40, 1), bool), ["a"]
        )


def test_a_model_keeps_its_thresholds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.where(rng.random(200) < 0.5, "yes", "no")
    values = {name: rng.normal(size=(200, 3)).astype(np.float32) for name in ("a", "b")}
    values["b"][::3] = np.nan
    features = MemoryFeatures([str(i) for i in range(200)], values, {"y": y})
    model = FusedModel.build(dims=features.dims, task=create_task("classification", y))
    model.standardise(features.gather(np.arange(200)))
    with pytest.raises(UserError, match="has no sets"):
        model.predict(features, sets=0.9)
    model.calibrate(features, np.arange(150))
    model.save_pretrained(tmp_path)
    again = FusedModel.from_pretrained(tmp_path)
    assert again.conformal is not None
    assert set(again.conformal.rows) == {"all", "10", "11"}
    found, before = (m.predict(features, np.arange(150, 200), sets=0.9) for m in (again, model))
    assert found["set"].tolist() == before["set"].tolist()
    assert all(row in ("yes", "no", "yes | no", "no | yes") for row in found["set"])
