"""Classical models and ensembles: against scikit-learn, through their folders, and on what is absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from tests.models.trees import boost
from weft.errors import UserError
from weft.models import FusedModel, boosted, load_model
from weft.models.boosted import ArrayTrees, BoostedModel, LightGBMTrees
from weft.models.ensemble import EnsembleModel, answers
from weft.models.linear import ChanceModel, LinearModel, chance, linear_path
from weft.models.pooled import PooledInputs
from weft.store import MemoryFeatures
from weft.tasks.base import Task, create_task

ROWS, TRAIN = np.arange(160), np.arange(120)
TASKS = ("classification", "binary", "multilabel", "regression", "values")


def data(kind: str, gone: bool = False) -> tuple[MemoryFeatures, np.ndarray, Task]:
    """Two modalities, ``a`` absent in every fourth row if ``gone``."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(160, 6)).astype(np.float32), (3 * rng.normal(size=(160, 4)) + 2).astype(np.float32)
    value = a[:, 0] + b[:, 1] + rng.normal(size=160) / 2
    target = {
        "classification": np.digitize(value, [1, 3]),
        "binary": np.where(value > 2, "yes", "no"),
        "multilabel": np.stack([value > 2, a[:, 1] > 0.2], axis=1).astype(int),
        "regression": value,
        "values": np.stack([value, a[:, 1]], axis=1),
    }[kind]
    if gone:
        a[::4] = np.nan
    name = {"binary": "classification", "values": "regression"}.get(kind, kind)
    features = MemoryFeatures([f"r{i}" for i in range(160)], {"a": a, "b": b}, {"y": target}, task=name)
    return features, target, create_task(name, target[TRAIN])


def linear(kind: str, gone: bool = False, **settings: Any) -> tuple[LinearModel, MemoryFeatures]:
    features, target, task = data(kind, gone)
    inputs = PooledInputs.fit(features, TRAIN, **settings)
    _, weight, bias = next(linear_path(task, inputs.matrix(features, TRAIN), target[TRAIN], [1.0]))
    return LinearModel(task, inputs, target="y").set(weight, bias), features


@pytest.mark.parametrize("kind", TASKS)
def test_linear_equals_scikit_learn(kind: str) -> None:
    model, features = linear(kind)
    _, target, task = data(kind)
    x = np.concatenate(list(features.pooled(ROWS).values()), axis=1).astype(np.float64)
    x = StandardScaler().fit(x[TRAIN]).transform(x)
    y = task.encode(target).numpy()
    found = model.outputs(features)
    if kind in ("classification", "binary"):
        slow = LogisticRegression(max_iter=1000).fit(x[TRAIN], y[TRAIN]).predict_log_proba(x)
        np.testing.assert_allclose(log_softmax(found, axis=1), slow, atol=2e-3)
    elif kind == "multilabel":
        for k in range(2):
            slow = LogisticRegression(max_iter=1000).fit(x[TRAIN], y[TRAIN, k]).decision_function(x)
            np.testing.assert_allclose(found[:, k], slow, atol=2e-3)
    else:
        slow = Ridge(alpha=1.0).fit(x[TRAIN], y[TRAIN]).predict(x)
        np.testing.assert_allclose(found, slow.reshape(160, -1), atol=1e-4)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "scikit-learn"])
def test_boosting_comes_back_from_its_folder(kind: str, library: str, tmp_path: Path) -> None:
    features, target, task = data(kind, gone=True)
    inputs = PooledInputs.fit(features, TRAIN, "none", nan=True)
    x, dev = inputs.matrix(features, TRAIN), np.arange(120, 160)
    held = (inputs.matrix(features, dev), target[dev])
    trees, rounds = boost(task, (x, target[TRAIN]), held, library=library, leaves=5, rounds=30)
    model = BoostedModel(task, inputs, trees, target="y")
    assert 1 <= rounds <= 30
    skill = task.metrics(model.outputs(features, dev), target[dev])[task.primary]
    blind = task.metrics(np.tile(chance(task, target[TRAIN]), (40, 1)), target[dev])[task.primary]
    assert (skill > blind) == task.higher_is_better
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    np.testing.assert_array_equal(again.outputs(features), model.outputs(features))
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pkl", ".joblib", ".pickle")]
    batch = features.gather(ROWS)
    np.testing.assert_allclose(model(batch).numpy(), model.outputs(features), atol=1e-6)


def test_columns_binned_in_parts_give_the_same_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    features, target, task = data("classification", gone=True)
    x = PooledInputs.fit(features, TRAIN, "none", nan=True).matrix(features, ROWS)
    dev = np.arange(120, 160)
    whole = boost(task, (x[TRAIN], target[TRAIN]), (x[dev], target[dev]), columns=0.6, rounds=20)
    monkeypatch.setattr(boosted, "SAMPLE_BYTES", 2 * 16 * len(TRAIN))
    sizes: list[int] = []
    add = lightgbm.Dataset.add_features_from
    monkeypatch.setattr(
        lightgbm.Dataset, "add_features_from", lambda a, b: [sizes.append(b.num_feature()), add(a, b)][1]
    )
    parts = boost(task, (x[TRAIN], target[TRAIN]), (x[dev], target[dev]), columns=0.6, rounds=20)
    assert isinstance(whole[0], LightGBMTrees)
    assert isinstance(parts[0], LightGBMTrees)
    assert 2 + sum(sizes) == x.shape[1]
    assert parts[0].texts == whole[0].texts


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
def test_arrays_of_trees_equal_scikit_learn(kind: str) -> None:
    """Our evaluation of its trees is its own, missing values included."""
    features, target, task = data(kind, gone=True)
    inputs = PooledInputs.fit(features, TRAIN, "none", nan=True)
    x, y = inputs.matrix(features, ROWS), task.encode(target).numpy()
    y = y[:, 0] if y.ndim > 1 else y
    trees, _ = boost(task, (x[TRAIN], target[TRAIN]), None, library="scikit-learn", rounds=20, leaves=7)
    assert isinstance(trees, ArrayTrees)
    cls = HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier
    slow = cls(max_leaf_nodes=7, max_iter=20, min_samples_leaf=4, early_stopping=False, random_state=0)
    slow.fit(x[TRAIN], y[TRAIN])
    expected = slow.predict(x) if kind == "regression" else slow.decision_function(x)
    np.testing.assert_allclose(trees.raw(x), expected.reshape(160, -1), atol=1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_linear_and_chance_come_back_from_their_folders(kind: str, tmp_path: Path) -> None:
    model, features = linear(kind, gone=True, components=3)
    _, target, task = data(kind)
    blind = ChanceModel(task, features.dims, target="y").fit(target[TRAIN])
    for name, each in (("linear", model), ("chance", blind)):
        each.save_pretrained(tmp_path / name)
        again = load_model(tmp_path / name)
        np.testing.assert_array_equal(again.outputs(features), each.outputs(features))
        np.testing.assert_allclose(again(features.gather(ROWS)).numpy(), each.outputs(features), atol=1e-5)
        figures = [m.evaluate(features, np.arange(120, 160)) for m in (again, each)]
        np.testing.assert_equal(*figures)
    prediction = blind.predict(features)["prediction"]
    assert len(np.unique(prediction, axis=0)) == 1


def test_absence_itself_can_predict() -> None:
    """The target is whether ``a`` is there; nothing else says so."""
    features, _, _ = data("binary", gone=True)
    y = features.presence[:, 0].astype(int)
    task = create_task("classification", y)
    noise = {
        "a": np.where(np.isnan(features.pooled(ROWS)["a"]), np.nan, 1.0).astype(np.float32),
        "b": np.ones((160, 1)),
    }
    blank = MemoryFeatures(features.ids, noise, {"y": y})
    inputs = PooledInputs.fit(blank, TRAIN)
    _, weight, bias = next(linear_path(task, inputs.matrix(blank, TRAIN), y[TRAIN], [1.0]))
    assert task.metrics(LinearModel(task, inputs).set(weight, bias).outputs(blank), y)["accuracy"] == 1.0


def test_components_are_a_rotation_and_know_the_training_rows_alone() -> None:
    """All components: the same model; other rows elsewhere: the same axes; rows that span less: fewer axes."""
    features, target, _ = data("classification")
    turned = PooledInputs.fit(features, TRAIN, "block", 4)
    assert turned.kept == {"a": 4}
    x = turned.matrix(features, TRAIN)
    np.testing.assert_allclose(np.cov(x[:, :4].T), np.diag(np.var(x[:, :4], axis=0, ddof=1)), atol=1e-5)
    values = features.pooled(ROWS)
    values["a"][120:] *= 100
    other = MemoryFeatures(features.ids, values, {"y": target})
    np.testing.assert_array_equal(
        PooledInputs.fit(other, TRAIN, "block", 4).matrix(features, ROWS), turned.matrix(features, ROWS)
    )
    flat = np.outer(np.arange(160.0), np.arange(1, 7)).astype(np.float32) + 14.63
    thin = MemoryFeatures(features.ids, {"a": flat, "b": np.full((160, 4), 14.62, np.float32)}, {"y": target})
    assert PooledInputs.fit(thin, TRAIN, "columns", 3).kept == {"a": 1, "b": 1}
    assert np.abs(PooledInputs.fit(thin, TRAIN).matrix(thin, ROWS)).max() < 10
    assert PooledInputs.fit(features, TRAIN, "columns", 6).kept == {}


@pytest.mark.parametrize("kind", TASKS)
def test_an_ensemble_averages_what_its_members_say(kind: str, tmp_path: Path) -> None:
    """Probabilities or values by hand; a member without anything to look at says what chance says; its folder."""
    model, features = linear(kind, gone=True)
    _, target, task = data(kind)
    net = FusedModel.build(dims={"a": 6}, task=task, fusion="concat", dim=8, target="y")
    blind = chance(task, target[TRAIN])
    ensemble = EnsembleModel(task, features.dims, [model, net], [0.25, 0.75], blind, target="y")
    parts = [torch.from_numpy(answers(m, features, ROWS, blind)) for m in (model, net)]
    np.testing.assert_array_equal(parts[1][::4].numpy(), np.tile(blind, (40, 1)))
    if task.probabilistic:
        p = 0.25 * task.log_probabilities(parts[0]).exp() + 0.75 * task.log_probabilities(parts[1]).exp()
        found = task.log_probabilities(torch.from_numpy(ensemble.outputs(features))).exp()
        torch.testing.assert_close(found, p, atol=1e-5, rtol=1e-4)
    else:
        np.testing.assert_allclose(ensemble.outputs(features), 0.25 * parts[0] + 0.75 * parts[1], atol=1e-5)
    ensemble.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    np.testing.assert_array_equal(again.outputs(features), ensemble.outputs(features))
    np.testing.assert_allclose(again(features.gather(ROWS)).detach().numpy(), ensemble.outputs(features), atol=1e-5)


def test_rows_that_hold_nothing_and_missing_files_are_refused(tmp_path: Path) -> None:
    model, features = linear("binary", gone=True)
    inputs = PooledInputs.fit(features.subset(["a"]), TRAIN)
    alone = LinearModel(model.task, inputs)
    with pytest.raises(UserError, match="every modality is absent"):
        alone.outputs(features, np.array([0, 1]))
    with pytest.raises(UserError, match="lightgbm or scikit-learn"):
        boost(model.task, (np.ones((2, 1)), np.array(["no", "yes"])), None, library="xgboost")
