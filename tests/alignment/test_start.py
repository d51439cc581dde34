"""Aligners that start at a closed form: before the first step they are that form, after it they decay towards it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.test_aligned import pairs
from weft.alignment import create_objective
from weft.alignment.lightcrl import Operation
from weft.models import AlignedModel, load_model
from weft.training import fit_aligner

OPERATIONS: list[Operation] = ["addition", "multiplication", "concatenation", "additive", "general", "scaled_dot"]
LIGHT = {"start": "whitened", "heads": 2, "feedforward": 16}
TINY = {"epochs": 1, "lr": 1e-12, "warmup": 0.0, "weight_decay": 0.0}


def trained(name: str, settings: dict[str, object], dim: int = 6, **options: object) -> tuple[AlignedModel, dict]:
    features, split = pairs(captions=2)
    model = AlignedModel.build(dims=features.dims, aligner=name, dim=dim, aligner_options=options)
    fit_aligner(model, create_objective("infonce"), features, split, settings, progress=False)
    return model.eval(), model.embed(features, split.test)


@pytest.mark.parametrize(
    ("name", "options"),
    [("two-tower", {"start": "whitened"})] + [("lightcrl", {**LIGHT, "operation": o}) for o in OPERATIONS],
)
def test_before_the_first_step_it_is_the_closed_form(name: str, options: dict[str, object]) -> None:
    expected = trained("whitened", {})[1]
    model, found = trained(name, TINY, **options)
    assert model.settings["scaling"] == "modality"
    for modality, z in expected.items():
        np.testing.assert_allclose(found[modality], z, atol=1e-4)


def test_training_moves_it_and_decay_draws_it_back(tmp_path) -> None:
    start = trained("whitened", {})[1]
    gaps = []
    for decay in (0.0, 60.0):
        model, z = trained(
            "two-tower", {"epochs": 3, "lr": 1e-2, "weight_decay": decay, "monitor": "loss"}, start="whitened"
        )
        gaps.append(sum(float(np.abs(z[n] - start[n]).mean()) for n in z))
    assert gaps[0] > gaps[1] > 0
    model.save_pretrained(tmp_path)
    features, split = pairs(captions=2)
    again = load_model(tmp_path).embed(features, split.test)
    assert all(np.array_equal(again[n], z[n]) for n in z)


def test_the_gates_of_lightcrl_learn() -> None:
    model, _ = trained("lightcrl", {"epochs": 3, "lr": 1e-2, "monitor": "loss"}, **LIGHT)
    gates = dict(model.named_parameters())["aligner.gates"]
    assert bool((gates != 0).all())
    assert isinstance(gates, torch.nn.Parameter)
