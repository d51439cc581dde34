"""Scores by pattern of missing modalities, row by row with a slow loop over features that lack them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from tests.models.trees import boost
from tests.training.problems import build
from weft.data import Split
from weft.fusion import fusions
from weft.models.boosted import BoostedModel
from weft.models.ensemble import EnsembleModel
from weft.models.linear import LinearModel, linear_path
from weft.models.missing import patterns_of, rows_for, scores_as_they_come, scores_hidden
from weft.models.pooled import PooledInputs
from weft.models.predictor import Predictor
from weft.store import MemoryFeatures
from weft.tasks.base import create_task

ROWS, NAMES = np.arange(150), ("a", "b", "c")
SPLIT = Split(np.arange(80), np.arange(80, 110), np.arange(110, 150))


def values(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three modalities, ``b`` absent in every third row and ``c`` in every fourth, and three classes."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(size=(150, 3)).astype(np.float32) for name in NAMES}
    y = np.digitize(sum(part[:, 0] for part in found.values()), [-0.7, 0.7])
    found["b"][::3], found["c"][::4] = np.nan, np.nan
    return found, np.array(["low", "middle", "high"])[y]


def features_of(parts: dict[str, np.ndarray], y: np.ndarray) -> MemoryFeatures:
    return MemoryFeatures([f"r{i}" for i in range(len(y))], parts, {"y": y})


def made(kind: str) -> tuple[Predictor, MemoryFeatures]:
    features = features_of(*values())
    task = create_task("classification", features.targets["y"][SPLIT.train])
    net = build(features, SPLIT, fusion="gated", seed=3, target="y")
    net.standardise.fit([features.gather(SPLIT.train)])
    inputs = PooledInputs.fit(features, SPLIT.train, nan=kind == "boosting")
    x, y = inputs.matrix(features, SPLIT.train), features.targets["y"][SPLIT.train]
    if kind == "network":
        return net, features
    if kind == "boosting":
        trees, _ = boost(task, (x, y), None, rounds=5)
        return BoostedModel(task, inputs, trees, target="y"), features
    _, weight, bias = next(linear_path(task, x, y, [1.0]))
    line = LinearModel(task, inputs, target="y").set(weight, bias)
    return (line if kind == "linear" else EnsembleModel(task, features.dims, [net, line], [0.6, 0.4])), features


@pytest.mark.parametrize("kind", ["network", "linear", "boosting", "ensemble"])
def test_hidden_scores_equal_a_loop_over_rows_that_lack_it(kind: str) -> None:
    """Each row alone, in features of its own, with NaN where something is hidden: no row depends on another."""
    model, features = made(kind)
    parts, y = values()
    presence = np.stack([~np.isnan(parts[name][:, 0]) for name in NAMES], axis=1)
    found = scores_hidden(model, features, SPLIT.test)
    assert list(found)[:3] == ["a", "b", "c"]
    assert set(found) == {"a", "b", "c", "b+c"}
    for pattern, entry in found.items():
        hidden, answers, whole, truth = pattern.split("+"), [], [], []
        for row in SPLIT.test.tolist():
            has = {name for name, there in zip(NAMES, presence[row], strict=True) if there}
            if not has & set(hidden) or not has - set(hidden):
                continue
            alone = {name: parts[name][row : row + 1].copy() for name in NAMES}
            whole.append(model.predict(features_of(alone, y[row : row + 1]))["prediction"][0])
            for name in hidden:
                alone[name][:] = np.nan
            answers.append(model.predict(features_of(alone, y[row : row + 1]))["prediction"][0])
            truth.append(y[row])
        assert entry is not None
        assert entry["rows"] == len(truth) > 10
        assert entry["hidden"] == pytest.approx(accuracy_score(truth, answers))
        assert entry["full"] == pytest.approx(accuracy_score(truth, whole))


def test_rows_as_they_come_and_what_their_sets_hold() -> None:
    model, features = made("linear")
    model.calibrate(features, SPLIT.dev)
    found = scores_as_they_come(model, features, SPLIT.test)
    y, presence = features.targets["y"], features.presence
    answers = model.predict(features, SPLIT.test, sets=0.9)
    inside = [str(label) in row.split(" | ") for label, row in zip(y[SPLIT.test], answers["set"], strict=True)]
    patterns = {"": (1, 1, 1), "b": (1, 0, 1), "c": (1, 1, 0), "b+c": (1, 0, 0)}
    assert set(found) == set(patterns)
    for pattern, row in patterns.items():
        here = (presence[SPLIT.test] == np.array(row, dtype=bool)).all(axis=1)
        assert found[pattern]["rows"] == here.sum()
        right = answers["prediction"][here] == y[SPLIT.test][here]
        assert found[pattern]["accuracy"] == pytest.approx(right.mean())
        assert found[pattern]["covered"] == pytest.approx(np.array(inside)[here].mean())
    assert [entry["rows"] for entry in found.values()] == sorted((e["rows"] for e in found.values()), reverse=True)


def test_patterns_are_each_modality_and_what_rows_lack() -> None:
    presence = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert patterns_of(NAMES) == [("a",), ("b",), ("c",)]
    assert patterns_of(NAMES, presence) == [("a",), ("b",), ("c",), ("b", "c"), ("a", "b")]
    assert patterns_of(["a"], presence[:, :1]) == []
    assert rows_for(NAMES, presence, ("b", "c")).tolist() == [True, False, False, False, False]
    assert rows_for(NAMES, presence, ("a",)).tolist() == [True, False, False, False, False]


def test_a_model_that_needs_all_has_no_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts, y = values()
    whole = features_of({name: np.nan_to_num(part) for name, part in parts.items()}, y)
    model = build(whole, SPLIT, fusion="concat")
    model.standardise.fit([whole.gather(SPLIT.train)])
    monkeypatch.setattr(fusions.get("concat"), "absent", "refuse")
    assert scores_hidden(model, whole, SPLIT.test) == {"a": None, "b": None, "c": None}
