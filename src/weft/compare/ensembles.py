r"""Ensemble selection: which methods to average, with which weights, chosen greedily on the dev rows.

.. math::
   i_t = \arg\min_i\; \ell_\text{dev}\Big(\frac{1}{t}\big(\textstyle\sum_{s < t} P_{i_s} + P_i\big)\Big), \qquad
   w_i = \frac{1}{T^*}\,\big|\{t \le T^* : i_t = i\}\big|

with replacement, for ``ROUNDS`` rounds; the first ``T*`` of them that do best on dev are kept. ``P_i`` are a method's
probabilities (for values, its values), the mean over its seeds; it takes no training at all. Equals go to a member that
is in already. With few dev rows what counts is the loss (:func:`~weft.compare.jobs.by_loss`), else the metric, then the
loss; with very few the weights are also the mean over selections from random halves of the candidates.

Caruana, Niculescu-Mizil, Crew, Ksikes, Ensemble selection from libraries of models, ICML 2004; AutoGluon uses the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from weft.compare.jobs import FEW, Setup, by_loss, choose, missing_scores
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.files import plain
from weft.tasks.base import Task

ROUNDS, BAGS = 25, 20
Plan = Mapping[str, Sequence[Job]]


def select(
    task: Task,
    outputs: np.ndarray,
    target: np.ndarray,
    rounds: int = ROUNDS,
    bags: int = 0,
    loss_alone: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """Weights ``(C,)`` that sum to one.

    Args:
        task: the fitted task.
        outputs: ``(C, n, K)`` of the candidates on dev rows.
        target: raw target of these rows.
        rounds: at most so many members, with repeats.
        bags: selections from random halves of the candidates, whose weights are averaged; 0: one, from all.
        loss_alone: judge by the loss; else by the task's metric, then the loss.
        seed: of the halves.
    """
    if bags and len(outputs) > 2:
        rng, total = np.random.default_rng(seed), np.zeros(len(outputs))
        for _ in range(bags):
            half = np.sort(rng.permutation(len(outputs))[: (len(outputs) + 1) // 2])
            total[half] += select(task, outputs[half], target, rounds, loss_alone=loss_alone)
        return total / bags
    parts = _averaged(task, torch.from_numpy(np.asarray(outputs, dtype=np.float32)).double())
    encoded, sums = task.encode(target), torch.zeros_like(parts[0])
    chosen: list[int] = []
    ranks: list[tuple[float, float]] = []
    for turn in range(1, rounds + 1):
        found = [_rank(task, (sums + part) / turn, target, encoded, loss_alone) for part in parts]
        able = choose(task, found, len(target), loss_alone)
        best = max(able, key=lambda i: (found[i][1], i in chosen, -i))
        chosen.append(best)
        ranks.append(found[best])
        sums = sums + parts[best]
    kept = max(choose(task, ranks, len(target), loss_alone), key=lambda t: (ranks[t][1], -t)) + 1
    return np.bincount(chosen[:kept], minlength=len(parts)) / kept


def _averaged(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """What is averaged: probabilities, or values."""
    return task.log_probabilities(outputs).exp() if task.probabilistic else outputs


def _rank(
    task: Task, mean: torch.Tensor, target: np.ndarray, encoded: torch.Tensor, loss_alone: bool
) -> tuple[float, float]:
    """Of averaged probabilities or values; larger is better."""
    outputs = task.from_log_probabilities(mean.clamp(min=1e-12).log()) if task.probabilistic else mean
    loss = float(task.loss(outputs, encoded).mean())
    return (0.0 if loss_alone else task.quality(outputs.numpy(), target), -loss)


def mean_of_jobs(setup: Setup, jobs: Sequence[Job], fold: int) -> dict[str, np.ndarray]:
    """Outputs ``{part: (n, K)}`` of a method on dev, on test and with modalities hidden, averaged over its seeds."""
    parts = [setup.ledger.outputs(job) for job in jobs]
    return {part: setup.tasks[fold].average(np.stack([p[part] for p in parts])) for part in parts[0]}


def build(setup: Setup, method: Method, members: Sequence[Method], plan: Plan, fold: int) -> Job | None:
    """Choose an ensemble of a fold and keep it in the ledger; None where fewer than two members have finished.

    Args:
        setup: of the comparison.
        method: the ensemble's row in the table.
        members: what it may average.
        plan: the jobs of each method, by name.
        fold: which.
    """
    done = {m.name: [j for j in plan[m.name] if j.fold == fold and _done(setup, j)] for m in members}
    done = {name: jobs for name, jobs in done.items() if jobs}
    if len(done) < 2:
        return None
    of = {name: [setup.ledger.key(job) for job in jobs] for name, jobs in done.items()}
    job = Job(method, 0, fold, {"of": of})
    if setup.ledger.finished(job):
        return job
    task, split = setup.tasks[fold], setup.splits[fold]
    means = [mean_of_jobs(setup, jobs, fold) for jobs in done.values()]
    dev, rows = np.stack([mean["dev"] for mean in means]), len(split.dev)
    target = setup.target[split.dev]
    weights = select(task, dev, target, bags=BAGS if rows < FEW else 0, loss_alone=by_loss(task, rows))
    used = [(name, w) for name, w in zip(done, weights.tolist(), strict=True) if w > 0]
    chosen = [mean for mean, w in zip(means, weights, strict=True) if w > 0]
    shared = [part for part in chosen[0] if all(part in mean for mean in chosen)]
    both = {part: task.average(np.stack([m[part] for m in chosen]), weights[weights > 0]) for part in shared}
    results = {name: [setup.ledger.get(j) or {} for j in done[name]] for name, _ in used}
    every = [result for found in results.values() for result in found]
    sizes = [result["parameters"] for result in every if "parameters" in result]
    found: dict[str, Any] = {
        "settings": {"weights": dict(used)},
        "trials": [{}],
        "dev": task.metrics(both["dev"], target),
        "test": task.metrics(both["test"], setup.target[split.test]),
        "dev_loss": float(task.loss(torch.from_numpy(both["dev"]), task.encode(target)).mean()),
        "missing": missing_scores(setup, fold, both),
        "latency": sum(result["latency"] for result in every),
        "seconds": sum(result["seconds"] for result in every),
        **({"parameters": sum(sizes)} if sizes else {}),
    }
    setup.ledger.put(job, plain(found), both, None)
    return job


def members_of(setup: Setup, job: Job, plan: Plan) -> list[tuple[Job, float]]:
    """The jobs that an ensemble averages, with their weights."""
    found = setup.ledger.get(job)
    weights: dict[str, float] = {} if found is None else found["settings"]["weights"]
    keys = (job.settings or {})["of"]
    by_key = {setup.ledger.key(j): j for name in weights for j in plan[name]}
    return [(by_key[key], weight / len(keys[name])) for name, weight in weights.items() for key in keys[name]]


def _done(setup: Setup, job: Job) -> bool:
    found = setup.ledger.get(job)
    return found is not None and found["status"] == "done"
