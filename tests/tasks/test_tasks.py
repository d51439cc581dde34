"""What holds for every task, and what a task refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from weft.errors import UserError
from weft.tasks.base import Task, create_task, guess_task, tasks

RNG = np.random.default_rng(0)
TARGETS = {
    "classification": np.array(["cat", "dog", "owl"])[RNG.integers(0, 3, 120)],
    "multilabel": RNG.integers(0, 2, (120, 4)),
    "regression": RNG.normal(size=(120, 2)) * [1, 50] + [3, 900],
    "ordinal": RNG.integers(1, 5, 120),
    "survival": np.stack([RNG.integers(1, 40, 120), RNG.integers(0, 2, 120)], axis=1).astype(float),
}


def outputs_for(task: Task, target: np.ndarray, noise: float = 0.5, seed: int = 1) -> np.ndarray:
    """Outputs that are right but for noise: of scores -1 and 1, of values, of the time left."""
    encoded = task.encode(target)
    if not task.probabilistic:
        values = encoded.double().numpy() if task.outputs == encoded.shape[1] else -encoded[:, :1].double().numpy() / 10
        return values + noise * np.random.default_rng(seed).normal(size=values.shape)
    hot = torch.nn.functional.one_hot(encoded, len(task.labels)) if encoded.ndim == 1 else encoded
    centre = 2.0 * hot.double().numpy() - 1
    noisy = torch.from_numpy(centre + noise * np.random.default_rng(seed).normal(size=centre.shape))
    if encoded.ndim == 2:
        return noisy.numpy()
    return task.from_log_probabilities(torch.log_softmax(2 * noisy, dim=-1).unsqueeze(-2)).numpy()


def test_the_registry_is_covered():
    assert {name for name in tasks.names() if issubclass(tasks.get(name), Task)} == set(TARGETS)


@pytest.mark.parametrize("name", sorted(TARGETS))
class TestEveryTask:
    def test_config_is_json_and_rebuilds_it(self, name):
        target = TARGETS[name]
        task = create_task(name, target)
        again = Task.from_config(json.loads(json.dumps(task.config())))
        outputs = outputs_for(task, target)
        assert type(again) is type(task)
        assert again.config() == task.config()
        assert again.metrics(outputs, target) == task.metrics(outputs, target)
        torch.testing.assert_close(again.encode(target), task.encode(target), rtol=0, atol=0)
        for key, value in task.decide(outputs).items():
            np.testing.assert_array_equal(again.decide(outputs)[key], value)

    def test_loss_is_per_row_and_learns(self, name):
        task = create_task(name, TARGETS[name])
        encoded = task.encode(TARGETS[name])
        outputs = torch.zeros(len(encoded), task.outputs, requires_grad=True)
        before = task.loss(outputs, encoded)
        assert before.shape == (len(encoded),)
        before.sum().backward()
        after = task.loss(outputs.detach() - 0.1 * outputs.grad, encoded)
        assert after.mean() < before.mean()
        if name != "survival":  # there, rows compete: what helps one may cost another
            assert (after < before).all()
        assert outputs.grad[3].abs().sum() > 0

    def test_more_noise_is_worse_by_primary_and_by_scores(self, name):
        target = TARGETS[name]
        task = create_task(name, target)
        sign = 1 if task.higher_is_better else -1
        good, bad = (outputs_for(task, target, noise) for noise in (0.3, 3.0))
        assert sign * task.metrics(good, target)[task.primary] > sign * task.metrics(bad, target)[task.primary]
        assert task.quality(good, target) == sign * task.metrics(good, target)[task.primary]
        for metric in task.judges:
            judge = create_task(name, target, metric=metric)
            assert judge.reason
            if judge.metric.rows is None:
                with pytest.raises(UserError, match="no mean over rows"):
                    judge.scores(good, target)
                continue
            rows = judge.scores(good, target)
            assert rows.shape == (120,)
            mean = (1 if judge.higher_is_better else -1) * rows.mean()
            assert judge.metric.of_mean(mean) == pytest.approx(judge.metrics(good, target)[metric])
            assert rows.mean() > judge.scores(bad, target).mean()
        with pytest.raises(UserError, match="no metric of this task"):
            create_task(name, target, metric="beauty")

    def test_classical_answers_become_outputs_and_averages(self, name):
        """What a perfectly informed classical model says comes back as what the task decides."""
        target = TARGETS[name]
        task = create_task(name, target)
        outputs = outputs_for(task, target)
        if task.estimator == "regressor":
            np.testing.assert_allclose(task.from_estimator(outputs), outputs, rtol=1e-6)
            assert task.response(target).shape == outputs.shape
        else:
            p = task.decide(outputs)["probability"]
            np.testing.assert_allclose(task.from_estimator(p), task.average(outputs[None]), atol=1e-4)
            two = task.average(np.stack([outputs, 0 * outputs]), np.array([3.0, 1.0]))
            even = task.decide(0 * outputs)["probability"]
            np.testing.assert_allclose(task.decide(two)["probability"], 0.75 * p + 0.25 * even, atol=1e-5)
        assert len(task.labels) == len(set(task.labels)) > 0

    def test_perfect_outputs_decide_the_target(self, name):
        target = TARGETS[name]
        task = create_task(name, target)
        found = task.decide(outputs_for(task, target, noise=0.0))["prediction"]
        if name == "survival":
            assert (np.diff(found[np.argsort(target[:, 0])]) <= 0).all()
        elif target.dtype.kind == "f":
            np.testing.assert_allclose(found, target, rtol=1e-5)
        else:
            np.testing.assert_array_equal(found, target)

    def test_broken_outputs_are_named(self, name):
        target = TARGETS[name]
        task = create_task(name, target)
        outputs = outputs_for(task, target)
        outputs[[4, 7], 0] = np.nan, np.inf
        for call in (task.metrics, task.scores, lambda o, t: task.decide(o)):
            with pytest.raises(UserError, match="rows 4, 7 of 120"):
                call(outputs, target)
        with pytest.raises(UserError, match=r"outputs are \(120, "):
            task.metrics(np.zeros((120, 9)), target)

    def test_missing_targets_are_named(self, name):
        target = TARGETS[name].astype(object)
        target[5] = None
        target[9] = float("nan")
        for call in (lambda: create_task(name, target), lambda: create_task(name, TARGETS[name]).encode(target)):
            with pytest.raises(UserError, match="rows 5, 9 of 120"):
                call()

    def test_figures_are_written(self, name, tmp_path):
        target = TARGETS[name]
        task = create_task(name, target)
        paths = task.figures(outputs_for(task, target), target, tmp_path / "figures")
        assert paths
        for path in paths:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (np.array(["a", "b"]), "classification"),
        (np.array(["a", None], dtype=object), "classification"),
        (np.array([True, False]), "classification"),
        (np.array([0, 1, 2, 1]), "classification"),
        (np.array([0.0, 1.0, np.nan]), "classification"),
        (np.arange(21), "regression"),
        (np.arange(20), "classification"),
        (np.array([0.5, 1.0]), "regression"),
        (np.array([1.5, None], dtype=object), "regression"),
        (np.array([[0, 1], [1, 1]]), "multilabel"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), "multilabel"),
        (np.array([[0.0, 2.0], [1.0, 1.0]]), "regression"),
        (np.array(["1", "2"]), "classification"),
    ],
)
def test_guess(target, name):
    assert guess_task(target) == name


@pytest.mark.parametrize("target", [np.array([None, None], dtype=object), np.zeros((0,)), np.zeros((2, 2, 2))])
def test_guess_refuses(target):
    with pytest.raises(UserError):
        guess_task(target)


def test_an_unknown_task_offers_the_closest():
    with pytest.raises(UserError, match="did you mean 'regression'"):
        create_task("regresion", np.arange(3))
