r"""The statistics of a comparison: one paired test, one interval, one correction for many tests.

``N`` test rows in ``G`` groups (rows of one group are dependent; without groups every row is its own), ``S`` seeds.

**Paired test.** ``d_i`` is the score of row ``i`` under A minus under B, each averaged over its seeds, and ``D_g`` its
sum over a group. If A and B are exchangeable, the sign of every ``D_g`` is a coin toss (Fisher's randomisation test,
the paired permutation test of ``scipy.stats.permutation_test(permutation_type="samples")``):

.. math:: p = P_\epsilon\big(|\textstyle\sum_g \epsilon_g D_g| \ge |\sum_g D_g|\big), \qquad \epsilon_g \in \{-1, +1\}

exact over all ``2^G`` signs while there are at most ``resamples`` of them, else by ``R`` random draws with
``p = (1 + #) / (1 + R)``, which is valid for any ``R`` (Phipson and Smyth 2010). Groups with ``D_g = 0`` do not matter.

A metric that is no mean over rows (AUC, kappa, F1) is tested as a whole: ``d`` is the metric under A minus under B, the
mean over seeds, and a coin per group exchanges the answers of A and B in its rows. That costs an evaluation per draw,
so it stops after ``ENOUGH`` draws that are as extreme, with ``p = # / draws`` (Besag and Clifford 1991), valid as well:
a clear difference takes all ``R`` draws, no difference takes a few dozen.

**Interval.** The percentile bootstrap over two levels: the groups are drawn with replacement (``G`` of ``G``, the
cluster bootstrap of Davison and Hinkley 1997, section 3.8), and so are the seeds of each method, ``S - 1`` of ``S``,
which makes the variance of their mean unbiased for few seeds (Rao and Wu 1988). The interval therefore covers new rows
*and* new training runs; with one seed it covers rows alone.

A metric that is no function of a mean is made one first: with the groups dealt to ``B`` blocks and ``t_(-b)`` the
metric without block ``b``, the values ``t + (B - 1) (mean t_(-b) - t_(-b))`` (Tukey's jackknife pseudo-values, centred
at ``t``) take the place of the rows' scores. That needs ``B + 1`` evaluations instead of ``R``.

**Many tests.** Holm 1979: with sorted ``p_(1) <= ... <= p_(m)``, adjusted ``q_(k) = max_{j <= k} min(1, (m - j + 1)
p_(j))``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
"""A p-value below this counts as a difference."""
RESAMPLES = 9999
BLOCKS = 40
ENOUGH = 20
WHOLE = 499
"""Draws at most where each costs an evaluation of the metric."""
Z_LEVEL, Z_SIDE, Z_POWER = 1.95996, 1.64485, 0.84162
"""Normal quantiles of a two-sided and a one-sided 5 %, and of a power of 80 %."""
CHUNK = 2_000_000
"""Random signs or weights held at once."""


@dataclass(frozen=True)
class Gain:
    """A against B on the test rows; positive means that A is better.

    Attributes:
        gain: in the primary metric.
        low, high: its 95 % interval, over rows and seeds.
        p: two-sided, of the paired test.
    """

    gain: float
    low: float
    high: float
    p: float

    def __neg__(self) -> Gain:
        """B against A."""
        return Gain(-self.gain, -self.high, -self.low, self.p)

    @property
    def smallest(self) -> float:
        """The smallest gain that a test of this precision shows (two-sided, 5 %) in 80 of 100 cases: 2.80 standard
        errors, of which the interval spans 3.92."""
        return (Z_LEVEL + Z_POWER) * (self.high - self.low) / (2 * Z_LEVEL)


def sign_flip_test(
    difference: np.ndarray, group: np.ndarray | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p-value of the paired sign-flip test that the mean difference is zero.

    Args:
        difference: ``(N,)`` score of A minus score of B, row by row.
        group: ``(N,)``; rows of one group keep a common sign.
        resamples: random draws, where there are more sign patterns than that.
        seed: of the draws.
    """
    sums = group_sums(np.asarray(difference, dtype=np.float64)[:, None], group)[0][:, 0]
    scale = np.abs(sums).max(initial=0.0)
    sums = sums[np.abs(sums) > 1e-12 * scale]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) * (1 - 1e-9)
    if 2 ** min(len(sums), 62) <= resamples:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float((np.abs((2.0 * patterns - 1.0) @ sums) >= observed).mean())
    rng, hits, step = np.random.default_rng(seed), 0, max(1, CHUNK // len(sums))
    for start in range(0, resamples, step):
        signs = rng.integers(0, 2, size=(min(step, resamples - start), len(sums)), dtype=np.int8)
        hits += int((np.abs((2.0 * signs - 1.0) @ sums) >= observed).sum())
    return (1 + hits) / (1 + resamples)


def exchange_test(
    difference: Callable[[np.ndarray], float],
    rows: int,
    group: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the paired exchange test of a whole metric.

    Args:
        difference: ``(N,)`` bool, the rows in which A and B change places, to the metric of A minus that of B.
        rows: ``N``.
        group: ``(N,)``; rows of one group change places together.
        resamples: random draws, at most ``WHOLE``.
        seed: of the draws.
    """
    code = np.arange(rows) if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
    observed = abs(difference(np.zeros(rows, dtype=bool)))
    if not observed > 0:
        return 1.0
    rng, hits, most = np.random.default_rng(seed), 0, min(resamples, WHOLE)
    for drawn in range(1, most + 1):
        found = abs(difference(rng.random(code.max() + 1)[code] < 0.5))
        hits += not found < observed * (1 - 1e-9)  # an undefined metric speaks against a difference
        if hits == ENOUGH:
            return hits / drawn
    return (1 + hits) / (1 + most)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm-adjusted p-values ``(m,)``, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order]))
    result = np.empty_like(p)
    result[order] = adjusted
    return result


def not_told_apart(names: Sequence[str], p_value: Callable[[str, str], float]) -> list[str]:
    """Of methods, the best first: it, and those that paired tests do not tell apart from it (Holm, 5 %)."""
    p = [p_value(names[0], name) for name in names[1:]]
    return [*names[:1], *(name for name, q in zip(names[1:], holm(np.array(p)), strict=True) if q >= LEVEL)]


def group_sums(values: np.ndarray, group: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums ``(G, S)`` of values ``(N, S)`` over the rows of each group, and the group sizes ``(G,)``."""
    if group is None:
        return values, np.ones(len(values))
    code = np.unique(group, return_inverse=True)[1].reshape(-1)
    sums = np.zeros((code.max() + 1, values.shape[1]))
    np.add.at(sums, code, values)
    return sums, np.bincount(code).astype(np.float64)


def bootstrap_means(
    scores: list[np.ndarray], group: np.ndarray | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[np.ndarray]:
    """Mean score of every seed of every method under the same redrawn groups.

    Args:
        scores: one ``(S_k, N)`` per method.
        group: ``(N,)``.
        resamples: ``R``.
        seed: of the draws.

    Returns:
        One ``(R, S_k)`` per method; row ``r`` of all of them comes from the same rows.
    """
    stacked = np.concatenate(scores).T
    sums, sizes = group_sums(stacked, group)
    rng, count = np.random.default_rng(seed), len(sizes)
    means, step = [], max(1, CHUNK // count)
    for start in range(0, resamples, step):
        draws = rng.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - start)).astype(np.float64)
        means.append((draws @ sums) / (draws @ sizes)[:, None])
    return np.split(np.concatenate(means), np.cumsum([len(s) for s in scores])[:-1], axis=1)


def block_values(
    metric: Callable[[np.ndarray], np.ndarray],
    group: np.ndarray | None,
    rows: int,
    *,
    blocks: int = BLOCKS,
    seed: int = 0,
) -> np.ndarray:
    """Values ``(S, B)`` whose mean is the metric and whose spread is its own, for metrics that are no mean.

    Args:
        metric: row numbers ``(n,)`` to the metric of every seed ``(S,)``.
        group: ``(N,)``, or None.
        rows: ``N``.
        blocks: ``B``, at most one per group.
        seed: of the blocks; equal seeds give equal blocks.
    """
    code = np.arange(rows) if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
    count = int(code.max()) + 1
    blocks = min(blocks, count)
    block = (np.random.default_rng(seed).permutation(count) % blocks)[code]
    without = np.stack([metric(np.flatnonzero(block != b)) for b in range(blocks)], axis=1)
    return metric(np.arange(rows))[:, None] + (blocks - 1) * (without.mean(axis=1, keepdims=True) - without)


def mean_of_seeds(values: np.ndarray, *, seed: int) -> np.ndarray:
    """``(R,)`` means over redrawn seeds of values ``(R, S)``: ``S - 1`` of ``S`` with replacement; one seed is kept."""
    resamples, count = values.shape
    if count == 1:
        return values[:, 0]
    draw = np.random.default_rng(seed).integers(0, count, size=(resamples, count - 1))
    return np.take_along_axis(values, draw, axis=1).mean(axis=1)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of bootstrap values ``(R,)`` without those that are NaN; NaN where all are."""
    known, tail = values[~np.isnan(values)], (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def paired_gain(
    ours: np.ndarray, theirs: np.ndarray, group: np.ndarray | None = None, *, resamples: int = RESAMPLES
) -> Gain:
    """A against B by scores of the same rows, higher is better: test and interval of the module docstring.

    Args:
        ours, theirs: ``(S, N)``, a line per seed; the numbers of seeds may differ.
        group: ``(N,)``.
        resamples: random draws.
    """
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    means = bootstrap_means([ours, theirs], group, resamples=resamples)
    draws = [mean_of_seeds(mean, seed=k) for k, mean in enumerate(means)]
    low, high = interval(draws[0] - draws[1])
    return Gain(float(difference.mean()), low, high, sign_flip_test(difference, group, resamples=resamples))
