"""What jobs will cost in seconds: from FLOPs and a probe before any has run, corrected by those that have."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from copy import copy

import numpy as np
import torch
from torch import nn

from weft.compare.jobs import Setup
from weft.compare.ledger import Job
from weft.compare.methods import PROTECTIONS, STRENGTHS, Method
from weft.errors import UserError
from weft.fusion import fusions
from weft.registry import check_options

EPOCHS, ROUNDS, ITERATIONS = 25, 120, 40
"""What early stopping usually leaves of a training run, of boosting, and of a linear fit."""
PASSES = 3
"""A training step costs about three forward passes."""


class Costs:
    """Estimates, one per kind of job, that learn from what jobs really took.

    Args:
        setup: of the comparison.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.rows = len(setup.splits[0].train)
        self.step, self.rate = _probe(sum(setup.features.dims.values()), setup.config.dim, setup.config.threads)
        self._flops: dict[Method, float] = {}
        self._ratios: dict[str, list[float]] = defaultdict(list)

    def at(self, setup: Setup) -> Costs:
        """The same on other rows, with what it has learned."""
        found = copy(self)
        found.setup, found.rows = setup, len(setup.splits[0].train)
        return found

    def seconds(self, job: Job) -> float:
        """How long a job will probably take."""
        ratios = self._ratios[self._kind(job.method)]
        return self._guess(job) * (math.exp(float(np.median(ratios[-9:]))) if ratios else 1.0)

    def least(self, job: Job) -> float:
        """How long it takes until a job has something to keep: one of its trials."""
        return self.seconds(job) / self._trials(job)

    def total(self, jobs: Iterable[Job]) -> float:
        """How long jobs will probably take on all processes."""
        return sum(self.seconds(job) for job in jobs) / self.setup.config.jobs

    def learn(self, job: Job, seconds: float) -> None:
        """Take note of how long a job took."""
        self._ratios[self._kind(job.method)].append(math.log(max(seconds, 1e-3) / self._guess(job)))

    def _kind(self, method: Method) -> str:
        return f"{method.family}{'-tokens' * method.reads_tokens}{method.options.get('library', '')}"

    def _guess(self, job: Job) -> float:
        method, config = job.method, self.setup.config
        width = sum(self.setup.features.dims[name] for name in method.modalities)
        outputs = max(2, self.setup.tasks[0].outputs)
        trials = self._trials(job)
        if method.family == "linear":
            flops = 4.0 * self.rows * width * outputs * ITERATIONS * len(STRENGTHS)
            return 0.05 + trials * flops / self.rate
        if method.family == "boosting":
            tried, width = self.setup.trials(method), sum(self.setup.many_valued[name] for name in method.modalities)
            narrow = np.mean([min(width, t["components"] or width * t["columns"]) for t in tried])
            return 0.1 + trials * ROUNDS * outputs * (5e-4 + 5e-9 * self.rows * float(narrow))
        if method.family != "network":
            return 0.05
        epochs = min(EPOCHS, config.train.epochs)
        steps = math.ceil(self.rows / config.train.batch_size)
        once = steps * self.step + PASSES * self.rows * self._forward(method) / self.rate
        return 0.2 + trials * epochs * once

    def _trials(self, job: Job) -> int:
        if job.settings is not None or job.seed:
            return 1
        protected = self.setup.config.missing and job.method.family == "network" and len(job.method.modalities) > 1
        return len(self.setup.trials(job.method)) + protected * len(PROTECTIONS)

    def _forward(self, method: Method) -> float:
        """FLOPs of one row."""
        if method not in self._flops:
            self._flops[method] = _flops(self.setup, method)
        return self._flops[method]


def _flops(setup: Setup, method: Method) -> float:
    features, dim = setup.features, setup.config.dim
    dims = {name: features.dims[name] for name in method.modalities}
    if method.decision == "late":
        return 2.0 * dim * sum(dims.values())
    tokens = {name: max(1, int(np.median(features.lengths[name]))) if method.reads_tokens else 1 for name in dims}
    operator = fusions.get(method.fusion)
    try:
        options = check_options(operator, method.fusion, method.options)
        return float(operator.cost(dims, dim, tokens, **options).flops)
    except UserError:  # the job itself will say it
        return 0.0
    except Exception as error:  # of an operator from elsewhere, which may run nevertheless
        said = f"{type(error).__name__}: {error}"
        warnings.warn(f"how long {method.name!r} will take cannot be told: {said}", RuntimeWarning, stacklevel=2)
        return 0.0


def _probe(width: int, dim: int, threads: int) -> tuple[float, float]:
    """Seconds of a small training step, and FLOPs per second of a matrix product."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            net = nn.Sequential(nn.Linear(min(width, 4096), dim), nn.ReLU(), nn.Linear(dim, 2))
            optimizer = torch.optim.AdamW(net.parameters(), fused=True)
            x, a = torch.randn(128, min(width, 4096)), torch.randn(384, 384)
        steps, products = [], []
        for _ in range(6):
            start = time.perf_counter()
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
            middle = time.perf_counter()
            a @ a
            steps.append(middle - start)
            products.append(time.perf_counter() - middle)
    finally:
        torch.set_num_threads(before)
    return 2.0 * float(np.median(steps)), 2.0 * 384**3 / float(np.median(products))
