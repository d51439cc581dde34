"""Shapley values of rows by hand and by their laws; perceptual scores of what matters and what does not."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from weft.errors import UserError
from weft.models import FusedModel
from weft.models.explain import Rearranged, perceptual_scores, row_shapley
from weft.models.predictor import Predictor
from weft.store import MemoryFeatures
from weft.tasks.base import create_task


class Sum(Predictor):
    """Adds what is there, in the units of a standardised target; ``pairs`` adds the product of a and b."""

    def __init__(self, task, names, pairs=0.0):  # type: ignore[no-untyped-def]
        self.task, self.names, self.pairs, self.target = task, tuple(names), pairs, None

    def outputs(self, features, rows=None, *, batch_size=512):  # type: ignore[no-untyped-def]
        rows = np.arange(len(features)) if rows is None else rows
        parts = {name: np.nan_to_num(v[:, 0]) for name, v in features.pooled(rows).items()}
        return (sum(parts.values()) + self.pairs * parts["a"] * parts["b"])[:, None].astype(np.float32)

    def config(self):  # type: ignore[no-untyped-def]
        return {}


def made(task: str = "regression", rows: int = 80) -> MemoryFeatures:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(rows, 1)).astype(np.float32) for name in "abc"}
    total = values["a"][:, 0] + 2 * values["b"][:, 0]
    values["c"][::4] = np.nan
    target = total.astype(float) if task == "regression" else (total > 0).astype(int)
    return MemoryFeatures([str(i) for i in range(rows)], values, {"y": target}, task=task)


def test_an_additive_model_gives_every_modality_its_term() -> None:
    features = made()
    task = create_task("regression", np.array([-1.0, 1.0]))  # mean 0, scale 1
    rows = np.arange(10, 60)
    found = row_shapley(Sum(task, "abc"), features, rows)
    terms = np.stack([np.nan_to_num(features.pooled(rows)[name][:, 0]) for name in "abc"], axis=1)
    np.testing.assert_allclose(found, terms, atol=1e-5)


def test_a_product_is_shared_and_orders_agree() -> None:
    """Against the mean over all orders of joining, by hand."""
    features = made()
    model = Sum(create_task("regression", np.array([-1.0, 1.0])), "abc", pairs=3.0)
    rows = np.arange(20)
    a, b, c = (np.nan_to_num(features.pooled(rows)[name][:, 0]) for name in "abc")

    def value(part: frozenset[str]) -> np.ndarray:
        there = {name: v * (name in part) for name, v in zip("abc", (a, b, c), strict=True)}
        return there["a"] + there["b"] + there["c"] + 3 * there["a"] * there["b"]

    expected = np.zeros((20, 3))
    for order in permutations("abc"):
        for place, name in enumerate(order):
            gain = value(frozenset(order[: place + 1])) - value(frozenset(order[:place]))
            expected[:, "abc".index(name)] += gain / 6
    np.testing.assert_allclose(row_shapley(model, features, rows), expected, atol=1e-5)


def test_a_network_on_classes_sums_to_the_whole_and_absent_ones_have_nothing() -> None:
    features = made("classification")
    task = create_task("classification", features.targets["y"])
    model = FusedModel.build(dims=features.dims, task=task, fusion="gated", dim=8, seed=3)
    model.standardise(features.gather(np.arange(80)))
    rows = np.arange(40)
    found = row_shapley(model, features, rows)
    p = task.decide(model.outputs(features, rows))["probability"]
    best = p.argmax(axis=1)
    whole = np.log(p[np.arange(40), best]) - np.log(np.array(task.prior)[best])
    np.testing.assert_allclose(found.sum(axis=1), whole, atol=1e-4)
    np.testing.assert_allclose(found[::4, 2], 0, atol=1e-5)
    assert np.abs(found[1::4, 2]).max() > 1e-4


def test_perceptual_scores() -> None:
    features = made("regression", 300)
    task = create_task("regression", features.targets["y"])

    class Right(Sum):
        def outputs(self, features, rows=None, *, batch_size=512):  # type: ignore[no-untyped-def]
            pooled = features.pooled(rows)
            total = pooled["a"][:, 0] + 2 * pooled["b"][:, 0] + 0.1
            return ((total - task.mean[0]) / task.scale[0])[:, None]

    found = perceptual_scores(Right(task, "abc"), features, np.arange(100, 300))
    assert found["c"] == 0
    assert found["b"] > 1.5 * found["a"] > 0


def test_too_many_modalities() -> None:
    values = {f"m{k}": np.ones((60, 1), np.float32) for k in range(7)}
    features = MemoryFeatures([str(i) for i in range(60)], values, {"y": np.arange(60.0)})
    with pytest.raises(UserError, match="at most 6 modalities"):
        row_shapley(Sum(create_task("regression", np.arange(4.0)), values), features, np.arange(3))


def test_rearranged_features_are_those_of_other_rows() -> None:
    features, order = made(), np.random.default_rng(1).permutation(80)
    source = {"a": order, "b": np.arange(80), "c": np.full(80, -1)}
    moved, rows = Rearranged(features, source), np.arange(5, 25)
    np.testing.assert_array_equal(moved.pooled(rows)["a"], features.pooled(order[rows])["a"])
    np.testing.assert_array_equal(moved.gather(rows)["b"].values, features.gather(rows)["b"].values)
    assert not moved.gather(rows)["c"].mask.any()
    assert not moved.presence[:, 2].any()
    assert moved.subset(["c", "a"]).presence[:, 1].all()
