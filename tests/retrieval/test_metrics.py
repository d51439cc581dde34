"""Retrieval metrics against the full matrix, sorted row by row with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from weft.errors import UserError
from weft.retrieval.metrics import Positives, cross_modal_metrics, rank, retrieval_metrics


def brute_force(queries: np.ndarray, gallery: np.ndarray, lists: list[list[int]], ties: str, ks: tuple[int, ...]):
    """Order the whole gallery for every query; ties by the rule (mean: halfway between the two orders)."""
    first, precision, r_precision = [], [], []
    for query, right in zip(queries, lists, strict=True):
        s = np.array([float(np.dot(query, item)) for item in gallery])
        wrong = [g for g in range(len(gallery)) if g not in right]

        best, worst = (
            np.array([1 + place for place, g in enumerate(order) if g in right], dtype=float)
            for order in (
                sorted(range(len(gallery)), key=lambda g, s=s, wrong=wrong: (-s[g], g in wrong)),
                sorted(range(len(gallery)), key=lambda g, s=s, wrong=wrong: (-s[g], g not in wrong)),
            )
        )
        found = {"optimistic": best, "pessimistic": worst, "mean": (best + worst) / 2}[ties]
        first.append(found[0])
        precision.append(np.mean([(j + 1) / r for j, r in enumerate(found)]))
        r_precision.append(sum(r <= len(right) for r in found) / len(right))
    return {
        **{f"R@{k}": np.mean([f <= k for f in first]) for k in ks},
        "median rank": np.median(first),
        "mean rank": np.mean(first),
        "mAP": np.mean(precision),
        "R-precision": np.mean(r_precision),
    }


def tied_problem(seed: int, queries: int = 23, gallery: int = 31, most: int = 4):
    rng = np.random.default_rng(seed)
    q, g = rng.integers(-2, 3, (queries, 3)).astype(np.float32), rng.integers(-2, 3, (gallery, 3)).astype(np.float32)
    lists = [sorted(rng.choice(gallery, rng.integers(1, most + 1), replace=False).tolist()) for _ in range(queries)]
    return q, g, lists


@pytest.mark.parametrize("ties", ["optimistic", "mean", "pessimistic"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 23, 1000])
def test_equals_the_full_matrix_with_ties_and_several_positives(ties, chunk):
    q, g, lists = tied_problem(0)
    found = retrieval_metrics(q, g, lists, (1, 2, 5), chunk=chunk, ties=ties)
    assert found == pytest.approx(brute_force(q, g, lists, ties, (1, 2, 5)), abs=1e-12)


@pytest.mark.parametrize("ties", ["optimistic", "mean", "pessimistic"])
@pytest.mark.parametrize("chunk", [4, 100])
def test_many_positives_take_the_sorting_path(ties, chunk):
    q, g, lists = tied_problem(1, queries=9, gallery=90, most=60)
    assert max(map(len, lists)) > 32
    found = retrieval_metrics(q, g, lists, (1, 5), chunk=chunk, ties=ties)
    assert found == pytest.approx(brute_force(q, g, lists, ties, (1, 5)), abs=1e-12)


def test_average_precision_is_scikit_learns_where_nothing_ties():
    rng = np.random.default_rng(2)
    q, g = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    lists = [rng.choice(60, rng.integers(1, 9), replace=False).tolist() for _ in range(40)]
    truth = np.zeros((40, 60))
    for row, right in enumerate(lists):
        truth[row, right] = 1
    expected = [average_precision_score(t, s) for t, s in zip(truth, q @ g.T, strict=True)]
    np.testing.assert_allclose(rank(q, g, lists, chunk=16).average_precision, expected, rtol=1e-12)


@pytest.mark.parametrize("ties", ["optimistic", "mean", "pessimistic"])
def test_repeated_real_vectors_tie_at_every_chunk_size(ties):
    """A matrix product may give equal columns different last bits, depending on their place in the block."""
    rng = np.random.default_rng(3)
    q = rng.normal(size=(37, 64)).astype(np.float32)
    g = rng.normal(size=(20, 64)).astype(np.float32)[rng.integers(0, 20, 101)]
    lists = [[int(rng.integers(0, 101))] for _ in range(37)]
    whole = rank(q, g, lists, chunk=1000, ties=ties)
    for chunk in (1, 2, 3, 5, 11):
        for a, b in zip(rank(q, g, lists, chunk=chunk, ties=ties), whole, strict=True):
            np.testing.assert_array_equal(a, b)
    copies = [(g == g[right[0]]).all(axis=1).sum() for right in lists]
    best, worst = (rank(q, g, lists, ties=t).first for t in ("optimistic", "pessimistic"))
    np.testing.assert_array_equal(worst - best, np.array(copies) - 1)


def test_a_collapsed_model_scores_at_chance_and_not_perfectly():
    q, g = np.ones((50, 4)), np.ones((101, 4))
    positives = np.arange(50)
    assert retrieval_metrics(q, g, positives)["median rank"] == 51
    assert retrieval_metrics(q, g, positives)["R@1"] == 0
    assert retrieval_metrics(q, g, positives, ties="optimistic")["R@1"] == 1
    assert retrieval_metrics(q, g, positives, ties="pessimistic")["mean rank"] == 101


def test_groups_are_positives_of_each_other():
    ours, theirs = np.array(["b", "a", "c", "b"]), np.array(["a", "b", "b", "c", "a"])
    p = Positives.from_groups(ours, theirs)
    found = [sorted(p.items[s : s + n].tolist()) for s, n in zip(p.starts, p.sizes, strict=True)]
    assert found == [[1, 2], [0, 4], [3], [1, 2]]


def test_both_directions_and_the_sum_of_recalls():
    rng = np.random.default_rng(4)
    image = rng.normal(size=(12, 6))
    text = np.repeat(image, 3, axis=0) + rng.normal(size=(36, 6))
    groups = {"image": np.arange(12), "text": np.repeat(np.arange(12), 3)}
    found = cross_modal_metrics({"text": text, "image": image}, groups, ks=(1, 5), chunk=5)
    there = brute_force(text, image, [[i // 3] for i in range(36)], "mean", (1, 5))
    back = brute_force(image, text, [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(12)], "mean", (1, 5))
    assert {k: v for k, v in found.items() if k.startswith("text")} == pytest.approx(
        {f"text->image {k}": v for k, v in there.items()}
    )
    assert {k: v for k, v in found.items() if k.startswith("image")} == pytest.approx(
        {f"image->text {k}": v for k, v in back.items()}
    )
    assert found["sum of recalls"] == pytest.approx(there["R@1"] + there["R@5"] + back["R@1"] + back["R@5"])


def test_tensors_arrays_and_half_precision_agree():
    q, g, lists = tied_problem(5)
    expected = retrieval_metrics(q, g, lists)
    assert retrieval_metrics(torch.from_numpy(q), torch.from_numpy(g), lists) == expected
    assert retrieval_metrics(q.astype(np.float16), g.astype(np.float16), lists) == expected


def test_mistakes_name_the_rows():
    q, g = np.ones((4, 3)), np.ones((6, 3))
    with pytest.raises(UserError, match="rows 2 of 4"):
        retrieval_metrics(np.where(np.arange(4)[:, None] == 2, np.nan, q), g, [0, 1, 2, 3])
    with pytest.raises(UserError, match="queries 1 have none"):
        retrieval_metrics(q, g, [[0], [], [1], [2]])
    with pytest.raises(UserError, match="rows of the gallery"):
        retrieval_metrics(q, g, [0, 1, 2, 6])
    with pytest.raises(UserError, match="widths 3 and 2"):
        retrieval_metrics(q, g[:, :2], [0, 1, 2, 3])
    with pytest.raises(UserError, match="3 entries for 4 queries"):
        retrieval_metrics(q, g, [0, 1, 2])
    with pytest.raises(UserError, match="did you mean 'mean'"):
        retrieval_metrics(q, g, [0, 1, 2, 3], ties="meen")
    with pytest.raises(UserError, match="two modalities"):
        cross_modal_metrics({"a": q}, np.arange(4))
