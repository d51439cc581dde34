"""Multilabel and regression metrics against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from weft.errors import UserError
from weft.tasks.base import create_task


@pytest.mark.parametrize("labels", [1, 5])
def test_multilabel_metrics(labels):
    rng = np.random.default_rng(labels)
    y = rng.integers(0, 2, (80, labels))
    z = rng.normal(size=(80, labels)) + y - 0.5
    task = create_task("multilabel", y)
    found = task.metrics(z, y)
    guess, p = (z > 0).astype(int), 1 / (1 + np.exp(-z))
    columns = range(labels)
    assert found["average_precision"] == pytest.approx(
        np.mean([sk.average_precision_score(y[:, k], z[:, k]) for k in columns])
    )
    assert found["average_precision_micro"] == pytest.approx(sk.average_precision_score(y.ravel(), p.ravel()))
    assert found["auc"] == pytest.approx(np.mean([sk.roc_auc_score(y[:, k], z[:, k]) for k in columns]))
    assert found["f1_macro"] == pytest.approx(np.mean([sk.f1_score(y[:, k], guess[:, k]) for k in columns]))
    assert found["f1_micro"] == pytest.approx(sk.f1_score(y.ravel(), guess.ravel()))
    rows = [sk.f1_score(y[i], guess[i], zero_division=1.0) for i in range(80)]
    np.testing.assert_allclose(create_task("multilabel", y, metric="f1_samples").scores(z, y), rows)
    assert found["f1_samples"] == pytest.approx(np.mean(rows))
    assert found["subset_accuracy"] == pytest.approx(np.mean([(y[i] == guess[i]).all() for i in range(80)]))
    assert found["hamming_loss"] == pytest.approx(np.mean(y != guess))
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert found["log_loss"] == pytest.approx(entropy.mean())
    np.testing.assert_allclose(task.loss(torch.from_numpy(z), task.encode(y)).numpy(), entropy.mean(axis=1))


def test_labels_without_positives_are_left_out_of_the_means():
    task = create_task("multilabel", np.array([[0, 1], [1, 0]]))
    y = np.array([[0, 0], [0, 1], [0, 0]])
    z = np.array([[3.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    assert task.metrics(z, y)["average_precision"] == pytest.approx(0.5)
    assert np.isnan(task.metrics(z, np.zeros((3, 2)))["average_precision"])


def test_multilabel_mistakes_are_named():
    with pytest.raises(UserError, match="rows 1, such as 0, 3"):
        create_task("multilabel", np.array([[0, 1], [0, 3]]))
    with pytest.raises(UserError, match="labels 1 are in none or all of 2 rows"):
        create_task("multilabel", np.array([[0, 1], [1, 1]]))
    with pytest.raises(UserError, match="task 'classification'"):
        create_task("multilabel", np.array([0, 1]))
    with pytest.raises(UserError, match="fitted on 2 labels"):
        create_task("multilabel", np.array([[0, 1], [1, 0]])).encode(np.array([[1], [0]]))


def test_regression_metrics_are_in_the_units_of_the_table():
    rng = np.random.default_rng(0)
    train, y = (rng.normal(size=(n, 3)) * [1, 10, 100] + [0, 5, -50] for n in (60, 40))
    task = create_task("regression", train)
    z = rng.normal(size=(40, 3))
    guess = z * train.std(axis=0) + train.mean(axis=0)
    np.testing.assert_allclose(task.decide(z)["prediction"], guess)
    np.testing.assert_allclose(task.encode(train).mean(dim=0).numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(task.encode(train).std(dim=0, correction=0).numpy(), 1, rtol=1e-5)
    found = task.metrics(z, y)
    for name, metric in {
        "mse": sk.mean_squared_error,
        "rmse": sk.root_mean_squared_error,
        "mae": sk.mean_absolute_error,
        "r2": sk.r2_score,
    }.items():
        each = [metric(y[:, k], guess[:, k]) for k in range(3)]
        assert found[name] == pytest.approx(np.mean(each))
        assert [found[f"{name}[{k}]"] for k in range(3)] == pytest.approx(each)
    squared = task.loss(torch.from_numpy(z), task.encode(y).double()).numpy()
    np.testing.assert_allclose(task.scores(z, y), -squared, rtol=1e-5)
    assert found["nrmse"] == pytest.approx(np.sqrt(squared.mean()), rel=1e-5)
    constant = np.zeros((60, 3))
    assert task.metrics(constant, train)["nrmse"] == pytest.approx(1)


def test_one_target_is_flat():
    y = np.array([1, 2, 4])
    task = create_task("regression", y)
    assert task.outputs == 1
    assert task.encode(y).shape == (3, 1)
    np.testing.assert_allclose(task.decide(task.encode(y).numpy())["prediction"], y, rtol=1e-6)
    assert set(task.metrics(np.zeros((3, 1)), y)) == {"nrmse", "mse", "rmse", "mae", "medae", "r2", "spearman"}
    assert np.isnan(task.metrics(np.zeros((1, 1)), y[:1])["r2"])


def test_regression_mistakes_are_named():
    with pytest.raises(UserError, match="target 1 is always 7"):
        create_task("regression", np.array([[1, 7], [2, 7]]))
    with pytest.raises(UserError, match="holds numbers"):
        create_task("regression", np.array(["a", "b"]))
    with pytest.raises(UserError, match="infinite in rows 1"):
        create_task("regression", np.array([1.0, np.inf]))
    with pytest.raises(UserError, match="fitted on 1 targets"):
        create_task("regression", np.arange(3)).encode(np.zeros((2, 2)))
