"""The statistics against scipy, against slow loops from the formulas, and against examples done by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from weft.compare.statistics import (
    block_values,
    bootstrap_means,
    exchange_test,
    holm,
    interval,
    mean_of_seeds,
    paired_gain,
    sign_flip_test,
)
from weft.tasks.metrics import binary_auc


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_exact_sign_flips_equal_scipy(rng: np.random.Generator) -> None:
    a, b = rng.normal(0.4, 1, 11), rng.normal(0, 1, 11)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x - y, axis=axis)

    reference = stats.permutation_test((a, b), statistic, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(a - b) == pytest.approx(reference.pvalue, abs=1e-12)


def test_random_sign_flips_approach_the_exact_value(rng: np.random.Generator) -> None:
    d = rng.normal(0.3, 1, 18)
    exact = sign_flip_test(d, resamples=2**18)
    assert sign_flip_test(d, resamples=20_000) == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_groups_flip_together(rng: np.random.Generator) -> None:
    group = np.array(list("aabbbcddde"))
    d = rng.normal(0.5, 1, 10)
    sums = [d[group == g].sum() for g in "abcde"]
    hits = [
        abs(sum(s * e for s, e in zip(sums, signs, strict=True))) >= abs(sum(sums)) - 1e-12
        for signs in itertools.product((-1, 1), repeat=5)
    ]
    assert sign_flip_test(d, group) == np.mean(hits)


def test_no_difference_is_no_evidence() -> None:
    assert sign_flip_test(np.zeros(30)) == 1.0


def test_a_clear_difference_has_the_smallest_p_that_so_many_draws_allow() -> None:
    """None of 99 random sign patterns of 200 equal differences is as extreme: (1 + 0) / (1 + 99)."""
    assert sign_flip_test(np.ones(200), resamples=99) == 0.01


def test_copies_of_a_row_are_no_new_evidence(rng: np.random.Generator) -> None:
    d, copies = rng.normal(0.6, 1, 9), np.repeat(np.arange(9), 10)
    assert sign_flip_test(d[copies], copies) == sign_flip_test(d) > sign_flip_test(d[copies])


def test_p_values_of_random_data_are_uniform() -> None:
    p = [sign_flip_test(np.random.default_rng(i).normal(size=40), resamples=199) for i in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_holm_by_hand() -> None:
    # sorted: 0.01 * 4 = 0.04, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, 0.6 * 1 = 0.6
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.6, 0.02])), [0.06, 0.04, 0.6, 0.06])
    # 0.5 * 2 is cut at 1 and carried on
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])
    assert holm(np.array([])).shape == (0,)


def test_bootstrap_interval_equals_scipy(rng: np.random.Generator) -> None:
    scores = rng.exponential(size=(1, 80))
    ours = interval(bootstrap_means([scores], resamples=20_000)[0][:, 0])
    reference = stats.bootstrap(
        (scores[0],), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    np.testing.assert_allclose(ours, reference, atol=0.012)


def test_bootstrap_uses_the_same_rows_for_both_methods(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(2, 50))
    a, b = bootstrap_means([scores, scores + 1.0], resamples=300)
    np.testing.assert_allclose(b - a, 1.0)


def test_cluster_bootstrap_has_the_variance_of_groups(rng: np.random.Generator) -> None:
    """Ten copies of each row hold no more information than one."""
    values = rng.normal(size=60)
    copies, group = np.repeat(values, 10)[None], np.repeat(np.arange(60), 10)
    grouped = bootstrap_means([copies], group, resamples=4000)[0]
    alone = bootstrap_means([values[None]], resamples=4000)[0]
    assert grouped.std() == pytest.approx(alone.std(), rel=0.05)
    assert bootstrap_means([copies], resamples=4000)[0].std() < 0.5 * alone.std()


def test_block_values_of_a_mean_are_the_block_means(rng: np.random.Generator) -> None:
    """With one row per block they are the scores themselves."""
    scores = rng.normal(size=(3, 40))
    values = block_values(lambda rows: scores[:, rows].mean(axis=1), None, 40, blocks=40)
    np.testing.assert_allclose(np.sort(values, axis=1), np.sort(scores, axis=1))
    group = np.repeat(np.arange(8), 5)
    grouped = block_values(lambda rows: scores[:, rows].mean(axis=1), group, 40)
    np.testing.assert_allclose(np.sort(grouped), np.sort(scores.reshape(3, 8, 5).mean(axis=2)))


def test_block_values_give_the_interval_of_the_bootstrap(rng: np.random.Generator) -> None:
    """Average precision, against scipy's bootstrap, which evaluates it on every redrawn set of rows."""
    truth = rng.random(300) < 0.4
    score = truth + rng.normal(0, 1.2, 300)
    values = block_values(lambda rows: np.array([average_precision_score(truth[rows], score[rows])]), None, 300)
    ours = interval(bootstrap_means([values], resamples=4000)[0][:, 0])
    reference = stats.bootstrap(
        (truth, score), average_precision_score, paired=True, vectorized=False, n_resamples=600, method="percentile",
        random_state=0,
    ).confidence_interval  # fmt: skip
    assert ours[0] < average_precision_score(truth, score) < ours[1]
    width = reference.high - reference.low
    np.testing.assert_allclose(ours, reference, atol=0.2 * width)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_redrawn_seeds_have_the_unbiased_variance_of_their_mean(count: int, rng: np.random.Generator) -> None:
    seeds = rng.normal(size=count)
    drawn = mean_of_seeds(np.tile(seeds, (60_000, 1)), seed=0)
    assert drawn.var() == pytest.approx(seeds.var(ddof=1) / count, rel=0.03)


def test_one_seed_has_no_seed_variance() -> None:
    values = np.arange(5.0)[:, None]
    np.testing.assert_array_equal(mean_of_seeds(values, seed=0), values[:, 0])


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    """Rows and seeds both vary: truth 0.2, three training runs, 60 rows."""
    covered = 0
    for trial in range(300):
        rng = np.random.default_rng(trial)
        a = 0.2 + rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 1, 60) + rng.normal(0, 0.3, (3, 60))
        b = rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.3, (3, 60))
        draws = [mean_of_seeds(m, seed=k) for k, m in enumerate(bootstrap_means([a, b], resamples=400, seed=trial))]
        low, high = interval(draws[0] - draws[1])
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_exchange_of_a_mean_is_the_sign_flip_test(rng: np.random.Generator) -> None:
    """For a mean over rows both tests ask the same; groups change places as one."""
    a, b = rng.normal(0.25, 1, 60), rng.normal(0, 1, 60)
    group = np.repeat(np.arange(20), 3)

    def difference(swap: np.ndarray) -> float:
        return float((np.where(swap, b, a) - np.where(swap, a, b)).mean())

    for code in (None, group):
        exact = sign_flip_test(a - b, code, resamples=99_999)
        assert exchange_test(difference, 60, code) == pytest.approx(exact, abs=4 * np.sqrt(exact / 900) + 0.02)
    assert exchange_test(lambda swap: 0.0, 60) == 1.0


def test_a_clear_difference_takes_all_draws_and_none_stops_early(rng: np.random.Generator) -> None:
    calls = []

    def clear(swap: np.ndarray) -> float:
        calls.append(1)
        return float(1 - 2 * swap.mean())

    assert exchange_test(clear, 200, resamples=99) == 0.01
    assert len(calls) == 100
    calls.clear()
    noise = rng.normal(size=200)

    def nothing(swap: np.ndarray) -> float:
        calls.append(1)
        return float(np.where(swap, -noise, noise).sum() - 0.9 * noise.sum())

    assert exchange_test(nothing, 200) > 0.05
    assert len(calls) < 400


def test_p_values_of_a_whole_metric_are_uniform_under_the_null() -> None:
    """Two equally good scores for the same rows, judged by AUC: no more than 5 in 100 below .05 or so."""
    below = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        y = rng.random(60) < 0.4
        a, b = (y + rng.normal(0, 1.5, 60) for _ in range(2))

        def difference(swap: np.ndarray, y: np.ndarray = y, a: np.ndarray = a, b: np.ndarray = b) -> float:
            return binary_auc(y, np.where(swap, b, a)) - binary_auc(y, np.where(swap, a, b))

        below += exchange_test(difference, 60, resamples=199, seed=trial) < 0.05
    assert 2 <= below <= 20


def test_paired_gain_is_test_and_interval_in_one(rng: np.random.Generator) -> None:
    """p is that of the sign flips; seeds of both methods are drawn separately, so equal rows leave a width."""
    ours, theirs = rng.normal(0.4, 1, (3, 80)), rng.normal(0, 1, (2, 80))
    found = paired_gain(ours, theirs)
    assert found.p == sign_flip_test(ours.mean(axis=0) - theirs.mean(axis=0))
    assert found.gain == pytest.approx(ours.mean() - theirs.mean())
    assert found.low < found.gain < found.high
    flat = np.array([[0.1], [0.2], [0.3], [0.4]]) + np.zeros((4, 50))
    same = paired_gain(flat, flat)
    assert same.gain == 0
    assert same.high - same.low > 0.1
