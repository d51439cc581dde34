"""Every rule against loops over the spec's formulas; absence; gradients; export."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from weft.errors import UserError
from weft.tasks.base import Task, create_task
from weft.tasks.decision import DecisionCombiner, combine, rules

RNG = np.random.default_rng(0)
TARGETS = {
    "classification": np.repeat([0, 1, 2], [20, 30, 50]),
    "multilabel": (RNG.random((100, 3)) < [0.2, 0.5, 0.7]).astype(int),
    "regression": RNG.normal(size=(100, 3)),
}
CASES = [(name, rule) for name, target in TARGETS.items() for rule in rules(create_task(name, target))]
B, M, K = 11, 4, 3


def problem(name: str) -> tuple[Task, Tensor, Tensor]:
    torch.manual_seed(0)
    presence = torch.rand(B, M) < 0.6
    presence[:, 1] |= ~presence.any(dim=1)
    return create_task(name, TARGETS[name]), 2 * torch.randn(B, M, K, dtype=torch.float64), presence


def make(task: Task, rule: str) -> DecisionCombiner:
    combiner = DecisionCombiner(task, M, rule).double()
    with torch.no_grad():
        for p in combiner.parameters():
            p.copy_(torch.tensor([0.3, -1.0, 0.7, 0.1]))
        if rule == "inverse-variance":
            combiner.variance.copy_(torch.rand(M, K) + 0.1)
    return combiner


def combine_distributions(p: np.ndarray, prior: np.ndarray, theta: np.ndarray, rule: str) -> np.ndarray:
    """``(n, C)`` distributions of the present modalities to ``(C,)``."""
    n, c = p.shape
    if rule == "mean":
        q = [sum(p[m, k] for m in range(n)) / n for k in range(c)]
    elif rule == "weighted":
        w = np.exp(theta) / np.exp(theta).sum()
        q = [sum(w[m] * p[m, k] for m in range(n)) for k in range(c)]
    elif rule == "confidence":
        w = np.array([np.exp(sum(x * np.log(x) for x in p[m])) for m in range(n)])
        q = [sum(w[m] * p[m, k] for m in range(n)) / w.sum() for k in range(c)]
    elif rule == "product":
        q = [np.prod([p[m, k] for m in range(n)]) / prior[k] ** (n - 1) for k in range(c)]
    elif rule == "max":
        q = [max(p[m, k] for m in range(n)) for k in range(c)]
    else:
        votes = [sum(int(np.argmax(p[m]) == k) for m in range(n)) for k in range(c)]
        q = [(votes[k] + p[:, k].mean()) / (n + 1) for k in range(c)]
    return np.array(q) / np.sum(q)


def reference(task: Task, outputs: Tensor, presence: Tensor, combiner: DecisionCombiner) -> np.ndarray:
    z, there = outputs.numpy(), presence.numpy()
    theta = combiner.theta.detach().numpy() if combiner.rule == "weighted" else np.zeros(M)
    result = np.zeros((B, K))
    for row in range(B):
        on = np.flatnonzero(there[row])
        if type(task).__name__ == "ClassificationTask":
            p = np.exp(z[row, on]) / np.exp(z[row, on]).sum(axis=1, keepdims=True)
            result[row] = np.log(combine_distributions(p, np.array([0.2, 0.3, 0.5]), theta[on], combiner.rule))
        elif type(task).__name__ == "MultilabelTask":
            for k in range(K):
                yes = 1 / (1 + np.exp(-z[row, on, k]))
                rate = TARGETS["multilabel"][:, k].mean()
                prior = np.array([1 - rate, rate])
                q = combine_distributions(np.stack([1 - yes, yes], axis=1), prior, theta[on], combiner.rule)
                result[row, k] = np.log(q[1] / q[0])
        else:
            for k in range(K):
                w = np.exp(theta[on])
                if combiner.rule == "inverse-variance":
                    w = 1 / combiner.variance[on, k].numpy()
                result[row, k] = (w * z[row, on, k]).sum() / w.sum()
    return result


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_equals_loops_over_the_formulas(name, rule):
    task, outputs, presence = problem(name)
    combiner = make(task, rule)
    found = combiner(outputs, presence).detach().numpy()
    np.testing.assert_allclose(found, reference(task, outputs, presence, combiner), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_absent_modalities_never_matter(name, rule):
    task, outputs, presence = problem(name)
    combiner = make(task, rule)
    changed = outputs.masked_fill(~presence.unsqueeze(-1), float("nan")).requires_grad_()
    found = combiner(changed, presence)
    torch.testing.assert_close(found, combiner(outputs, presence), rtol=0, atol=0)
    task.loss(found, task.encode(TARGETS[name][:B])).sum().backward()
    assert torch.isfinite(changed.grad).all()
    assert (changed.grad[~presence] == 0).all()
    assert (changed.grad[presence].abs().sum(dim=-1) > 0).any()


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_one_modality_keeps_its_decision(name, rule):
    task, outputs, _ = problem(name)
    presence = torch.nn.functional.one_hot(torch.arange(B) % M, M).bool()
    alone = outputs[torch.arange(B), torch.arange(B) % M].numpy()
    found = make(task, rule)(outputs, presence).detach().numpy()
    np.testing.assert_allclose(task.decide(found)["prediction"], task.decide(alone)["prediction"], rtol=1e-6)
    if task.probabilistic and rule != "vote":
        np.testing.assert_allclose(task.decide(found)["probability"], task.decide(alone)["probability"], rtol=1e-6)


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_extreme_logits_stay_finite(name, rule):
    task, outputs, presence = problem(name)
    outputs = (200 * outputs).float().requires_grad_()
    found = make(task, rule).float()(outputs, presence)
    task.loss(found, task.encode(TARGETS[name][:B])).sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_exports_with_a_dynamic_batch(name, rule):
    task, outputs, presence = problem(name)
    combiner = make(task, rule).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(combiner, (outputs, presence), dynamic_shapes=({0: batch}, {0: batch}))
    torch.testing.assert_close(program.module()(outputs[:3], presence[:3]), combiner(outputs[:3], presence[:3]))


def test_learned_weights_train_and_lean_on_the_better_modality():
    task = create_task("classification", TARGETS["classification"])
    target = task.encode(TARGETS["classification"])
    torch.manual_seed(0)
    good = 4 * torch.nn.functional.one_hot(target, 3).float()
    outputs = torch.stack([good + torch.randn(100, 3), torch.randn(100, 3)], dim=1)
    combiner = DecisionCombiner(task, 2, "weighted")
    optimiser = torch.optim.Adam(combiner.parameters(), lr=0.1)
    for _ in range(50):
        optimiser.zero_grad()
        task.loss(combiner(outputs, torch.ones(100, 2, dtype=torch.bool)), target).mean().backward()
        optimiser.step()
    assert combiner.theta.softmax(0)[0] > 0.9


def test_variances_are_measured_where_the_modality_is_present_and_are_saved():
    task, outputs, presence = problem("regression")
    target = torch.randn(B, K, dtype=torch.float64)
    combiner = DecisionCombiner(task, M, "inverse-variance").double()
    combiner.fit_variance(outputs, target, presence)
    for m in range(M):
        expected = ((outputs[presence[:, m], m] - target[presence[:, m]]) ** 2).mean(dim=0)
        torch.testing.assert_close(combiner.variance[m], expected)
    again = DecisionCombiner(task, M, "inverse-variance").double()
    again.load_state_dict(copy.deepcopy(combiner.state_dict()))
    torch.testing.assert_close(again(outputs, presence), combiner(outputs, presence))


def test_votes_beat_confidence_and_ties_go_to_the_larger_sum():
    task = create_task("classification", np.arange(3))
    p = torch.tensor([[[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0], [0.1, 0.1, 0.8]]]).clamp(min=1e-6)
    on = torch.ones(1, 4, dtype=torch.bool)
    assert combine(task, p.log(), on, "vote").argmax() == 0
    assert combine(task, p.log(), on, "mean").argmax() == 1
    two = torch.tensor([[False, True, True, False]])
    assert combine(task, p.log(), two, "vote").argmax() == 1


def test_mistakes_are_named():
    task, outputs, presence = problem("classification")
    with pytest.raises(UserError, match="did you mean 'mean'"):
        DecisionCombiner(task, M, "meen")
    with pytest.raises(UserError, match="cannot combine decisions by 'product'"):
        DecisionCombiner(create_task("regression", TARGETS["regression"]), M, "product")
    presence[[2, 5]] = False
    with pytest.raises(UserError, match="batch rows 2, 5"):
        combine(task, outputs, presence)
    with pytest.raises(UserError, match=r"outputs are \(B, 2, 3\)"):
        DecisionCombiner(task, 2)(outputs, presence)
    with pytest.raises(UserError, match="leave this call out"):
        DecisionCombiner(task, M).fit_variance(outputs, outputs[:, 0], presence)
