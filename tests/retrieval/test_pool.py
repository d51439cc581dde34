"""Pools of several modalities: scores by hand, and a gap that must not decide."""

from __future__ import annotations

import numpy as np
import pytest

from weft.errors import UserError
from weft.retrieval.pool import mix_pool
from weft.retrieval.search import ExactIndex


def world() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Six subjects, pictures far from texts and spread less: items, bank, questions, the questions' subjects."""
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=(6, 16))

    def embed(rows: int, offset: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
        what = np.arange(rows) % 6
        x = offset + spread * (subjects[what] + 0.5 * rng.normal(size=(rows, 16)))
        return x / np.linalg.norm(x, axis=1, keepdims=True), what

    text, picture = 3 * rng.normal(size=(2, 16))
    items = {"text": embed(60, text, 1.0)[0], "picture": embed(60, picture, 0.5)[0]}
    asked, what = embed(30, text, 1.0)
    return items, embed(40, text, 1.0)[0], asked, what


def test_scores_are_those_of_the_formula():
    items, bank, asked, _ = world()
    pool = mix_pool(items, bank)
    hits = ExactIndex(pool.vectors, fingerprint="m", bias=pool.bias).search(asked, 120)
    centre, expected = bank.mean(axis=0), []
    for values in items.values():
        moved = [g - values.mean(axis=0) for g in values]
        units = [g / np.linalg.norm(g) for g in moved]
        spread = np.sqrt(np.mean([[((r - centre) @ g) ** 2 for g in units] for r in bank]))
        expected += [[(q - centre) @ g / spread for q in asked] for g in units]
    expected = np.array(expected).T
    np.testing.assert_allclose(np.take_along_axis(expected, hits.rows, axis=1), hits.scores, atol=1e-4)
    assert pool.modalities.tolist() == ["text"] * 60 + ["picture"] * 60
    for name in items:
        scores = (bank - centre) @ pool.vectors[pool.modalities == name].numpy().T
        assert (scores.mean(), scores.std()) == pytest.approx((0, 1), abs=1e-4)


def test_the_gap_does_not_decide():
    items, bank, asked, what = world()
    plain = ExactIndex(np.concatenate(list(items.values())), fingerprint="m").search(asked, 10).rows
    assert (plain < 60).mean() > 0.95, "texts find texts"
    pool = mix_pool(items, bank)
    rows = ExactIndex(pool.vectors, fingerprint="m", bias=pool.bias).search(asked, 10).rows
    assert 0.3 < (rows < 60).mean() < 0.7
    assert (rows % 6 == what[:, None]).mean() > 0.9, "of either modality, what was asked for"


def test_what_makes_no_pool_is_refused():
    items, bank, _, _ = world()
    with pytest.raises(UserError, match="'text' is 3 wide"):
        mix_pool({"text": items["text"][:, :3]}, bank)
    for few in (({"text": items["text"][:1]}, bank), (items, bank[:1])):
        with pytest.raises(UserError, match="that differ"):
            mix_pool(*few)
