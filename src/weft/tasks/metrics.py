r"""The metrics a task can be judged by: ``--metric NAME``, scikit-learn's where it has them.

A metric is a number from the truth and the answers of ``N`` rows. Where it is a mean over the rows, or the root of one,
it also says what each row adds, and paired tests compare that; the others (AUC, kappa, F1, ...) are tested as a whole,
by exchanging the answers of two methods row by row.

What the functions are given:

* ``CLASSES``, ``ORDERED``: codes ``(N,)``, then the guessed codes ``(N,)`` and log-probabilities ``(N, C)``.
* ``FLAGS``: zeros and ones ``(N, K)``, then logits ``(N, K)``.
* ``VALUES``: values ``(N, K)``, then the guessed values and the standardised errors, both ``(N, K)``.
* ``TIMES``: time and event ``(N, 2)``, then the log-hazards ``(N,)``.

Definitions that are not obvious: ``auc`` of several classes is one-vs-rest, the mean over the classes that have
positive and negative rows; ``balanced_accuracy`` is the mean recall of the classes that occur; ``ece`` uses 15 bins of
equal width (Guo et al. 2017); ``kappa``, ``kappa_linear`` and ``kappa_quadratic`` are Cohen's with the weights
``[i != j]``, ``|i - j|`` and ``(i - j)^2``; ``concordance`` is Harrell's C: of the pairs whose order is known (the
earlier one an event), the share in which the earlier has the larger hazard, ties half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weft.tasks.calibration import expected_calibration_error

Array = np.ndarray


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        whole: truth and answers of ``N`` rows to a number, NaN where these rows do not define it.
        higher_is_better: whether more of it is better.
        rows: ``(N,)`` values whose mean is the metric, or its square where ``root``; None where there are none.
        root: see ``rows``.
        ordering: whether only the order of the rows in each column of the answers counts, not its scale.
    """

    whole: Callable[..., float]
    higher_is_better: bool = True
    rows: Callable[..., Array] | None = None
    root: bool = False
    ordering: bool = False

    def of_mean(self, mean: Array) -> Array:
        """The metric, from means of ``rows``."""
        return np.sqrt(np.maximum(mean, 0.0)) if self.root else mean


def _mean(rows: Callable[..., Array], higher_is_better: bool = True, root: bool = False) -> Metric:
    def whole(*arrays: Array) -> float:
        mean = rows(*arrays).mean()
        return float(np.sqrt(mean) if root else mean)

    return Metric(whole, higher_is_better, rows, root)


def why_undefined(truth: Array) -> str:
    """Why rows with targets ``(N,)`` or ``(N, K)`` leave a metric undefined."""
    if len(truth) == 1:
        return "there is one row"
    if (truth == truth[:1]).all():
        return "the target is the same in all of them"
    return "the target or the answers vary too little"


def mean_ranks(values: Array) -> Array:
    """Ranks from 1 of values ``(N,)``, ties at their mean; NaN throughout where one is. SciPy's takes 1 s to import."""
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def binary_auc(positive: Array, score: Array) -> float:
    """Area under the ROC curve, ties half; NaN without rows of both kinds."""
    there = int(positive.sum())
    if not 0 < there < len(positive):
        return float("nan")
    ranks = mean_ranks(score)
    return float((ranks[positive].sum() - there * (there + 1) / 2) / (there * (len(positive) - there)))


def concordance(truth: Array, risk: Array) -> float:
    """Harrell's C of log-hazards ``(N,)`` for times and events ``(N, 2)``; NaN where no pair is comparable.

    A pair is comparable where the earlier row is an event, or where both times are equal and exactly one is an event
    (that one is the earlier). O(N^2) time, in blocks of rows.
    """
    time, event = truth[:, 0], truth[:, 1].astype(bool)
    agree, pairs = 0.0, 0
    for block in np.array_split(np.flatnonzero(event), max(1, int(event.sum()) // 256)):
        later = (time[block, None] < time) | ((time[block, None] == time) & ~event)
        ahead = risk[block, None]
        agree += float(((ahead > risk) & later).sum() + 0.5 * ((ahead == risk) & later).sum())
        pairs += int(later.sum())
    return agree / pairs if pairs else float("nan")


def _auc(truth: Array, guess: Array, log_p: Array) -> float:
    columns = [1] if log_p.shape[1] == 2 else range(log_p.shape[1])
    areas = [binary_auc(truth == k, log_p[:, k]) for k in columns]
    known = [area for area in areas if area == area]
    return float(np.mean(known)) if known else float("nan")


def confusion(truth: Array, guess: Array, classes: int) -> Array:
    return np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes).astype(np.float64)


def _balanced(truth: Array, guess: Array, log_p: Array) -> float:
    table = confusion(truth, guess, log_p.shape[1])
    seen = table.sum(axis=1) > 0
    return float((np.diag(table)[seen] / table[seen].sum(axis=1)).mean())


def _f1_macro(truth: Array, guess: Array, log_p: Array) -> float:
    table = confusion(truth, guess, log_p.shape[1])
    total = table.sum(axis=0) + table.sum(axis=1)
    return float((2 * np.diag(table)[total > 0] / total[total > 0]).mean())


def _mcc(truth: Array, guess: Array, log_p: Array) -> float:
    table = confusion(truth, guess, log_p.shape[1])
    n, actual, guessed = table.sum(), table.sum(axis=1), table.sum(axis=0)
    spread = (n**2 - (guessed**2).sum()) * (n**2 - (actual**2).sum())
    return float((np.trace(table) * n - actual @ guessed) / np.sqrt(spread)) if spread > 0 else 0.0


def _kappa(power: int) -> Metric:
    def whole(truth: Array, guess: Array, log_p: Array) -> float:
        table = confusion(truth, guess, log_p.shape[1])
        distance = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table)))).astype(np.float64)
        weight = (distance > 0) if power == 0 else distance**power
        by_chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        most = (weight * by_chance).sum()
        return float(1 - (weight * table).sum() / most) if most > 0 else float("nan")

    return Metric(whole)


def _own(truth: Array, log_p: Array) -> Array:
    return log_p[np.arange(len(truth)), truth]


def _brier(truth: Array, guess: Array, log_p: Array) -> Array:
    return np.asarray(((np.exp(log_p) - np.eye(log_p.shape[1])[truth]) ** 2).sum(axis=1))


def _rank_correlation(truth: Array, guess: Array) -> float:
    a, b = mean_ranks(truth), mean_ranks(guess)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


CLASSES: dict[str, Metric] = {
    "accuracy": _mean(lambda truth, guess, log_p: (truth == guess).astype(np.float64)),
    "balanced_accuracy": Metric(_balanced),
    "f1_macro": Metric(_f1_macro),
    "f1_micro": _mean(lambda truth, guess, log_p: (truth == guess).astype(np.float64)),
    "auc": Metric(_auc, ordering=True),
    "log_loss": _mean(lambda truth, guess, log_p: -_own(truth, log_p), False),
    "brier": _mean(_brier, False),
    "ece": Metric(
        lambda truth, guess, log_p: expected_calibration_error(
            np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth
        ),
        False,
    ),
    "kappa": _kappa(0),
    "mcc": Metric(_mcc),
}
ORDERED: dict[str, Metric] = {
    "kappa_quadratic": _kappa(2),
    "kappa_linear": _kappa(1),
    "mae": _mean(lambda truth, guess, log_p: np.abs(truth - guess).astype(np.float64), False),
    "spearman": Metric(lambda truth, guess, log_p: _rank_correlation(truth, np.exp(log_p) @ np.arange(log_p.shape[1]))),
    **CLASSES,
}


def f1(truth: Array, guess: Array, axis: int | None, empty: float) -> Array:
    """``2 both / (true + predicted)`` over an axis of ``(N, K)``; ``empty`` where nothing is true or predicted."""
    total = truth.sum(axis=axis) + guess.sum(axis=axis)
    return np.where(total == 0, empty, 2 * (truth * guess).sum(axis=axis) / np.maximum(total, 1))


def _over_labels(one: Callable[[Array, Array], float]) -> Metric:
    """The mean over the labels that have both positive and negative rows."""

    def whole(truth: Array, logits: Array) -> float:
        both = np.flatnonzero((truth.min(axis=0) == 0) & (truth.max(axis=0) == 1))
        return float(np.mean([one(truth[:, k] == 1, logits[:, k]) for k in both])) if len(both) else float("nan")

    return Metric(whole, ordering=True)


def average_precision(positive: Array, score: Array) -> float:
    """``sum_n (R_n - R_(n-1)) P_n`` over the thresholds, as scikit-learn defines it."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    found, precision = hits[ends], hits[ends] / (ends + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / hits[-1]) if hits[-1] else float("nan")


def _ahead(logits: Array) -> Array:
    """``(N, K, K)`` bool, ``[n, k, j]``: label j is ranked before k, or level with it."""
    found: Array = logits[:, None, :] >= logits[:, :, None]
    return found


def _ranking_precision(truth: Array, logits: Array) -> Array:
    """Mean over a row's labels of the share of true ones among those ranked as high; 1 without labels, or with all."""
    ahead, positive = _ahead(logits), truth == 1
    precision = (ahead & positive[:, None, :]).sum(axis=2) / ahead.sum(axis=2)
    counts = positive.sum(axis=1)
    mean = (precision * positive).sum(axis=1) / np.maximum(counts, 1)
    return np.where((counts == 0) | (counts == truth.shape[1]), 1.0, mean)


def _ranking_loss(truth: Array, logits: Array) -> Array:
    """Share of pairs of a true and another label in which the other is ranked as high; 0 where there is no pair."""
    positive = truth == 1
    pairs = positive[:, :, None] & ~positive[:, None, :]
    wrong = (_ahead(logits) & pairs).sum(axis=(1, 2))
    return np.asarray(wrong / np.maximum(pairs.sum(axis=(1, 2)), 1))


def _coverage(truth: Array, logits: Array) -> Array:
    """How many labels are ranked before the last true one; -1 in a row without any."""
    depth: Array = np.where(truth == 1, _ahead(logits).sum(axis=2), 0).max(axis=1) - 1
    return depth


def _one_error(truth: Array, logits: Array) -> Array:
    """Whether the first label is not a true one."""
    return (truth[np.arange(len(truth)), logits.argmax(axis=1)] != 1).astype(np.float64)


FLAGS: dict[str, Metric] = {
    "average_precision": _over_labels(average_precision),
    "average_precision_micro": Metric(lambda truth, logits: average_precision(truth.ravel() == 1, logits.ravel())),
    "auc": _over_labels(binary_auc),
    "f1_macro": Metric(lambda truth, logits: float(f1(truth, logits > 0, 0, 0.0).mean())),
    "f1_micro": Metric(lambda truth, logits: float(f1(truth, logits > 0, None, 0.0))),
    "f1_samples": _mean(lambda truth, logits: f1(truth, logits > 0, 1, 1.0)),
    "subset_accuracy": _mean(lambda truth, logits: ((logits > 0) == truth).all(axis=1).astype(np.float64)),
    "ranking_precision": _mean(_ranking_precision),
    "ranking_loss": _mean(_ranking_loss, False),
    "coverage": _mean(_coverage, False),
    "one_error": _mean(_one_error, False),
    "hamming_loss": _mean(lambda truth, logits: ((logits > 0) != truth).mean(axis=1), False),
    "log_loss": _mean(lambda truth, logits: (np.logaddexp(0.0, logits) - truth * logits).mean(axis=1), False),
}


def _r2(truth: Array, guess: Array, error: Array) -> float:
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    if len(truth) < 2 or (total == 0).any():
        return float("nan")
    return float((1 - ((truth - guess) ** 2).sum(axis=0) / total).mean())


VALUES: dict[str, Metric] = {
    "nrmse": _mean(lambda truth, guess, error: (error**2).mean(axis=1), False, root=True),
    "mse": _mean(lambda truth, guess, error: ((truth - guess) ** 2).mean(axis=1), False),
    "rmse": Metric(lambda t, g, e: float(np.sqrt(((t - g) ** 2).mean(axis=0)).mean()), False),
    "mae": _mean(lambda truth, guess, error: np.abs(truth - guess).mean(axis=1), False),
    "medae": Metric(lambda truth, guess, error: float(np.median(np.abs(truth - guess), axis=0).mean()), False),
    "r2": Metric(_r2),
    "spearman": Metric(
        lambda truth, guess, error: float(np.mean(list(map(_rank_correlation, truth.T, guess.T)))), ordering=True
    ),
}
TIMES: dict[str, Metric] = {"concordance": Metric(concordance, ordering=True)}
