"""Retrieval metrics against the full matrix, sorted row by row with plain loops; ties against all their orders."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from weft.errors import UserError
from weft.retrieval.metrics import Positives, cross_modal_metrics, rank, retrieval_metrics

RULES = ["optimistic", "mean", "pessimistic"]
FIELDS = ("first", "average_precision", "r_precision", "hits", "recall", "precision", "ndcg")


def judge(order: list[int], grades: dict[int, float], ks: tuple[int, ...]) -> list[float]:
    """The metrics of one query whose gallery stands in this order, by the textbook."""
    places = [place for place, item in enumerate(order, 1) if item in grades]
    ideal = sorted(grades.values(), reverse=True)
    found = [float(places[0])]
    found.append(float(np.mean([(j + 1) / place for j, place in enumerate(places)])))
    found.append(sum(place <= len(grades) for place in places) / len(grades))
    found += [float(places[0] <= k) for k in ks]
    found += [sum(place <= k for place in places) / len(grades) for k in ks]
    found += [sum(place <= k for place in places) / k for k in ks]
    for k in ks:
        gain = sum(grades.get(item, 0.0) / np.log2(1 + place) for place, item in enumerate(order[:k], 1))
        found.append(gain / sum(g / np.log2(1 + place) for place, g in enumerate(ideal[:k], 1)))
    return found


def textbook(query: np.ndarray, gallery: np.ndarray, grades: dict[int, float], ties: str, ks: tuple[int, ...]):
    """Metrics of one query; with ties at random, the mean over every order of the gallery that sorts it."""
    s = [float(np.dot(query, item)) for item in gallery]
    if ties != "mean":
        sign = -1 if ties == "optimistic" else 1
        order = sorted(range(len(gallery)), key=lambda g: (-s[g], sign * grades.get(g, 0.0)))
        return np.array(judge(order, grades, ks))
    orders = [o for o in permutations(range(len(gallery))) if all(s[x] >= s[y] for x, y in pairwise(o))]
    return np.mean([judge(list(order), grades, ks) for order in orders], axis=0)


def flat(ranking) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(ranking, f)).reshape(len(ranking.first), -1) for f in FIELDS], axis=1)


def tied_problem(seed: int, queries: int = 23, gallery: int = 31, most: int = 4):
    rng = np.random.default_rng(seed)
    q, g = rng.integers(-2, 3, (queries, 3)).astype(np.float32), rng.integers(-2, 3, (gallery, 3)).astype(np.float32)
    lists = [sorted(rng.choice(gallery, rng.integers(1, most + 1), replace=False).tolist()) for _ in range(queries)]
    return q, g, lists


@pytest.mark.parametrize("ties", RULES)
@pytest.mark.parametrize("graded", [False, True])
def test_equals_all_orders_of_the_ties(ties, graded):
    rng = np.random.default_rng(0)
    q, g = rng.integers(-1, 2, (12, 2)).astype(np.float32), rng.integers(-1, 2, (6, 2)).astype(np.float32)
    judged = [
        {int(i): float(rng.integers(1, 4)) if graded else 1.0 for i in rng.choice(6, rng.integers(1, 5), False)}
        for _ in q
    ]
    expected = np.stack([textbook(x, g, grades, ties, (1, 2, 4)) for x, grades in zip(q, judged, strict=True)])
    for chunk in (1, 5, 100):
        found = rank(q, g, Positives.from_grades(judged), (1, 2, 4), chunk=chunk, ties=ties)
        np.testing.assert_allclose(flat(found), expected, atol=1e-12)


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 23, 1000])
@pytest.mark.parametrize("most", [4, 60], ids=["few positives", "many take the sorting path"])
def test_equals_the_full_matrix(ties, chunk, most):
    q, g, lists = tied_problem(0, queries=9, gallery=90, most=most)
    ks = (1, 2, 5, 200)
    expected = [textbook(x, g, dict.fromkeys(right, 1.0), ties, ks) for x, right in zip(q, lists, strict=True)]
    np.testing.assert_allclose(flat(rank(q, g, lists, ks, chunk=chunk, ties=ties)), np.stack(expected), atol=1e-12)


def test_random_orders_have_the_expected_metrics():
    q, g, lists = tied_problem(1, queries=6, gallery=80, most=50)
    found = rank(q, g, lists, (1, 5, 20), chunk=4)
    rng, s = np.random.default_rng(0), q @ g.T
    draws = []
    for _ in range(3000):
        shuffle = rng.random(80)
        draws.append([
            judge(np.lexsort((shuffle, -row)).tolist(), dict.fromkeys(right, 1.0), (1, 5, 20))
            for row, right in zip(s, lists, strict=True)
        ])  # fmt: skip
    error = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(flat(found) - np.mean(draws, axis=0)) <= 5 * error + 1e-9).all()


def test_the_jth_of_p_positives_among_n_tied_negatives():
    """1,000 equal similarities, 5 of them right: the first stands at (n + P + 1) / (P + 1) = 166.8."""
    found = rank(np.ones((1, 4)), np.ones((1000, 4)), [[3, 50, 51, 700, 999]])
    assert found.first[0] == pytest.approx(1001 / 6)
    assert found.recall[0] == pytest.approx([0.001, 0.005, 0.01])


def test_items_of_grade_0_are_negatives():
    assert Positives.from_grades([{1: 0.0, 2: 0.5}]).items.tolist() == [2]


def test_average_precision_and_ndcg_are_scikit_learns():
    rng = np.random.default_rng(2)
    q, g = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    truth = np.zeros((40, 60))
    for row in truth:
        row[rng.choice(60, rng.integers(1, 9), replace=False)] = rng.integers(1, 5)
    judged = Positives.from_grades([{i: v for i, v in enumerate(row) if v} for row in truth])
    found = rank(q, g, judged, (1, 10, 60), chunk=16)
    expected = [average_precision_score(t > 0, s) for t, s in zip(truth, q @ g.T, strict=True)]
    np.testing.assert_allclose(found.average_precision, expected, rtol=1e-12)
    for place, k in enumerate((1, 10, 60)):
        np.testing.assert_allclose(found.ndcg[:, place].mean(), ndcg_score(truth, q @ g.T, k=k), rtol=1e-12)
    tied_q, tied_g = np.round(q), np.round(g)
    tied = rank(tied_q, tied_g, judged, (10,), chunk=16).ndcg.mean()
    assert tied == pytest.approx(ndcg_score(truth, tied_q @ tied_g.T, k=10), rel=1e-12)


@pytest.mark.parametrize("ties", RULES)
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
    chance = retrieval_metrics(q, g, positives)
    assert chance["median rank"] == 51
    assert chance["R@1"] == pytest.approx(1 / 101)
    assert chance["mAP"] == pytest.approx(np.mean(1 / np.arange(1, 102)))
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
    there = retrieval_metrics(text, image, [[i // 3] for i in range(36)], (1, 5))
    back = retrieval_metrics(image, text, [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(12)], (1, 5))
    expected = {f"text->image {k}": v for k, v in there.items()} | {f"image->text {k}": v for k, v in back.items()}
    total = there["R@1"] + there["R@5"] + back["R@1"] + back["R@5"]
    assert found == pytest.approx({**expected, "sum of recalls": total})


def test_a_query_without_a_positive_is_refused_left_out_or_a_failure():
    q, g, lists = tied_problem(6)
    some, none = [*lists, []], np.concatenate([q, q[:1]])
    with pytest.raises(UserError, match="queries 23 have none"):
        retrieval_metrics(none, g, some)
    alone = retrieval_metrics(q, g, lists)
    assert retrieval_metrics(none, g, some, empty="skip") == pytest.approx(alone)
    assert np.isnan(rank(none, g, some, empty="skip").first[-1])
    failed = retrieval_metrics(none, g, some, empty="zero")
    for name in ("R@5", "recall@5", "precision@5", "nDCG@5", "mAP", "R-precision"):
        assert failed[name] == pytest.approx(alone[name] * 23 / 24)
    assert failed["mean rank"] == np.inf
    with pytest.raises(UserError, match="no query has a positive"):
        retrieval_metrics(q, g, [[]] * 23, empty="skip")
    with pytest.raises(UserError, match="did you mean 'skip'"):
        retrieval_metrics(q, g, lists, empty="skp")


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
    with pytest.raises(UserError, match="cuts of a ranking"):
        retrieval_metrics(q, g, [0, 1, 2, 3], (0, 5))
    with pytest.raises(UserError, match="queries 1 have others"):
        Positives.from_grades([{0: 1.0}, {2: float("nan")}])
    with pytest.raises(UserError, match="two modalities"):
        cross_modal_metrics({"a": q}, np.arange(4))
