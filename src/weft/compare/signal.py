"""Whether something predicts the target at all: a permutation test of the metric that sees it best.

The targets are permuted within their fold, those of a group stay together; ``p`` is the share of permutations (499, and
the observed one) in which the metric of :attr:`weft.tasks.Task.sensitive` is at least as good. A modality is asked over
all rows, by ridge regressions that have not seen the row they answer for, and corrected for all modalities (Holm).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.compare.statistics import Z_POWER, Z_SIDE, holm
from weft.store.features import Features
from weft.tasks.base import Task

DRAWS, FOLDS, WIDE = 499, 5, 200


@dataclass(frozen=True)
class Signal:
    """Whether something predicts the target at all, by the metric that sees it best.

    Attributes:
        name: what predicts: a method, or a modality.
        metric: of :attr:`weft.tasks.Task.sensitive`.
        value, chance: of the metric; ``chance`` is its mean over permuted targets.
        p: one-sided, of the permutation test.
        rows: how many it is about.
        smallest: the value that is seen (5 %) in 80 of 100 such sets of rows.
    """

    name: str
    metric: str
    value: float
    chance: float
    p: float
    rows: int
    smallest: float


def signal_everywhere(features: Features, task: Task, target: np.ndarray, draws: int = DRAWS) -> Signal | None:
    """The clearest signal of a modality over all rows, out of fold, corrected for all modalities.

    Args:
        features: all rows.
        task: which metric.
        target: ``(N, ...)`` of all rows.
        draws: permutations.

    Returns:
        None where every modality has too few rows or groups for five folds.
    """
    found = []
    for name in features.dims:
        rows = np.flatnonzero(features.subset([name]).presence[:, 0])
        group = None if features.group is None else features.group[rows]
        outputs = out_of_fold(task, features.subset([name]).pooled(rows)[name], target[rows], group)
        if outputs is not None:
            fold = even_folds(task.response(target[rows]), group)
            for places in ([fold == k for k in range(FOLDS)], [fold >= 0]):
                parts = [
                    (*task.judged(outputs[at], target[rows[at]]), None if group is None else group[at]) for at in places
                ]
                signal = measure_signal(task, name, parts, draws)
                if np.isfinite(signal.value):  # a class may be too rare for every fold to have it
                    break
            found.append(signal)
    if not found:
        return None
    best = min(range(len(found)), key=lambda k: found[k].p)
    return replace(found[best], p=float(holm(np.array([signal.p for signal in found]))[best]))


def measure_signal(task: Task, name: str, parts: Sequence[tuple[Any, ...]], draws: int = DRAWS) -> Signal:
    """The permutation test of a task's sensitive metric.

    Args:
        task: which metric.
        name: of what answered.
        parts: truth, answers and groups (or None) of the rows of each fold; truths are permuted within it, and those of
            a group stay together.
        draws: permutations.
    """
    metric = task.judges[task.sensitive]
    sign, sizes = (1.0 if metric.higher_is_better else -1.0), [len(truth) for truth, _, _ in parts]

    def value(truths: Sequence[np.ndarray]) -> float:
        found = [metric.whole(truth, *answers) for truth, (_, answers, _) in zip(truths, parts, strict=True)]
        return float(np.average(found, weights=sizes))

    observed, rng = value([truth for truth, _, _ in parts]), np.random.default_rng(0)
    null = np.array([value([truth[_shuffled(len(truth), g, rng)] for truth, _, g in parts]) for _ in range(draws)])
    known = null[np.isfinite(null)]
    if not np.isfinite(observed) or not len(known):
        return Signal(name, task.sensitive, observed, float("nan"), 1.0, sum(sizes), float("nan"))
    p = float((1 + (sign * known >= sign * observed - 1e-12).sum()) / (1 + len(known)))
    chance, spread = float(known.mean()), float(known.std())
    return Signal(name, task.sensitive, observed, chance, p, sum(sizes), chance + sign * (Z_SIDE + Z_POWER) * spread)


def out_of_fold(
    task: Task,
    x: np.ndarray | Callable[[np.ndarray], np.ndarray],
    target: np.ndarray,
    group: np.ndarray | None,
) -> np.ndarray | None:
    """Outputs of ridge regressions on pooled features ``(n, D)``, each row by one that has not seen it.

    Classes and labels are regressed as zeros and ones. None where there are too few rows or groups for five folds.

    Args:
        task: what is asked.
        x: features; or what gives them to ``(n,)`` bool, the rows that an encoder may learn from.
        target: ``(n, ...)``.
        group: ``(n,)``; rows of one group are in one fold.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(target) < 50 or (group is not None and len(np.unique(group)) < FOLDS):
        return None
    y = task.response(target)
    hot = np.eye(len(task.labels))[y] if task.estimator == "classifier" else np.asarray(y, dtype=np.float64)
    place = even_folds(y, group)
    most = min(WIDE, len(target) - int(np.bincount(place).max()))
    values = np.zeros((len(target), hot.reshape(len(target), -1).shape[1]))
    for fold in range(FOLDS):
        seen = place != fold
        features = x(seen) if callable(x) else x
        steps = [StandardScaler(copy=False), RidgeCV(np.logspace(0, 6, 7))]
        if features.shape[1] > most:
            steps.insert(1, PCA(most, random_state=0))
        model = make_pipeline(*steps).fit(features[seen].astype(np.float64), hot[seen])
        values[~seen] = model.predict(features[~seen].astype(np.float64)).reshape(int((~seen).sum()), -1)
    if task.estimator != "regressor":
        values = np.clip(values, 1e-3, 1 - 1e-3)
    return task.from_estimator(values / values.sum(axis=1, keepdims=True) if task.estimator == "classifier" else values)


def even_folds(y: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """``(n,)`` fold of each row, groups together, with as equal a share of every class, or range of values, as can be.

    In uneven folds what trained a model is poor in what the fold is rich in, and pooled ranks fall below chance.
    """
    value = np.asarray(y, dtype=np.float64).reshape(len(y), -1).sum(axis=1)
    code = np.arange(len(value)) if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
    mean = np.bincount(code, weights=value) / np.bincount(code)
    rng, fold = np.random.default_rng(0), np.empty(len(mean), dtype=np.int64)
    order = np.lexsort((rng.random(len(mean)), mean))
    fold[order] = rng.random((len(mean) // FOLDS + 1, FOLDS)).argsort(axis=1).ravel()[: len(mean)]
    return np.asarray(fold[code])


def _shuffled(rows: int, group: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A permutation of rows; those of one group stay beside one another, in their order."""
    if group is None:
        return rng.permutation(rows)
    code = np.unique(group, return_inverse=True)[1].reshape(-1)
    order = np.argsort(rng.permutation(code.max() + 1)[code], kind="stable")
    found = np.empty(rows, dtype=np.int64)
    found[np.argsort(code, kind="stable")] = order
    return found
