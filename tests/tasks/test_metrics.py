"""Every metric against scikit-learn, or against a slow loop where it has none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from weft.errors import UserError
from weft.tasks.base import create_task
from weft.tasks.metrics import average_precision, binary_auc, concordance, mean_ranks


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_of_classes_equal_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, 150)
    y[:classes] = np.arange(classes)
    z = rng.normal(size=(150, classes)) + 1.2 * np.eye(classes)[y]
    task = create_task("classification", y)
    found, guess = task.metrics(z, y), z.argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, guess))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(y, guess))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(y, guess))


def test_metrics_of_ordered_classes_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    task = create_task("ordinal", y)
    outputs = rng.normal(size=(200, 3)) + (y[:, None] > np.arange(3)) - 0.5
    found, decided = task.metrics(outputs, y), task.decide(outputs)
    guess, p = decided["prediction"], decided["probability"]
    assert found["kappa_quadratic"] == pytest.approx(sk.cohen_kappa_score(y, guess, weights="quadratic"))
    assert found["kappa_linear"] == pytest.approx(sk.cohen_kappa_score(y, guess, weights="linear"))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, guess))
    assert found["spearman"] == pytest.approx(stats.spearmanr(y, p @ np.arange(4)).statistic)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p))


def test_areas_equal_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(1)
    y, score = rng.random(300) < 0.3, rng.integers(0, 9, 300).astype(float)
    assert binary_auc(y, score) == pytest.approx(sk.roc_auc_score(y, score))
    assert average_precision(y, score) == pytest.approx(sk.average_precision_score(y, score))
    assert np.isnan(binary_auc(np.ones(3, bool), np.arange(3.0)))


def test_metrics_of_values_equal_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    y, z = rng.normal(3, 5, (80, 2)), rng.normal(size=(80, 2))
    task = create_task("regression", y, labels=["height", "weight"])
    found, guess = task.metrics(z, y), task.decide(z)["prediction"]
    assert found["medae"] == pytest.approx(sk.median_absolute_error(y, guess))
    assert found["r2"] == pytest.approx(sk.r2_score(y, guess))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(y[:, k], guess[:, k])[0] for k in (0, 1)]))
    assert found["rmse[weight]"] == pytest.approx(sk.root_mean_squared_error(y[:, 1], guess[:, 1]))


def test_concordance_by_hand() -> None:
    """Pairs one by one: (1, event) and (1, censored) compare, (2, censored) is earlier than nothing."""
    rng = np.random.default_rng(3)
    truth = np.stack([rng.integers(1, 12, 70), rng.integers(0, 2, 70)], axis=1).astype(float)
    risk = rng.integers(0, 6, 70).astype(float)
    agree, pairs = 0.0, 0
    for i in range(70):
        for j in range(70):
            earlier = truth[i, 0] < truth[j, 0] or (truth[i, 0] == truth[j, 0] and truth[i, 1] > truth[j, 1])
            if truth[i, 1] == 1 and earlier:
                pairs += 1
                agree += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    assert concordance(truth, risk) == pytest.approx(agree / pairs)
    assert np.isnan(concordance(np.array([[1.0, 0.0], [2.0, 0.0]]), np.zeros(2)))


def test_the_metric_suits_the_target() -> None:
    rare = np.array(["no"] * 82 + ["yes"] * 18)
    task = create_task("classification", rare)
    assert task.primary == "auc"
    assert "'no' would be right in 82 %" in task.reason
    assert create_task("classification", rare, metric="accuracy").primary == "accuracy"
    assert create_task("classification", np.arange(40) % 2).primary == "accuracy"
    assert create_task("ordinal", np.arange(40) % 3).primary == "kappa_quadratic"
    with pytest.raises(UserError, match="did you mean 'balanced_accuracy'"):
        create_task("classification", rare, metric="balanced_acuracy")
    with pytest.raises(UserError, match="'regression' takes no class weights"):
        create_task("regression", np.arange(40.0), class_weights="balanced")


def test_ranks_with_ties_and_missing_values() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=50), rng.integers(0, 5, 50).astype(float), np.array([1.0, np.nan, 0.0])):
        np.testing.assert_array_equal(mean_ranks(values), stats.rankdata(values))
