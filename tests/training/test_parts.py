from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from tests.training.problems import sequences
from weft.errors import UserError
from weft.models.standardise import Standardiser
from weft.tokens import Tokens, as_tokens, mean_pool, present
from weft.training.batches import drop_modalities, fewer_modalities
from weft.training.config import TrainConfig
from weft.training.schedule import learning_rate


def rates(config, steps):
    return [learning_rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_cosine_equals_torch(warmup):
    steps = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    rise = int(warmup * steps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rise)
    schedule = cosine
    if rise:
        linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (rise + 1), 1.0, rise)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [rise])
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(TrainConfig(lr=0.3, warmup=warmup), steps) == pytest.approx(expected)


def test_constant_and_plateau_rise_and_stay():
    config = TrainConfig(lr=1.0, warmup=0.2, schedule="constant")
    assert rates(config, 10) == pytest.approx([1 / 3, 2 / 3] + [1.0] * 8)
    assert learning_rate(TrainConfig(lr=1.0, schedule="plateau"), 9, 10, reductions=2) == pytest.approx(0.01)


def test_the_standardiser_equals_scikit_learn_on_the_real_tokens():
    features, _ = sequences(200)
    rows = np.arange(200)
    standardise = Standardiser(features.dims)
    standardise.fit(features.gather(rows[start : start + 33]) for start in range(0, 200, 33))
    batch = features.gather(rows)
    ours = standardise(batch)
    for name, (values, mask) in batch.items():
        real = values[mask].double().numpy()
        expected = StandardScaler().fit(real)
        mean, scale = standardise.statistics(name)
        np.testing.assert_allclose(mean, expected.mean_, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scale, expected.scale_, rtol=1e-5)
        np.testing.assert_allclose(ours[name].values[mask], expected.transform(real), atol=1e-5)
        assert torch.equal(ours[name].mask, mask)


def test_a_constant_feature_and_what_lies_under_the_mask_are_safe():
    values = torch.tensor([[[0.1, 1.0], [float("nan"), 1e30]], [[0.1, 3.0], [0.1, 5.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    standardise = Standardiser({"a": 2})
    standardise.fit([{"a": Tokens(values, mask)}])
    mean, scale = standardise.statistics("a")
    assert torch.allclose(mean, torch.tensor([0.1, 3.0]))
    assert torch.allclose(scale, torch.tensor([1.0, (8 / 3) ** 0.5]))
    out = standardise({"a": Tokens(values, mask)})["a"]
    assert torch.allclose(out.values[mask][:, 0], torch.zeros(3), atol=1e-7)


def test_features_far_from_zero_are_standardised_accurately():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(1000 + 0.5 * rng.normal(size=(5000, 3))).float()
    standardise = Standardiser({"a": 3})
    standardise.fit({"a": as_tokens(chunk)} for chunk in values.split(7))
    out = standardise({"a": as_tokens(values)})["a"].values
    assert out.std(dim=0, unbiased=False).squeeze() == pytest.approx(np.ones(3), abs=1e-3)
    assert out.mean(dim=0).squeeze() == pytest.approx(np.zeros(3), abs=1e-3)


def test_a_standardiser_refuses_what_it_cannot_learn_from():
    gone = Tokens(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(UserError, match="'a' is absent in every training row"):
        Standardiser({"a": 3}).fit([{"a": gone}])
    with pytest.raises(UserError, match="NaN or infinite"):
        Standardiser({"a": 3}).fit([{"a": as_tokens(torch.full((2, 3), float("inf")))}])


def test_pooling_and_standardising_commute():
    features, _ = sequences(50)
    standardise = Standardiser(features.dims)
    batch = features.gather(np.arange(50))
    standardise.fit([batch])
    pooled = {name: as_tokens(mean_pool(tokens), present(tokens)) for name, tokens in batch.items()}
    for name, tokens in standardise(batch).items():
        there = present(tokens)
        ours = standardise(pooled)[name].values[:, 0][there]
        assert torch.allclose(mean_pool(tokens)[there], ours, atol=1e-5)


def test_modality_dropout_hides_at_its_rate_and_never_all():
    torch.manual_seed(0)
    rows, p = 40_000, 0.3
    there = torch.ones(rows, 3, dtype=torch.bool)
    there[: rows // 4, 0] = False
    there[: rows // 8, 1] = False
    inputs = {name: as_tokens(torch.randn(rows, 2), there[:, i]) for i, name in enumerate("abc")}
    dropped = drop_modalities(inputs, p)
    after = torch.stack([present(tokens) for tokens in dropped.values()], dim=1)
    assert after.any(dim=1).all()
    assert not (after & ~there).any()
    assert after[: rows // 8].equal(there[: rows // 8])
    full = after[rows // 4 :].double().mean(dim=0)
    assert full == pytest.approx(np.full(3, 1 - p + p**3 / 3), abs=0.01)
    for name, tokens in dropped.items():
        assert torch.equal(tokens.values, inputs[name].values)
    assert drop_modalities(inputs, 0.0) is inputs


def test_fewer_modalities_are_a_strict_subset_of_any_size():
    torch.manual_seed(0)
    rows = 30_000
    there = torch.ones(rows, 3, dtype=torch.bool)
    there[: rows // 3, 0] = False
    there[: rows // 6, 1] = False
    inputs = {name: as_tokens(torch.randn(rows, 2), there[:, i]) for i, name in enumerate("abc")}
    after = torch.stack([present(tokens) for tokens in fewer_modalities(inputs).values()], dim=1)
    assert not (after & ~there).any()
    one, two, three = after[: rows // 6], after[rows // 6 : rows // 3], after[rows // 3 :]
    assert one.equal(there[: rows // 6])  # a single modality stays
    assert (two.sum(dim=1) == 1).all()
    assert two.double().mean(dim=0).tolist() == pytest.approx([0, 0.5, 0.5], abs=0.03)
    sizes = three.sum(dim=1)
    assert torch.bincount(sizes, minlength=4).div(len(three)).tolist() == pytest.approx([0, 0.5, 0.5, 0], abs=0.02)
    assert three.double().mean(dim=0).tolist() == pytest.approx([0.5] * 3, abs=0.02)
