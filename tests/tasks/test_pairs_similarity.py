"""Pair tables by counting, and tolerance curves by a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from weft.errors import UserError
from weft.tasks.pairs import pair_metrics, pair_scores
from weft.tasks.similarity import TOLERANCES, score_classes, similarity_metrics, tolerance_curves, tolerance_figure


def test_the_table_equals_counting() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.uniform(0.7, 1, 200)
    scores[:3] = 0.9
    row = pair_metrics(scores, labels)
    guess = [int(s >= 0.9) for s in scores]
    assert row["accuracy"] == pytest.approx(np.mean([g == t for g, t in zip(guess, labels, strict=True)]))
    for k, name in enumerate(("dissimilar", "similar")):
        right = sum(g == t == k for g, t in zip(guess, labels, strict=True))
        precision, recall = right / guess.count(k), right / labels.tolist().count(k)
        assert row[f"{name} precision"] == pytest.approx(precision)
        assert row[f"{name} recall"] == pytest.approx(recall)
        assert row[f"{name} F1"] == pytest.approx(2 * precision * recall / (precision + recall))
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert row["AUC"] == pytest.approx(np.mean(wins))


def test_a_class_never_predicted_scores_zero() -> None:
    row = pair_metrics(np.array([0.1, 0.2]), np.array([0, 1]))
    assert (row["similar precision"], row["similar recall"], row["similar F1"]) == (0, 0, 0)


def test_cosines_and_mistakes() -> None:
    a, b = np.array([[3.0, 0], [1, 1], [0, 0]]), np.array([[2.0, 0], [-1, -1], [1, 0]])
    np.testing.assert_allclose(pair_scores(a, b), [1, -1, 0])
    assert pair_scores(a[:1], b[:1]).shape == (1,), "a single pair is a pair"
    with pytest.raises(UserError, match="one space"):
        pair_scores(a, b[:, :1])
    with pytest.raises(UserError, match="rows 1"):
        pair_scores(np.array([[1.0], [np.nan]]), np.ones((2, 1)))
    with pytest.raises(UserError, match="0 and 1"):
        pair_metrics(np.ones(2), np.array([1, 1]))
    with pytest.raises(UserError, match="0 and 1"):
        pair_metrics(np.ones(2), np.array([1, 2]))


def test_curves_equal_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    gold = np.concatenate([rng.uniform(0, 4, 60), [0, 1, 2, 3, 4]])
    scores = gold / 5 + 0.2 * rng.normal(size=65)
    curves = tolerance_curves(scores, gold)
    bounds = [(-1, 1), (1, 2), (2, 3), (3, 4)]
    for k, (low, high) in enumerate(bounds):
        rows = [i for i in range(65) if low < gold[i] <= high]
        assert all(score_classes(gold)[rows] == k)
        for e in (0, 10, 99):
            share = np.mean([abs(scores[i] - gold[i] / 5) <= TOLERANCES[e] for i in rows])
            assert curves[k, e] == pytest.approx(share)
    assert np.isnan(curves[4]).all(), "no pair above 4"
    metrics = similarity_metrics(scores, gold)
    assert metrics["Pearson"] == pytest.approx(np.corrcoef(scores, gold)[0, 1])
    ranks = [np.argsort(np.argsort(x)) for x in (scores, gold)]
    assert metrics["Spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-3)
    assert tolerance_figure({"one": scores, "two": gold / 5}, gold, tmp_path).stat().st_size > 10_000
    with pytest.raises(UserError, match="rows 1"):
        score_classes(np.array([5.0, 5.1]))
