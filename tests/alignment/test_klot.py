"""KLOT: its gradient against autograd through the iterations; unpaired rows teach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from weft.alignment import create_objective, create_regulariser
from weft.alignment.klot import transport_divergence
from weft.data import Split
from weft.errors import UserError
from weft.models import AlignedModel
from weft.ops.sinkhorn import sinkhorn
from weft.store import MemoryFeatures
from weft.training import fit_aligner

G = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.rand(6, 6, generator=G, dtype=torch.float64) for _ in range(2))


def test_the_gradient_is_that_through_the_iterations():
    student = STUDENT.clone().requires_grad_()
    loss = transport_divergence(student, TEACHER, 0.2, 0.1, 2000)
    target, plan = sinkhorn(TEACHER, 0.1, 2000), sinkhorn(student, 0.2, 2000)
    unrolled = (target.exp() * (target - plan)).sum()
    assert_close(loss, unrolled)
    assert_close(*(torch.autograd.grad(x, student)[0] for x in (loss, unrolled)), atol=1e-8, rtol=1e-6)


def test_equal_plans_are_no_loss():
    student = TEACHER.clone().requires_grad_()
    loss = transport_divergence(student, TEACHER, 0.1, 0.1)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(torch.autograd.grad(loss, student)[0].abs().max()) == pytest.approx(0, abs=1e-12)
    assert float(transport_divergence(STUDENT + 5, TEACHER)) == pytest.approx(
        float(transport_divergence(STUDENT, TEACHER)), rel=1e-6
    )


def planted(pairs: int, alone: int, test: int) -> tuple[MemoryFeatures, Split]:
    """Two views, one a rotation of the other under noise; most rows have one view only."""
    rng = np.random.default_rng(0)
    n = pairs + alone + test
    x = rng.normal(size=(n, 12)) * np.linspace(2, 0.5, 12)
    y = x @ np.linalg.qr(rng.normal(size=(12, 12)))[0] + 0.1 * rng.normal(size=(n, 12))
    views = {"x": x.astype(np.float32), "y": y.astype(np.float32)}
    views["y"][pairs : pairs + alone : 2] = np.nan
    views["x"][pairs + 1 : pairs + alone : 2] = np.nan
    features = MemoryFeatures([f"r{i}" for i in range(n)], views, {}, task="retrieval")
    rows = np.arange(n)
    return features, Split(rows[: pairs + alone], rows[-test : -test // 2], rows[-test // 2 :])


def test_unpaired_rows_teach():
    features, split = planted(20, 400, 120)
    scores = {}
    for name, regularisers in (("pairs", {}), ("klot", {"klot": {"weight": 3.0, "rows": 64, "dim": 12}})):
        model = AlignedModel.build(dims=features.dims, dim=12)
        config = {"epochs": 12, "batch_size": 512, "lr": 0.01, "patience": 0, "regularisers": regularisers}
        fit_aligner(model, create_objective("infonce"), features, split, config, progress=False)
        scores[name] = model.evaluate(features, split.test)["sum of recalls"]
    assert scores["klot"] > scores["pairs"] + 0.2


@pytest.mark.parametrize("name", ["klot", "structure"])
def test_a_weight_of_nothing_is_no_regulariser(name):
    """Bit for bit: it draws from a generator of its own, so even dropout is as without."""
    features, split = planted(20, 40, 60)
    trained = []
    for regularisers in ({}, {name: {"weight": 0.0}}):
        options = {"operation": "addition", "dropout": 0.5, "feedforward": 8, "heads": 2}
        model = AlignedModel.build(dims=features.dims, aligner="lightcrl", aligner_options=options, dim=8)
        config = {"epochs": 2, "batch_size": 32, "patience": 0, "regularisers": regularisers}
        fit_aligner(model, create_objective("infonce"), features, split, config, progress=False)
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])


def test_without_unpaired_rows_it_is_refused():
    features, split = planted(40, 0, 60)
    model = AlignedModel.build(dims=features.dims, dim=8)
    with pytest.raises(UserError, match="rows that lack a modality"):
        fit_aligner(model, create_objective("infonce"), features, split, {"regularisers": {"klot": {}}}, progress=False)


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"rows": 1}, {"epsilon": 0.0}, {"teacher": "two-tower"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="klot"):
        create_regulariser("klot", **options)
