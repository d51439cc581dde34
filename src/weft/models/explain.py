r"""What each modality did for a prediction, and for a score, without training anything again.

**Shapley values of a row.** ``v(S)`` is what the model says of a row when it is shown the modalities ``S`` alone: the
log-probability of the class that it predicts from all of them, or the predicted value; ``v({})`` is what it says of a
row it knows nothing of, the class frequencies or the mean. With the ``M`` modalities that are there,

.. math:: \phi_m = \sum_{S \not\ni m} \frac{|S|!\,(M - |S| - 1)!}{M!} \big(v(S \cup m) - v(S)\big),
          \qquad \sum_m \phi_m = v(\text{all}) - v(\{\})

exact, by ``2^M - 1`` passes, so for at most ``MOST`` modalities. Modalities that are absent have 0.

**Perceptual score.** One modality is permuted among the rows that have it, and the metric measured again:
``(metric - permuted) / |metric|``, the share of the metric that goes with it (Gat, Schwartz, Schwing 2021, Perceptual
Score: What Data Modalities Does Your Model Perceive?, NeurIPS), mean over ``REPEATS`` permutations.

Both speak of the model, not of the data: of two modalities that say the same it may use one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from weft.errors import UserError
from weft.models.predictor import Predictor, answers
from weft.tokens import Tokens

if TYPE_CHECKING:
    from weft.store import Features
    from weft.tasks.base import Task

MOST, REPEATS = 6, 5


class Rearranged:
    """Features in which every modality of a row comes from a row of its own choice, or from none.

    Args:
        features: what is rearranged; everything else is as there.
        source: ``{modality: (N,) row numbers}``, -1 where the modality is hidden.
    """

    def __init__(self, features: Features, source: Mapping[str, np.ndarray]) -> None:
        self._features, self._source = features, dict(source)
        self.presence = np.stack(
            [
                (self._source[name] >= 0) & np.asarray(features.presence)[self._source[name], k]
                for k, name in enumerate(features.dims)
            ],
            axis=1,
        )

    @classmethod
    def without(cls, features: Features, hidden: Iterable[str]) -> Rearranged:
        """The rows as they are, with some modalities hidden."""
        rows, gone = np.arange(len(features)), set(hidden)
        return cls(features, {name: np.full_like(rows, -1) if name in gone else rows for name in features.dims})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._features, name)

    def __len__(self) -> int:
        return len(self._features)

    def gather(self, rows: np.ndarray) -> dict[str, Tokens]:
        """As ``Features.gather``."""
        found, own = {}, self._features.gather(rows)
        for name in self._features.dims:
            source = self._source[name][rows]
            taken = np.where(source < 0, rows, source)
            tokens = (own if np.array_equal(taken, rows) else self._features.gather(taken))[name]
            there = torch.from_numpy(source >= 0).to(tokens.mask.device)
            found[name] = Tokens(tokens.values, tokens.mask & there[:, None])
        return found

    def pooled(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """As ``Features.pooled``."""
        found, own = {}, self._features.pooled(rows)
        for name in self._features.dims:
            source = self._source[name][rows]
            taken = np.where(source < 0, rows, source)
            values = (own if np.array_equal(taken, rows) else self._features.pooled(taken))[name]
            found[name] = np.where((source >= 0)[:, None], values, np.nan)
        return found

    def subset(self, names: Iterable[str]) -> Rearranged:
        """As ``Features.subset``."""
        names = list(names)
        return Rearranged(self._features.subset(names), {name: self._source[name] for name in names})


def row_shapley(model: Predictor, features: Features, rows: np.ndarray) -> np.ndarray:
    """Shapley values ``(n, M)`` of the modalities ``model.names`` for every row; see the module docstring.

    Raises:
        UserError: more than ``MOST`` modalities, a task with several answers per row, or a model that cannot do without
            a modality.
    """
    names = list(model.names)
    if len(names) > MOST:
        found = f"{len(names)}, so {2 ** len(names) - 1:,} passes"
        raise UserError(f"exact Shapley values are for at most {MOST} modalities", found, "use a subset of them")
    features = features.subset(names)
    presence = np.asarray(features.presence)[rows]
    say = _speaker(model, answers(model, features, rows))
    silent = say(np.tile(model.prior(), (len(rows), 1)))
    values: dict[frozenset[str], np.ndarray] = {frozenset(): silent}
    for size in range(1, len(names) + 1):
        for part in combinations(names, size):
            seen = presence[:, [names.index(name) for name in part]].any(axis=1)
            outputs = np.tile(model.prior(), (len(rows), 1))
            if seen.any():
                outputs[seen] = model.outputs(Rearranged.without(features, set(names) - set(part)), rows[seen])
            values[frozenset(part)] = say(outputs)
    shares, count = np.zeros((len(rows), len(names))), len(names)
    for column, name in enumerate(names):
        others = [other for other in names if other != name]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for part in combinations(others, size):
                shares[:, column] += weight * (values[frozenset({*part, name})] - values[frozenset(part)])
    return shares


def unit_of(task: Task) -> str:
    """What Shapley values of a row add up to, in words."""
    if task.estimator == "classifier":
        return "nats: from the log-probability that the predicted class has in training to the one it has here"
    if task.estimator == "per-label":
        return "logits: from the one that the label has in training to the one it has here"
    return "the unit of the prediction: from the mean of training to the prediction"


def perceptual_scores(model: Predictor, features: Features, rows: np.ndarray, seed: int = 0) -> dict[str, float]:
    """``{modality: share of the primary metric that goes when it is permuted}``; NaN where the metric is zero."""
    features, target = features.subset(list(model.names)), model.target_of(features)[rows]
    rng, task = np.random.default_rng(seed), model.task
    sign = 1.0 if task.higher_is_better else -1.0
    whole = task.primary_metric(answers(model, features, rows), target)
    found = {}
    for column, name in enumerate(model.names):
        there, drops = rows[np.asarray(features.presence)[rows, column]], []
        for _ in range(REPEATS):
            source = {other: np.arange(len(features)) for other in model.names}
            source[name][there] = rng.permutation(there)
            moved = answers(model, Rearranged(features, source), rows)
            drops.append(sign * (whole - task.primary_metric(moved, target)))
        found[name] = float(np.mean(drops) / abs(whole)) if whole else float("nan")
    return found


def _speaker(model: Predictor, whole: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Outputs ``(n, K)`` to one number per row: the log-probability of the class predicted from all, or the value."""
    task = model.task
    if task.estimator == "classifier":
        best = task.decide(whole)["probability"].argmax(axis=1)
        return lambda outputs: np.log(task.decide(outputs)["probability"][np.arange(len(best)), best])
    if task.outputs > 1:
        raise UserError(
            "Shapley values of a row explain one answer",
            f"{task.outputs} answers per row",
            "explain a model of one target",
        )
    if task.estimator == "per-label":
        return lambda outputs: np.asarray(outputs[:, 0], dtype=np.float64)
    return lambda outputs: np.asarray(task.decide(outputs)["prediction"], dtype=np.float64).reshape(len(outputs))
