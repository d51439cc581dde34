"""LightCRL's stopping rule against a loop that keeps its state, and torch's own scheduler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.training.test_aligned import Nce, build, pairs
from weft.training import fit_aligner
from weft.training.schedules.lightcrl import FACTOR, judge_lightcrl


def original(losses: list[float]) -> tuple[list[float], list[int]]:
    """Learning rate of every epoch, and the epochs (from 1) that were best when they ended."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.8, patience=5)
    best, bad, rates, saved = math.inf, 0, [], []
    for epoch, loss in enumerate(losses, 1):
        rates.append(optimiser.param_groups[0]["lr"])
        if loss < best:
            best, bad = loss, 0
            saved.append(epoch)
        elif epoch >= 5:
            bad += 1
            if bad >= 5:
                break
        scheduler.step(loss)
    return rates, saved


@pytest.mark.parametrize("seed", range(30))
def test_the_rule_equals_the_original_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.choice([-0.1, 0.0, 1e-6, -1e-6, 0.05], size=40, p=rng.dirichlet(np.ones(5)))
    losses = (2 + np.cumsum(steps)).tolist()
    rates, saved = original(losses)
    found: list[float] = []
    best = []
    reductions = 0
    for epoch in range(1, len(losses) + 1):
        found.append(FACTOR**reductions)
        verdict = judge_lightcrl(losses[:epoch])
        reductions = verdict.reductions
        if verdict.best == epoch - 1:
            best.append(epoch)
        if verdict.stop:
            break
    np.testing.assert_allclose(found, rates)
    assert best == saved


def test_the_loop_follows_the_rule() -> None:
    features, split = pairs(60)
    settings = {"epochs": 40, "lr": 1e-8, "batch_size": 40, "schedule": "lightcrl", "monitor": "loss", "patience": 2}
    settings |= {"warmup": 0.0, "weight_decay": 0.0}
    history = fit_aligner(build(features), Nce(), features, split, settings, progress=False)
    losses = [epoch["dev_loss"] for epoch in history.epochs]
    verdict = judge_lightcrl(losses, 2)
    rates = [judge_lightcrl(losses[:n], 2).reductions for n in range(len(losses))]
    np.testing.assert_allclose([epoch["lr"] for epoch in history.epochs], 1e-8 * 0.8 ** np.array(rates))
    assert history.best_epoch == verdict.best
    assert len(losses) == 40 or verdict.stop
    assert max(rates) > 0, "the rate was lowered"
