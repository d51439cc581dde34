from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.training.problems import build, sequences, xor
from weft.data import Dataset, Modality
from weft.errors import UserError
from weft.models import FusedModel
from weft.store import MemoryFeatures
from weft.tasks.base import create_task
from weft.tokens import Tokens
from weft.training import TrainConfig, fit
from weft.training.batches import fewer_modalities

QUICK = TrainConfig(epochs=25, patience=0, lr=3e-3, batch_size=32)
DECISIONS = ["joint", "late", "hybrid"]


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


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_saved_model_gives_the_same_answers_bit_for_bit(decision, tmp_path):
    features, split = xor(100, absent=0.2)
    model = build(features, split, decision=decision)
    fit(model, features, split, {"epochs": 2}, progress=False)
    model.save_pretrained(tmp_path)
    again = FusedModel.from_pretrained(tmp_path)
    assert again.standardise.fitted
    assert again.config() == model.config()
    ours, theirs = model.predict(features), again.predict(features)
    assert list(ours["id"]) == features.ids
    assert ours["probability"].sum(axis=1) == pytest.approx(np.ones(100))
    for key, value in ours.items():
        assert np.array_equal(value, theirs[key])
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_loss_is_what_the_docstring_says(decision):
    """Row by row, with absent modalities left out of the sum."""
    features, split = xor(40, absent=0.4)
    model = build(features, split, decision=decision, dropout=0.0)
    rows = np.arange(40)
    inputs = features.gather(rows)
    target = model.task.encode(features.targets["label"])
    members, there = model.members(inputs)
    expected = 0.0
    for row in range(40):
        losses = [torch.nn.functional.cross_entropy(m, target[row]) for m in members[row]]
        if decision == "joint":
            expected += losses[0].item()
        elif decision == "late":
            expected += sum(loss.item() for m, loss in enumerate(losses) if features.presence[row, m])
        else:
            branches = sum(loss.item() for m, loss in enumerate(losses[1:]) if features.presence[row, m])
            expected += losses[0].item() + 0.3 * branches
    assert model.loss(inputs, target).item() == pytest.approx(expected / 40, rel=1e-5)
    assert there.shape == members.shape[:2]


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_loss_of_more_against_fewer_is_what_the_docstring_says(decision):
    """Row by row; rows of one modality have no such loss, and the hinge moves the loss of more alone."""
    features, split = xor(40, absent=0.3)
    model = build(features, split, decision=decision, dropout=0.0)
    inputs, target = features.gather(np.arange(40)), model.task.encode(features.targets["label"])
    torch.manual_seed(0)
    fewer = fewer_modalities(inputs)
    expected, hinges = 0.0, 0
    for row in range(40):
        (a, b) = ({n: Tokens(*(x[row : row + 1] for x in t)) for n, t in batch.items()} for batch in (inputs, fewer))
        expected += model.loss(a, target[row : row + 1]).item()
        if features.presence[row].sum() > 1:
            more, less = (model.task.loss(model(batch), target[row : row + 1]).item() for batch in (a, b))
            expected += model.loss(b, target[row : row + 1]).item() + 2.5 * max(0.0, more - less)
            hinges += more > less
    assert 3 < hinges < 35
    loss = model.loss(inputs, target, fewer, 2.5)
    assert loss.item() == pytest.approx(expected / 40, rel=1e-5)
    plain = (model.loss(inputs, target, fewer, weight) for weight in (0.0, 2.5))
    alone = (model.loss(inputs, target), model.loss(inputs, target, inputs, 2.5))
    without, hinged = (torch.autograd.grad(value, list(model.parameters()), allow_unused=True) for value in plain)
    assert any(not torch.equal(g, h) for g, h in zip(without, hinged, strict=True) if g is not None and h is not None)
    assert alone[0].item() == pytest.approx(alone[1].item(), rel=1e-6)


def test_the_hinge_does_not_move_the_loss_of_fewer():
    """Where more is worse than fewer, the gradient of the hinge is that of more; where it is not, there is none."""
    features, split = xor(40)
    model = build(features, split, dropout=0.0)
    inputs, target = features.gather(np.arange(40)), model.task.encode(features.targets["label"])
    torch.manual_seed(0)
    fewer, weights = fewer_modalities(inputs), list(model.parameters())
    more, less = (model.task.loss(model(batch), target) for batch in (inputs, fewer))
    expected = torch.autograd.grad(more[more > less].sum() / 40, weights)
    difference = model.loss(inputs, target, fewer, 1.0) - model.loss(inputs, target, fewer, 0.0)
    for found, wanted in zip(torch.autograd.grad(difference, weights), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("decision", DECISIONS)
def test_what_lies_in_an_absent_modality_does_not_matter(decision):
    features, split = xor(60, absent=0.5)
    model = build(features, split, decision=decision).eval()
    inputs = features.gather(np.arange(60))
    spoilt = {
        name: Tokens(torch.where(t.mask.unsqueeze(-1), t.values, float("nan")), t.mask) for name, t in inputs.items()
    }
    assert torch.equal(model(inputs), model(spoilt))
    target = model.task.encode(features.targets["label"])
    model.loss(spoilt, target).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_late_model_with_one_modality_present_gives_that_modalitys_decision():
    features, split = xor(60, absent=0.9)
    model = build(features, split, decision="late").eval()
    inputs = features.gather(np.arange(60))
    members, there = model.members(inputs)
    alone = there.sum(dim=1) == 1
    p = members.softmax(dim=-1)[alone][there[alone]]
    assert torch.allclose(model(inputs)[alone].softmax(dim=-1), p, atol=1e-6)


def test_one_modality_alone_gets_the_same_care_late_as_joint():
    features, split = xor(60)
    alone = features.subset(["a"])
    late, joint = (build(alone, split, decision=d, fusion="concat", dropout=0.0) for d in ("late", "joint"))
    late.branches[0][0].load_state_dict(joint.fusion.project.state_dict())
    late.branches[0][-1].load_state_dict(joint.head[-1].state_dict())
    difference = late.outputs(alone) - joint.outputs(alone)
    assert np.ptp(difference, axis=1) == pytest.approx(np.zeros(60), abs=1e-5)


def test_learned_weights_of_the_rule_train():
    features, split = xor(100)
    model = build(features, split, decision="late", rule="weighted")
    fit(model, features, split, {"epochs": 3}, progress=False)
    assert model.combine.theta.abs().sum() > 0


def test_inverse_variances_are_measured_on_the_dev_rows():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    values = {"good": y[:, None] + 0.1 * rng.normal(size=(200, 1)), "noise": rng.normal(size=(200, 1))}
    features = MemoryFeatures([str(i) for i in range(200)], values, {"y": y}, task="regression")
    _, split = xor(200)
    task = create_task("regression", y[split.train])
    model = FusedModel.build(dims=features.dims, task=task, decision="late", rule="inverse-variance", dim=16)
    fit(model, features, split, {"epochs": 30, "lr": 1e-2}, progress=False)
    members, _ = model.members(features.gather(split.dev))
    expected = (members - task.encode(y[split.dev]).unsqueeze(1)).square().mean(dim=0)
    assert torch.allclose(model.combine.variance, expected, rtol=1e-4)
    assert model.combine.variance[0] < 0.3 < model.combine.variance[1]


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_callers_state():
    features, split = xor(60)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build(features, split, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(build(features, split, seed=1).head[-1].weight, one.head[-1].weight)
    assert not torch.equal(build(features, split, seed=2).head[-1].weight, one.head[-1].weight)


def test_predictions_do_not_depend_on_the_batch():
    features, split = sequences()
    model = build(features, split, decision="late")
    assert model.outputs(features, batch_size=7) == pytest.approx(model.outputs(features), abs=1e-6)


def test_damaged_missing_and_foreign_files_are_refused(tmp_path):
    features, split = xor(60)
    model = build(features, split)
    with pytest.raises(UserError, match="a file is missing"):
        FusedModel.from_pretrained(tmp_path / "nowhere")
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    model.save_pretrained(tmp_path)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged[\s\S]*model.safetensors"):
        FusedModel.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="a file is missing"):
        FusedModel.from_pretrained(tmp_path)
    build(features, split, dim=8).save_pretrained(tmp_path / "other")
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="do not fit"):
        FusedModel.from_pretrained(tmp_path)
    settings = json.loads(config.read_text())
    del settings["task"]
    config.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="does not describe a model"):
        FusedModel.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        FusedModel.from_pretrained(tmp_path)
    config.write_text('{"format": "other"}')
    with pytest.raises(UserError, match="holds no"):
        FusedModel.from_pretrained(tmp_path)


def test_user_mistakes_are_named():
    features, split = xor(60)
    with pytest.raises(UserError, match="'early'"):
        build(features, split, decision="early")
    model = build(features, split)
    with pytest.raises(UserError, match="lack a modality"):
        model.outputs(features.subset(["a"]))
    model.target = "lable"
    with pytest.raises(UserError, match="did you mean 'label'"):
        fit(model, features, split, QUICK, progress=False)
    with pytest.raises(UserError, match="does not know how to read a table"):
        model.encode({"a": [1]})
    with pytest.raises(UserError, match="does not know its encoders"):
        model.encode(Dataset("one", ["0"], {"a": Modality("vector", [np.ones(2)])}, {}, None, None, "classification"))
