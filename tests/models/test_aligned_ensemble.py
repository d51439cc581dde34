"""Averages of aligners: products are weighted means of cosines, folders come back whole, weights chosen greedily."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.test_aligned import pairs
from weft.alignment import create_objective
from weft.errors import UserError
from weft.models import AlignedModel, load_model
from weft.models.aligned_ensemble import AlignedEnsemble, choose_weights, joined
from weft.training import fit_aligner


def members():
    features, split = pairs()
    models = []
    for name, dim in (("whitened", 6), ("procrustes", 4), ("two-tower", 5)):
        model = AlignedModel.build(dims=features.dims, aligner=name, dim=dim)
        fit_aligner(model, create_objective("infonce"), features, split, {"epochs": 1}, progress=False)
        models.append(model.eval())
    return features, split, models


def test_products_are_the_weighted_means_of_cosines_and_the_folder_is_the_model(tmp_path):
    features, split, models = members()
    both = AlignedEnsemble(models, [1, 2, 1]).eval()
    parts, z = [m.embed(features, split.test) for m in models], both.embed(features, split.test)
    a, b = features.dims
    expected = sum(w * p[a] @ p[b].T for w, p in zip((0.25, 0.5, 0.25), parts, strict=True))
    np.testing.assert_allclose(z[a] @ z[b].T, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(z[a], axis=1), 1, atol=1e-5)
    for name, vectors in joined(parts, np.array([1, 2, 1])).items():
        np.testing.assert_allclose(z[name], vectors, atol=1e-6)
    both.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, AlignedEnsemble)
    assert all(np.array_equal(v, z[n]) for n, v in again.embed(features, split.test).items())
    assert again.evaluate(features, split.test) == both.evaluate(features, split.test)
    with pytest.raises(UserError, match="an ensemble of 3 aligners"):
        both.predict_modality(features, a, b)


def test_one_weight_is_that_member():
    features, split, models = members()
    alone = AlignedEnsemble(models[:1], [3.0]).embed(features, split.test)
    assert all(np.allclose(v, alone[n]) for n, v in models[0].embed(features, split.test).items())


def test_the_greedy_choice_takes_what_raises_the_score_and_no_more():
    kinds = [{0}, {1}, {0}, {2}]

    def score(weights):
        known = set().union(*(kinds[m] for m in np.flatnonzero(weights)))
        return len(known & {0, 1}) - 0.5 * len(known & {2})

    assert choose_weights(4, score).tolist() == [1, 1, 0, 0]
    assert choose_weights(4, score, steps=1).tolist() == [1, 0, 0, 0]


def test_what_is_refused():
    _, _, models = members()
    for chosen, weights in (([], []), (models, [1, 0, 1]), (models, [1])):
        with pytest.raises(UserError, match="weight above 0"):
            AlignedEnsemble(chosen, weights)
    other = AlignedModel.build(dims={"x": 3, "y": 3}, aligner="procrustes", dim=2)
    with pytest.raises(UserError, match="same modalities"):
        AlignedEnsemble([models[0], other], [1, 1])
