"""Ordinal and survival tasks against loops from their formulas, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from weft.errors import UserError
from weft.tasks.base import Task, create_task


def test_ordinal_likelihood_is_a_chain_of_questions() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 4
    z = rng.normal(size=(60, 3))
    task = create_task("ordinal", y)
    p = task.decide(z)["probability"]
    for row in range(60):
        stay = 1.0
        for k in range(4):
            here = 1.0 if k == 3 else 1 / (1 + math.exp(z[row, k]))
            assert p[row, k] == pytest.approx(stay * here)
            stay *= 1 - here
    loss = task.loss(torch.from_numpy(z), task.encode(y)).numpy()
    np.testing.assert_allclose(loss, -np.log(p[np.arange(60), y]))
    back = task.from_log_probabilities(torch.from_numpy(np.log(p)).unsqueeze(-2))
    np.testing.assert_allclose(back.numpy(), z, atol=1e-9)


def test_ordinal_decides_the_median() -> None:
    task = create_task("ordinal", np.array(["low", "mid", "high"] * 4), labels=["low", "mid", "high"])
    p = np.array([[0.45, 0.15, 0.4], [0.6, 0.0, 0.4], [0.1, 0.2, 0.7]]) + 1e-9
    assert task.decide(task.from_estimator(p))["prediction"].tolist() == ["mid", "low", "high"]


def test_words_need_their_order() -> None:
    with pytest.raises(UserError, match="need their order"):
        create_task("ordinal", np.array(["low", "high", "mid"]))
    with pytest.raises(UserError, match="list every class"):
        create_task("ordinal", np.array(["low", "high", "mid"]), labels=["low", "high"])
    task = create_task("ordinal", np.array([3, 1, 2]))
    assert task.labels == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["classification", "ordinal"])
def test_class_weights_make_classes_count_alike(name: str) -> None:
    y = np.array([0] * 80 + [1] * 15 + [2] * 5)
    plain, fair = create_task(name, y), create_task(name, y, class_weights="balanced")
    z = torch.zeros(100, plain.outputs, dtype=torch.float64)
    code = plain.encode(y)
    ratio = (fair.loss(z, code) / plain.loss(z, code)).numpy()
    assert ratio.mean() == pytest.approx(1)
    assert [ratio[y == k].sum() for k in range(3)] == pytest.approx([100 / 3] * 3)
    np.testing.assert_allclose(fair.row_weights(y), ratio)
    assert plain.row_weights(y) is None
    assert Task.from_config(fair.config()).config() == fair.config()


def test_class_weights_of_labels() -> None:
    y = np.array([[1, 0]] * 10 + [[0, 1]] * 30)
    fair = create_task("multilabel", y, class_weights="balanced", labels=["rare", "often"])
    weights = fair.row_weights(y)
    assert weights[y[:, 0] == 1, 0].sum() == pytest.approx(weights[y[:, 0] == 0, 0].sum())
    z = torch.zeros(40, 2, dtype=torch.float64)
    np.testing.assert_allclose(fair.loss(z, fair.encode(y)).numpy(), weights.mean(axis=1) * math.log(2), rtol=1e-6)


def cox_by_loops(risk: np.ndarray, target: np.ndarray) -> list[float]:
    found = []
    for i, (time, event) in enumerate(target):
        at_risk = [math.exp(risk[j]) for j in range(len(target)) if target[j, 0] >= time]
        found.append(math.log(sum(at_risk)) - risk[i] if event else 0.0)
    return found


def test_cox_loss_equals_loops_with_ties() -> None:
    rng = np.random.default_rng(1)
    target = np.stack([rng.integers(1, 9, 50), rng.integers(0, 2, 50)], axis=1).astype(float)
    task = create_task("survival", target)
    z = torch.from_numpy(rng.normal(size=(50, 1))).requires_grad_()
    np.testing.assert_allclose(
        task.loss(z, task.encode(target)).detach().numpy(), cox_by_loops(z.detach().numpy()[:, 0], target), rtol=1e-6
    )
    assert torch.autograd.gradcheck(lambda o: task.loss(o, task.encode(target).double()), (z,))


def test_cox_finds_the_coefficient() -> None:
    """Exponential times with hazard exp(1.5 x), a third of them censored: the maximum is close to 1.5."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=1500)
    time, lost = rng.exponential(np.exp(-1.5 * x)), rng.exponential(1.5, 1500)
    target = np.stack([np.minimum(time, lost) + 1e-6, time <= lost], axis=1)
    task = create_task("survival", target)
    beta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    encoded, column = task.encode(target).double(), torch.from_numpy(x)[:, None]
    optimiser = torch.optim.LBFGS([beta], max_iter=30)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = task.loss(column * beta, encoded).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert beta.item() == pytest.approx(1.5, abs=0.12)
    slope = np.polyfit(x, task.response(target)[:, 0], 1)[0]
    assert slope > 0.3
    assert task.metrics(x[:, None], target)["concordance"] > 0.75


def test_nelson_aalen_by_hand() -> None:
    """Times 1, 2, 2, 3 with events 1, 1, 0, 1: hazards 1/4, 1/3, 1/1."""
    task = create_task("survival", np.array([[1.0, 1], [2, 1], [2, 0], [3, 1]]))
    assert task.times == [1, 2, 3]
    assert task.hazard == pytest.approx([1 / 4, 1 / 4 + 1 / 3, 1 / 4 + 1 / 3 + 1])
    residual = task.response(np.array([[0.5, 0], [2, 1], [9, 0]]))[:, 0]
    assert residual == pytest.approx([0, 1 - 7 / 12, -19 / 12])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.arange(4.0), "time, and 1 for an event"),
        (np.array([[1.0, 2], [2, 1]]), "above zero"),
        (np.array([[0.0, 1], [2, 1]]), "above zero"),
        (np.array([[1.0, 0], [2, 0]]), "has events"),
    ],
)
def test_survival_refuses(target: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        create_task("survival", target)


def test_ordinal_helps_a_linear_model_on_few_rows() -> None:
    """Classical probabilities pass through the ordinal outputs unchanged, up to their own rounding."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 3))
    y = np.digitize(x[:, 0] + 0.3 * rng.normal(size=200), [-0.5, 0.5])
    task = create_task("ordinal", y)
    p = LogisticRegression().fit(x, y).predict_proba(x)
    np.testing.assert_allclose(task.decide(task.from_estimator(p))["probability"], p, atol=1e-5)
