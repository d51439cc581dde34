"""Aligners with a closed form in the training room: solved at once, or solved on top of trained networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.test_aligned import pairs
from weft.alignment import create_objective
from weft.data import make_splits
from weft.errors import UserError
from weft.models import AlignedModel
from weft.ops.correlation import cca_of_rows
from weft.training import fit_aligner
from weft.training.train import train_model


@pytest.mark.parametrize("name", ["cca", "procrustes", "ridge"])
def test_solved_on_the_standardised_training_rows_and_saved(name, tmp_path):
    features, split = pairs(captions=2)
    model = AlignedModel.build(dims=features.dims, aligner=name, dim=6)
    before = model.evaluate(features, split.test)["sum of recalls"]
    history = fit_aligner(model, create_objective("infonce"), features, split, None, tmp_path, progress=False)
    after = model.evaluate(features, split.test)["sum of recalls"]
    assert after > before + 0.5
    assert len(history.epochs) == 1
    assert history.best["dev_score"] == pytest.approx(model.evaluate(features, split.dev)["sum of recalls"])
    again = AlignedModel.from_pretrained(tmp_path).embed(features)
    for modality, vectors in model.embed(features).items():
        assert np.array_equal(vectors, again[modality])


def test_cca_is_that_of_the_training_rows_alone(tmp_path):
    features, split = pairs()
    model = AlignedModel.build(dims=features.dims, aligner="cca", dim=6, aligner_options={"shrinkage": 1e-4})
    fit_aligner(model, create_objective("infonce"), features, split, progress=False)
    rows = [torch.from_numpy(x).double() for x in features.pooled(split.train).values()]
    standard = [(x - x.mean(dim=0)) / x.var(dim=0, unbiased=False).mean().sqrt() for x in rows]
    for name, expected in zip(model.names, cca_of_rows(*standard, 6).projections, strict=True):
        torch.testing.assert_close(model.aligner.solution(name)[1], expected.float(), rtol=1e-3, atol=1e-4)


def test_scaling_is_by_feature_or_by_modality():
    features, split = pairs()
    rows = features.pooled(split.train)
    for scaling, aligner in ((None, "whitened"), ("modality", "two-tower"), ("feature", "whitened")):
        model = AlignedModel.build(dims=features.dims, aligner=aligner, dim=6, scaling=scaling)
        fit_aligner(model, create_objective("infonce"), features, split, {"epochs": 1}, progress=False)
        for name, x in rows.items():
            expected = x.std(axis=0) if scaling == "feature" else np.full(x.shape[1], np.sqrt(x.var(axis=0).mean()))
            np.testing.assert_allclose(model.standardise.statistics(name)[1], expected, rtol=1e-5)
    with pytest.raises(UserError, match="unknown scaling"):
        AlignedModel.build(dims=features.dims, aligner="whitened", dim=6, scaling="rows")


def test_whitened_chooses_by_the_recalls_of_folds_of_groups(tmp_path):
    features, split = pairs(captions=2)
    model = AlignedModel.build(dims=features.dims, aligner="whitened", dim=6)
    fit_aligner(model, create_objective("infonce"), features, split, None, tmp_path, progress=False)
    fixed = AlignedModel.build(dims=features.dims, aligner="whitened", dim=6, aligner_options={"choose": "fixed"})
    fit_aligner(fixed, create_objective("infonce"), features, split, progress=False)
    assert model.aligner.setting != fixed.aligner.setting
    assert model.evaluate(features, split.test)["sum of recalls"] > 3
    assert AlignedModel.from_pretrained(tmp_path).aligner.setting == model.aligner.setting


def test_deep_cca_is_solved_before_every_evaluation_and_resumes_exactly(tmp_path):
    features, split = pairs()
    settings = {"epochs": 3, "patience": 0, "batch_size": 50, "checkpoint_seconds": 0, "log_every": 1}

    def run(objective, folder=None):
        model = AlignedModel.build(dims=features.dims, aligner="deep-cca", dim=6, aligner_options={"hidden": 16})
        return model, fit_aligner(model, objective, features, split, settings, folder, progress=False)

    model, whole = run(create_objective("deep-cca"))
    assert whole.best["dev_score"] == pytest.approx(model.evaluate(features, split.dev)["sum of recalls"])
    assert model.evaluate(features, split.test)["text->image R@10"] > 0.6

    class Interrupted(type(create_objective("deep-cca"))):
        calls = 0

        def forward(self, a, b, valid):
            self.calls += self.training
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().forward(a, b, valid)

        def __repr__(self):
            return repr(create_objective("deep-cca"))

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), tmp_path)
    _, resumed = run(create_objective("deep-cca"), tmp_path)
    for one, other in zip(whole.epochs, resumed.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_train_model_takes_the_objective_that_suits_the_aligner(tmp_path):
    features, _ = pairs()
    settings = {"epochs": 1, "batch_size": 64}
    train_model(features, "deep-cca", tmp_path, dim=4, config=settings, progress=False)
    with pytest.raises(UserError, match="another"):
        train_model(features, "deep-cca", tmp_path, dim=4, objective="infonce", config=settings, progress=False)
    with pytest.raises(UserError, match="holds a training run"):
        train_model(features, "cca", tmp_path, dim=6, progress=False)
    figures = train_model(features, "cca", tmp_path / "cca", dim=6, progress=False)
    assert figures["test"].keys() == figures["dev"].keys()
    assert len(make_splits(features).test)


def test_a_space_that_is_too_wide_says_so(tmp_path):
    features, _ = pairs()
    with pytest.raises(UserError, match="dim=8 or less"):
        train_model(features, "cca", tmp_path, dim=50, progress=False)
