"""What a step takes of a group, and FuseMix: against plain loops, and through training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from weft.alignment import create_objective
from weft.data import Split
from weft.errors import UserError
from weft.models import AlignedModel, FusedModel
from weft.store import MemoryFeatures
from weft.tasks.base import create_task
from weft.tokens import Tokens
from weft.training import fit, fit_aligner
from weft.training.aligned_task import AlignedTask
from weft.training.config import TrainConfig
from weft.training.mixing import draw_mix, group_means, mix_rows

GROUP = np.repeat(np.arange(24), [1, 2, 3, 2] * 6)


def features(seed: int = 0, length: int = 1) -> tuple[MemoryFeatures, Split]:
    """24 photos with one to three captions; some captions are absent."""
    rng = np.random.default_rng(seed)
    photo = rng.normal(size=(24, 8))[GROUP]
    text = photo @ rng.normal(size=(8, 6)) + rng.normal(size=(len(GROUP), 6))
    tokens: Any = {
        "image": [np.tile(row, (length, 1)).astype(np.float32) for row in photo],
        "text": [np.tile(row, (length, 1)).astype(np.float32) for row in text],
    }
    tokens["text"][4] = None
    made = MemoryFeatures([f"c{i}" for i in range(len(GROUP))], tokens, {}, group=GROUP, task="retrieval")
    train, dev = np.flatnonzero(GROUP < 16), np.flatnonzero((GROUP >= 16) & (GROUP < 20))
    return made, Split(train, dev, np.flatnonzero(GROUP >= 20))


def task(**settings: Any) -> AlignedTask:
    made, split = features(length=settings.pop("length", 1))
    model = AlignedModel.build(dims=made.dims, dim=4)
    built = AlignedTask(model, create_objective("infonce"), made, split, TrainConfig(**settings))
    built.prepare(torch.device("cpu"))
    return built


def test_all_rows_of_the_groups_of_a_step():
    built = task(per_group="all")
    order = built.order(np.random.default_rng(0))
    assert len(order) == 16
    inputs, group = built.batch(order[:5])
    chosen = GROUP[GROUP < 16][order[:5]]
    expected = np.concatenate([np.flatnonzero(g == GROUP) for g in chosen])
    assert_close(inputs["image"].values, built._features.gather(expected)["image"].values)
    assert group.tolist() == GROUP[expected].tolist()
    one, none = task().batch(order[:5])
    assert none is None
    assert_close(one["image"].values, built._train[order[:5]]["image"].values)


def test_partners_are_told_to_the_objective():
    """All captions as partners. (InfoNCE cannot tell where all rows of a group hold one photo: its log-sums count
    partners anyway, and the photo's mean partner is the sum it had. SigLIP can.)"""
    built = task(per_group="all")
    built.objective = create_objective("siglip", bias=0.0)
    inputs, group = built.batch(built.order(np.random.default_rng(0)))
    z = built.model(inputs)
    there = inputs["text"].mask[:, 0] & inputs["image"].mask[:, 0]
    expected = built.objective(z["image"], z["text"], there, group)
    assert_close(built(inputs, group), expected)
    assert not torch.isclose(built(inputs, None), expected)


@pytest.mark.parametrize("length", [1, 3])
def test_a_group_becomes_a_mean_of_the_rows_that_have_the_modality(length):
    made, _ = features(length=length)
    rows = np.arange(12)
    inputs, group = made.gather(rows), torch.from_numpy(np.unique(GROUP[rows], return_inverse=True)[1])
    torch.manual_seed(0)
    mixed = group_means(inputs, group)
    torch.manual_seed(0)
    draws = torch.empty(12).exponential_()
    for name, tokens in inputs.items():
        for g in range(int(group.max()) + 1):
            there = [i for i in rows if group[i] == g and bool(tokens.mask[i].any())]
            total = sum(draws[i] for i in there)
            mean = sum(draws[i] / total * tokens.values[i] for i in there)
            assert_close(mixed[name].values[g], mean)
            assert bool(mixed[name].mask[g].all())
    weights = torch.stack([torch.empty(3).exponential_() for _ in range(4000)])
    weights /= weights.sum(dim=1, keepdim=True)
    assert_close(weights.var(dim=0), torch.full((3,), 1 / 18), atol=0.005, rtol=0)  # Dirichlet(1, 1, 1)
    nothing = {"text": Tokens(torch.ones(2, 1, 3), torch.zeros(2, 1, dtype=torch.bool))}
    assert not group_means(nothing, torch.zeros(2, dtype=torch.int64))["text"].mask.any()


def test_fusemix_gives_both_modalities_the_same_partner():
    inputs = features()[0].gather(np.arange(10))
    partner, share = torch.randperm(10), 0.3
    mixed = mix_rows(inputs, partner, share)
    for name, tokens in inputs.items():
        for i, j in enumerate(partner.tolist()):
            assert_close(mixed[name].values[i], share * tokens.values[i] + (1 - share) * tokens.values[j])
            assert bool(mixed[name].mask[i]) == bool(tokens.mask[i] & tokens.mask[j])
    for share, rows in ((1.0, torch.arange(10)), (0.0, partner)):
        for name, tokens in mix_rows(inputs, partner, share).items():
            assert_close(tokens.values, inputs[name].values[rows])
    shares = torch.stack([draw_mix(4, 2.0, torch.device("cpu"))[1] for _ in range(2000)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / 20, abs=0.01)  # Beta(2, 2)


def test_mixed_captions_are_partners_where_both_their_photos_are_the_same():
    built = task(per_group="all", mix=1.0)
    torch.manual_seed(0)
    _, group = built.batch(np.arange(len(built._train)))
    torch.manual_seed(0)
    partner, _ = draw_mix(len(group), 1.0, torch.device("cpu"))
    whole = np.concatenate([np.flatnonzero(g == GROUP) for g in GROUP[GROUP < 16]])
    own = GROUP[whole]
    pairs = list(zip(own, own[partner.numpy()], strict=True))
    for i in range(0, len(group), 3):
        assert [bool(g == group[i]) for g in group] == [pair == pairs[i] for pair in pairs]


SETTINGS = [{"per_group": "all"}, {"per_group": "mean"}, {"mix": 1.0}, {"mix": 0.5, "per_group": "all"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("chunk", [0, 3])
def test_training_moves_and_repeats_itself(settings, chunk):
    made, split = features()
    config = {"epochs": 2, "batch_size": 5, "patience": 0, "schedule": "constant", "chunk": chunk, **settings}
    results = [AlignedModel.build(dims=made.dims, dim=4).state_dict()]
    for _ in range(2):
        model = AlignedModel.build(dims=made.dims, dim=4)
        fit_aligner(model, create_objective("infonce"), made, split, config, progress=False)
        results.append(model.state_dict())
    for name in results[0]:
        assert torch.equal(results[1][name], results[2][name])
    weight = "aligner.project.0.weight"
    assert not torch.equal(results[0][weight], results[1][weight])


def test_what_cannot_be_mixed_is_refused():
    made, split = features()
    ragged: Any = {"image": [np.ones((1 + i % 2, 8), np.float32) for i in range(len(GROUP))]}
    ragged["text"] = made.pooled(np.arange(len(GROUP)))["text"]
    uneven = MemoryFeatures(made.ids, ragged, {}, group=GROUP, task="retrieval")
    for settings in ({"mix": 1.0}, {"per_group": "mean"}):
        model = AlignedModel.build(dims=made.dims, dim=4)
        with pytest.raises(UserError, match="do not mix"):
            fit_aligner(model, create_objective("infonce"), uneven, split, settings, progress=False)


def test_settings_of_aligners_are_for_aligners():
    made, split = features()
    made.targets["y"], made.task = (GROUP % 2).astype(np.float32), "regression"
    model = FusedModel.build(dims=made.dims, task=create_task("regression", made.targets["y"]), fusion="gated", dim=4)
    for settings in ({"mix": 1.0}, {"per_group": "all"}, {"chunk": 2}, {"regularisers": {"structure": {}}}):
        with pytest.raises(UserError, match="is for aligners"):
            fit(model, made, split, settings, progress=False)
