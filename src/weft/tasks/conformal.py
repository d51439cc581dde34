r"""Split conformal prediction: sets of classes, or intervals of values, that hold the truth as often as they say.

From rows the model was not trained on (dev), each row's nonconformity :math:`s_i` is measured; the threshold is the
:math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest of them. For a new exchangeable row,

.. math:: P(s_\text{new} \le \hat q) \ge 1 - \alpha

whatever the model and the distribution, at most :math:`1/(n+1)` more where scores have no ties. With classes,
:math:`s = 1 - p(y)`, and the set holds every class with :math:`p \ge 1 - \hat q`; with values
:math:`s = |y - \hat y|`, and the interval is :math:`\hat y \pm \hat q`, per target; with labels each label is a
question of two classes.

The guarantee is for rows like those of dev on average. Which modalities are there changes how good a model is, so every
pattern of presence with at least ``FEW`` dev rows has its own threshold (Mondrian); the others share that of all rows.

Vovk, Gammerman, Shafer 2005; Lei et al. 2018, Distribution-Free Predictive Inference for Regression; Angelopoulos and
Bates 2023, A Gentle Introduction to Conformal Prediction. Not for rows that come from elsewhere than dev (other times,
other sites): there is no guarantee. Early stopping and the choice of settings on the same dev rows make them a little
optimistic; the more settings were tried, the more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Self

import numpy as np

from weft.errors import UserError
from weft.tasks.base import Task

FEW = 50
"""Rows of a pattern from which it has a threshold of its own."""
LEVELS = (0.8, 0.9, 0.95)
ALL = "all"


@dataclass(frozen=True)
class Conformal:
    """Thresholds by pattern of presence and level.

    Attributes:
        modalities: whose presence makes a pattern, in order.
        thresholds: ``{pattern: {level: (one per question)}}``; a pattern is a string of 0 and 1, or "all".
        rows: ``{pattern: how many dev rows}``.
    """

    modalities: tuple[str, ...]
    thresholds: Mapping[str, Mapping[str, Sequence[float]]]
    rows: Mapping[str, int]

    @classmethod
    def fit(
        cls, task: Task, outputs: np.ndarray, target: np.ndarray, presence: np.ndarray, modalities: Sequence[str]
    ) -> Self:
        """Measure thresholds on rows the model was not trained on.

        Args:
            task: the fitted task.
            outputs: ``(n, K)`` of these rows.
            target: theirs, as it stands in the table.
            presence: ``(n, M)`` bool.
            modalities: the ``M`` names.

        Raises:
            UserError: the task has neither classes, labels nor values, such as survival.
        """
        scores = nonconformity(task, outputs, target)
        patterns = pattern_names(presence)
        parts = {
            ALL: np.arange(len(scores)),
            **{p: np.flatnonzero(patterns == p) for p in np.unique(patterns).tolist()},
        }
        kept = {name: rows for name, rows in parts.items() if name == ALL or len(rows) >= FEW}
        found = {name: {str(level): threshold(scores[rows], level) for level in LEVELS} for name, rows in kept.items()}
        return cls(tuple(modalities), found, {name: len(rows) for name, rows in kept.items()})

    def predict(
        self, task: Task, outputs: np.ndarray, presence: np.ndarray, level: float = 0.9
    ) -> dict[str, np.ndarray]:
        """Sets or intervals of new rows.

        Returns:
            ``"set"`` ``(N,)`` of texts, the labels with " | " between them; or ``"low"`` and ``"high"``, shaped like
            the prediction. Where dev has too few rows for the level, an interval is infinite and a set holds all.

        Raises:
            UserError: a level that was not measured.
        """
        limit = self._limits(presence, level)
        decided = task.decide(outputs)
        if task.estimator == "regressor":
            value = decided["prediction"]
            limit = limit.reshape(value.shape)
            return {"low": value - limit, "high": value + limit}
        return {"set": np.array([" | ".join(row) for row in self._labels(task, decided["probability"], limit)])}

    def covers(
        self, task: Task, outputs: np.ndarray, target: np.ndarray, presence: np.ndarray, level: float = 0.9
    ) -> np.ndarray:
        """``(N, Q)`` bool, whether the sets or intervals of :meth:`predict` hold the truth, by question."""
        inside: np.ndarray = nonconformity(task, outputs, target) <= self._limits(presence, level)
        if task.estimator == "classifier":
            code = task.encode(target).numpy()
            inside |= (task.decide(outputs)["probability"].argmax(axis=1) == code)[:, None]
        return inside

    def _limits(self, presence: np.ndarray, level: float) -> np.ndarray:
        """``(N, Q)`` thresholds of rows."""
        if str(level) not in self.thresholds[ALL]:
            raise UserError("no sets of this level", f"{level}", f"levels: {', '.join(self.thresholds[ALL])}")
        names = [name if name in self.thresholds else ALL for name in pattern_names(presence).tolist()]
        return np.array([self.thresholds[name][str(level)] for name in names])

    @staticmethod
    def _labels(task: Task, p: np.ndarray, limit: np.ndarray) -> list[list[str]]:
        """Of classes those probable enough, and never none; of labels those that may be there, "?" where either may."""
        if task.estimator == "classifier":
            inside = (1 - p <= limit) | (p == p.max(axis=1, keepdims=True))
            return [[name for name, there in zip(task.labels, row, strict=True) if there] for row in inside]
        yes, no = 1 - p <= limit, p <= limit
        rows = []
        for row, other in zip(yes, no, strict=True):
            flags = zip(task.labels, row, other, strict=True)
            rows.append(
                [name + ("?" if may_not or not may else "") for name, may, may_not in flags if may or not may_not]
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON values; infinite thresholds are null."""
        plain = {
            name: {level: [q if np.isfinite(q) else None for q in values] for level, values in levels.items()}
            for name, levels in self.thresholds.items()
        }
        return {"modalities": list(self.modalities), "thresholds": plain, "rows": dict(self.rows)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote."""
        thresholds = {
            name: {level: [np.inf if q is None else q for q in values] for level, values in levels.items()}
            for name, levels in value["thresholds"].items()
        }
        return cls(tuple(value["modalities"]), thresholds, dict(value["rows"]))


def nonconformity(task: Task, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``(n, Q)``, how badly the truth fits: one question for classes, one per label or value else.

    Raises:
        UserError: the task answers none of these.
    """
    decided = task.decide(outputs)
    if task.estimator == "classifier":
        code = task.encode(target).numpy()
        return 1 - decided["probability"][np.arange(len(code)), code][:, None]
    if task.estimator == "per-label":
        return np.abs(task.encode(target).numpy() - decided["probability"])
    value = np.asarray(target, dtype=np.float64)
    if value.shape != decided["prediction"].shape:
        raise UserError(
            "intervals are of values that the table holds",
            f"{type(task).__name__}",
            "use them for regression or classes",
        )
    return np.abs(value - decided["prediction"]).reshape(len(value), -1)


def threshold(scores: np.ndarray, level: float) -> list[float]:
    """The ``ceil((n + 1) level)``-th smallest score of each column ``(n, Q)``; infinite where ``n`` is too small."""
    place = ceil((len(scores) + 1) * level - 1e-9)
    if place > len(scores):
        return [float("inf")] * scores.shape[1]
    return [float(q) for q in np.sort(scores, axis=0)[place - 1]]


def pattern_names(presence: np.ndarray) -> np.ndarray:
    """``(N,)`` strings of 0 and 1."""
    return np.array(["".join("01"[int(there)] for there in row) for row in presence.tolist()])
