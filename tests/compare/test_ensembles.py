"""Ensemble selection against all ensembles there are, and in a comparison."""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.compare.cases import quick, small
from tests.compare.test_compare import FAST
from weft.compare import compare, crossfit
from weft.compare.ensembles import select
from weft.compare.jobs import run_job
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.compare.prepare import prepare
from weft.models import load_model
from weft.models.pooled import PooledInputs
from weft.store import MemoryFeatures
from weft.tasks.base import Task, create_task
from weft.tasks.conformal import Conformal

RNG = np.random.default_rng(0)
TARGETS = {
    "classification": RNG.integers(0, 3, 60),
    "multilabel": RNG.integers(0, 2, (60, 2)),
    "regression": RNG.normal(size=60),
}


def outputs_of(task: Task, target: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """``(C, 60, K)`` outputs that know something of the target, each less than the one before."""
    rng, encoded = np.random.default_rng(seed), task.encode(target).numpy()
    signal = np.eye(3)[encoded] if encoded.ndim == 1 else encoded
    noise = [(1.0 + 0.3 * i) * rng.normal(size=(60, task.outputs)) for i in range(count)]
    return np.stack([signal + part for part in noise]).astype(np.float32)


def loss_of(task: Task, outputs: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    """Log loss or squared error of the weighted mean of probabilities or values, written out."""
    if not task.probabilistic:
        return float(((np.tensordot(weights, outputs, 1) - task.encode(target).numpy()) ** 2).mean())
    mean = sum(
        w * np.exp(task.log_probabilities(torch.from_numpy(o)).numpy()) for w, o in zip(weights, outputs, strict=True)
    )
    y = task.encode(target).numpy().astype(int)
    if y.ndim == 1:
        return float(-np.log(mean[np.arange(60), 0, y]).mean())
    return float(-np.log(np.take_along_axis(mean, y[..., None], axis=2)).mean())


@pytest.mark.parametrize("kind", TARGETS)
def test_greedy_selection_against_all_ensembles(kind: str) -> None:
    """Never better than the best of all multisets of 3 candidates in up to 6 rounds, and close to it."""
    target = TARGETS[kind]
    task = create_task(kind, target)
    outputs = outputs_of(task, target, 3)
    found = loss_of(task, outputs, target, select(task, outputs, target, rounds=6))
    every = [
        loss_of(task, outputs, target, np.bincount(chosen, minlength=3) / size)
        for size in range(1, 7)
        for chosen in combinations_with_replacement(range(3), size)
    ]
    assert min(every) - 1e-9 <= found <= min(every) + 0.02
    assert found <= min(loss_of(task, outputs, target, row) for row in np.eye(3)) + 1e-9


@pytest.mark.parametrize("loss_alone", [True, False])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_what_selection_must_not_do(kind: str, loss_alone: bool) -> None:
    """One candidate: itself. Doubles change nothing. A chance model never raises the loss on dev."""
    target = TARGETS[kind]
    task = create_task(kind, target)
    outputs = outputs_of(task, target, 4)
    np.testing.assert_array_equal(select(task, outputs[:1], target, loss_alone=loss_alone), [1.0])
    alone = select(task, outputs, target, loss_alone=loss_alone)
    doubled = select(task, np.concatenate([outputs, outputs]), target, loss_alone=loss_alone)
    np.testing.assert_allclose(doubled[:4] + doubled[4:], alone)
    chance = np.concatenate([outputs, np.zeros_like(outputs[:1])])
    with_chance = loss_of(task, chance, target, select(task, chance, target))
    assert with_chance <= loss_of(task, outputs, target, select(task, outputs, target)) + 1e-9
    bags = select(task, outputs, target, bags=6, loss_alone=loss_alone)
    assert bags.sum() == pytest.approx(1.0)
    assert (bags > 0).sum() >= (alone > 0).sum()


def test_an_ensemble_in_a_comparison(tmp_path: Path) -> None:
    """Rows of their own beside the best fusion; chance is no member, nor fusions of that of singles."""
    rng = np.random.default_rng(7)
    whole = small(rows=500)
    values = {
        name: v + 1.2 * rng.normal(size=v.shape).astype(np.float32) for name, v in whole.pooled(np.arange(500)).items()
    }
    features = MemoryFeatures(whole.ids, values, whole.targets)
    config = quick(train=FAST, seeds=2, ensembles=True, fusions=["concat"], resamples=499)
    found = compare(features, config, tmp_path, progress=False)
    rows = {row.method: row for row in found.rows}
    assert [rows[name].role for name in ("ensemble", "ensemble of singles")] == ["ensemble", "ensemble of singles"]
    weights = rows["ensemble"].settings["weights"]
    assert sum(weights.values()) == pytest.approx(1.0)
    assert "chance" not in weights
    assert all(rows[name].role == "single" for name in rows["ensemble of singles"].settings["weights"])


def test_the_kept_ensemble_is_that_of_the_table(tmp_path: Path) -> None:
    """Two weak views whose mean is better than either: the ensemble is kept, alone by its weights and members."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 900)
    a, b = ((y[:, None] - 0.5) * 1.2 + rng.normal(size=(900, 1)) for _ in range(2))
    features = MemoryFeatures([f"r{i}" for i in range(900)], {"a": a, "b": b}, {"y": y})
    config = quick(only=["a (linear)", "b (linear)", "ensemble"], ensembles=True, resamples=499)
    found = compare(features, config, tmp_path, progress=False)
    assert found.kept is not None
    assert found.kept.method == "ensemble"
    row = next(row for row in found.rows if row.method == "ensemble")
    assert found.kept.metrics["accuracy"] == row.test
    model = load_model(tmp_path / "winner")
    assert len(model.members) == 2
    assert model.conformal is not None
    assert model.conformal.rows["all"] == found.counts["dev"]
    assert model.seen is not None
    refitted = compare(features, config.model_copy(update={"refit": True}), tmp_path, progress=False)
    assert refitted.kept is not None
    assert refitted.kept.refitted
    assert any("train and dev rows together" in note for note in refitted.notes)
    again = load_model(tmp_path / "winner")
    assert not np.array_equal(again.outputs(features), model.outputs(features))
    assert again.seen is not None
    assert len(again.seen.parts["train"]) == len(model.seen.parts["train"]) + len(model.seen.parts["dev"])


def test_the_kept_model_is_fitted_without_each_part_of_train_and_dev_rows_in_turn(tmp_path: Path) -> None:
    """By hand: members, out-of-fold answers and thresholds of an ensemble of two linear models on grouped rows."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 600)
    a, b = ((y[:, None] - 0.5) * 1.2 + rng.normal(size=(600, 1)) for _ in range(2))
    group = np.arange(600) // 3
    features = MemoryFeatures([f"r{i}" for i in range(600)], {"a": a, "b": b}, {"y": y}, group=group)
    config = quick(only=["a (linear)", "b (linear)", "ensemble"], ensembles=True, refit=True, resamples=99)
    found = compare(features, config, tmp_path, progress=False)
    assert found.kept is not None
    assert found.kept.refitted
    model, setup = load_model(tmp_path / "winner"), prepare(features, config, tmp_path)
    (split,), (task,) = setup.splits, setup.tasks
    known = np.union1d(split.train, split.dev)
    assert len(model.members) == 2 * crossfit.FOLDS
    answers, unseen, times = np.zeros((2, 600)), np.zeros(600), np.zeros((2, 600), dtype=int)
    inner = crossfit.inside(setup, 0)
    assert inner is not None
    for number, (member, weight) in enumerate(zip(model.members, model.weights.tolist(), strict=True)):
        name, part = member.names[0], inner.splits[number % crossfit.FOLDS]
        rows = np.setdiff1d(known, part.dev)
        assert not set(group[rows]) & set(group[part.dev])
        alone = features.subset([name])
        fitted = PooledInputs.fit(alone, rows)  # its mean says what the member has seen, whatever its scaling
        np.testing.assert_array_equal(member.inputs.get_buffer("mean_0"), fitted.get_buffer("mean_0"))
        probability = task.decide(member.outputs(alone, part.dev))["probability"][:, 1]
        answers["ab".index(name), part.dev] = probability
        times["ab".index(name), part.dev] += 1
        unseen[part.dev] += crossfit.FOLDS * weight * probability
    assert (times[:, known] == 1).all()
    assert not times[:, split.test].any()
    outputs = task.from_log_probabilities(
        torch.from_numpy(np.stack([1 - unseen, unseen], axis=1)[known]).log().unsqueeze(-2)
    )
    expected = Conformal.fit(task, outputs.numpy(), y[known], np.ones((len(known), 2), bool), ["a", "b"])
    assert model.conformal is not None
    for level, (value,) in expected.thresholds["all"].items():
        assert model.conformal.thresholds["all"][level][0] == pytest.approx(value, abs=1e-4)


def test_a_member_that_time_does_not_allow_is_left_out(tmp_path: Path) -> None:
    """The first is fitted whatever it takes, then those that fit."""
    features = small(rows=200)
    config = quick(only=["*linear*"], resamples=99)
    compare(features, config, tmp_path, progress=False)
    setup = prepare(features, config, tmp_path)
    methods = [Method("linear", "linear", ("a", "b")), Method("a (linear)", "linear", ("a",))]
    jobs = [Job(method, 0, 0) for method in methods]
    assert [job.method.name for job in crossfit.again(setup, jobs, 1e6)] == [m.name for m in methods for _ in range(5)]
    assert [job.method.name for job in crossfit.again(setup, jobs, 0.0)] == ["linear"] * crossfit.FOLDS
    first = crossfit.again(setup, jobs, 0.0)
    assert [job.method.name for job in crossfit.again(setup, jobs, 1e6, first)] == ["a (linear)"] * crossfit.FOLDS
    assert crossfit.again(setup, jobs, 0.0, first) == []
    inner = crossfit.inside(setup, 0)
    assert inner is not None
    parts = crossfit.again(setup, jobs, 1e6)
    for job in parts[:-1]:
        run_job(inner, job)
    found = crossfit.weighed(inner, parts)
    assert found is not None
    assert {job.method.name for job, _ in found.parts} == {"linear"}  # the other lacks a part
    assert crossfit.weighed(inner, []) is None
