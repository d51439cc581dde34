"""Classification metrics by hand and by scikit-learn, labels of every kind, calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from weft.errors import UserError
from weft.tasks.base import Task, create_task
from weft.tasks.calibration import expected_calibration_error, fit_temperature, reliability_curve


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_equal_scikit_learn_and_loops(classes):
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, 90)
    z = rng.normal(size=(90, classes)) + 1.2 * np.eye(classes)[y]
    task = create_task("classification", y)
    found = task.metrics(z, y)
    p, guess = softmax(z), z.argmax(axis=1)
    area = sk.roc_auc_score(y, p[:, 1]) if classes == 2 else sk.roc_auc_score(y, p, multi_class="ovr")
    assert found["accuracy"] == pytest.approx(np.mean(guess == y))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, guess))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    assert found["f1_micro"] == pytest.approx(found["accuracy"])
    assert found["auc"] == pytest.approx(area)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p))
    assert found["brier"] == pytest.approx(np.mean([((p[i] - np.eye(classes)[y[i]]) ** 2).sum() for i in range(90)]))
    ece = 0.0
    for b in range(15):
        rows = [i for i in range(90) if b / 15 < p[i].max() <= (b + 1) / 15]
        if rows:
            ece += len(rows) / 90 * abs(np.mean([guess[i] == y[i] for i in rows]) - np.mean([p[i].max() for i in rows]))
    assert found["ece"] == pytest.approx(ece)
    np.testing.assert_array_equal(task.scores(z, y), guess == y)
    np.testing.assert_allclose(task.decide(z)["probability"], p)
    np.testing.assert_allclose(
        task.loss(torch.from_numpy(z), task.encode(y)).numpy(), -np.log(p[np.arange(90), y]), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (np.array(["b", "a", "b"]), ["a", "b"]),
        (np.array(["b", "a", "b"], dtype=object), ["a", "b"]),
        (np.array([7, -1, 7], dtype=np.int32), [-1, 7]),
        (np.array([1.0, 3.0, 1.0]), [1, 3]),
        (np.array([True, False, True]), [False, True]),
        (np.array([10, 9, 9], dtype=object), [9, 10]),
    ],
)
def test_labels_of_every_kind_come_back(target, classes):
    task = create_task("classification", target)
    assert task.config()["classes"] == classes
    again = Task.from_config(json.loads(json.dumps(task.config())))
    outputs = torch.nn.functional.one_hot(again.encode(target), 2).numpy()
    np.testing.assert_array_equal(again.decide(outputs)["prediction"], target)
    assert task.config()["prior"] == pytest.approx([np.mean(target == c) for c in classes])


def test_mistakes_are_named():
    task = create_task("classification", np.array(["a", "b", "c"]))
    with pytest.raises(UserError, match="classes 'x', 'y' in rows 1, 3, 4") as error:
        task.encode(np.array(["a", "x", "b", "y", "x"]))
    assert "'a', 'b', 'c'" in str(error.value)
    with pytest.raises(UserError, match="at least two classes"):
        create_task("classification", np.array(["a", "a"]))
    with pytest.raises(UserError, match=r"0.5 in rows 1"):
        create_task("classification", np.array([1.0, 0.5]))
    with pytest.raises(UserError, match="mixes strings and numbers"):
        create_task("classification", np.array(["a", 1], dtype=object))
    with pytest.raises(UserError, match="one label per row"):
        create_task("classification", np.zeros((3, 2)))


def test_rows_without_some_classes_still_have_metrics():
    task = create_task("classification", np.array([0, 1, 2, 2]))
    rng = np.random.default_rng(0)
    y = np.array([0, 1, 0, 1, 1])
    z = rng.normal(size=(5, 3))
    found = task.metrics(z, y)
    p = softmax(z)
    expected = np.mean([sk.roc_auc_score(y == k, p[:, k]) for k in (0, 1)])
    assert found["auc"] == pytest.approx(expected)
    assert np.isnan(task.metrics(z, np.zeros(5, dtype=int))["auc"])
    assert found["balanced_accuracy"] == pytest.approx(np.mean([(z.argmax(1) == k)[y == k].mean() for k in (0, 1)]))


def test_reliability_curve_covers_every_row_once():
    confidence = np.array([0.0, 1 / 15, 0.5, 0.5, 1.0])
    right = np.array([0, 1, 1, 0, 1])
    curve = reliability_curve(confidence, right)
    assert curve.rows.tolist() == [2, 2, 1]
    assert curve.accuracy.tolist() == [0.5, 0.5, 1.0]
    assert expected_calibration_error(np.array([0.8] * 10), np.arange(10) < 8) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(20000, 4))
    y = np.array([rng.choice(4, p=p) for p in softmax(z)])
    found = fit_temperature(temperature * z, y)
    assert found == pytest.approx(temperature, rel=0.05)

    def log_loss(t: float) -> float:
        return sk.log_loss(y, softmax(temperature * z / t))

    assert log_loss(found) <= min(log_loss(found * 1.01), log_loss(found * 0.99))


def test_a_temperature_needs_mistakes():
    with pytest.raises(UserError, match="all 3 rows are right"):
        fit_temperature(np.eye(3), np.arange(3))
