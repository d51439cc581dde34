from __future__ import annotations

import numpy as np
import pytest

from tests.training.problems import build, xor
from weft.training import FusedModel, TrainConfig, fit

QUICK = TrainConfig(epochs=25, patience=0, lr=3e-3, batch_size=32)


def accuracy(model, features, split):
    return model.evaluate(features, split.test)["accuracy"]


@pytest.mark.parametrize("settings", [{"hidden": 32}, {"decision": "hybrid"}])
def test_a_fusion_learns_xor(settings):
    features, split = xor()
    model = build(features, split, **settings)
    fit(model, features, split, QUICK, progress=False)
    assert accuracy(model, features, split) > 0.95


def test_late_fusion_cannot_learn_xor():
    features, split = xor()
    model = build(features, split, decision="late", hidden=32)
    fit(model, features, split, QUICK, progress=False)
    assert accuracy(model, features, split) < 0.7


@pytest.mark.parametrize("decision", ["joint", "late", "hybrid"])
def test_a_saved_model_gives_the_same_outputs_bit_for_bit(decision, tmp_path):
    features, split = xor(100)
    model = build(features, split, decision=decision)
    fit(model, features, split, {"epochs": 2}, progress=False)
    model.save_pretrained(tmp_path)
    again = FusedModel.from_pretrained(tmp_path)
    assert np.array_equal(again.outputs(features), model.outputs(features))
    assert again.standardise.fitted
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
