"""Regression: one or several real values per row.

The target ``y`` ``(N, K)`` is standardised by the training rows, ``z = (y - mean) / scale`` with the population
standard deviation as scale. Outputs are in these standardised units, so the loss weighs every target alike; decisions
are in the units of the table. The loss of a row is ``mean_k (output_k - z_k)^2``.

The metrics are ``VALUES`` of :mod:`weft.tasks.metrics`. The primary one, ``nrmse``, is ``sqrt(mean over rows and
targets of (output - z)^2)``: without a unit, the same for any number of targets; always answering the training
mean gives about 1. The others are in the units of the table, each the plain mean over the targets; with several
targets each of ``mse``, ``rmse``, ``mae`` and ``r2`` is also given per target: ``"rmse[price]"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from weft.data.targets import Reads
from weft.errors import UserError, some
from weft.tasks import plots
from weft.tasks.base import Estimator, Task, tasks
from weft.tasks.checks import check_outputs, refuse_missing
from weft.tasks.links import IDENTITY, Link
from weft.tasks.metrics import VALUES, Metric


@tasks.register("regression")
class RegressionTask(Task):
    """One or several real values.

    Args:
        mean, scale: of each target, ``K`` floats.
        flat: whether the target, and so the prediction, is ``(N,)`` and not ``(N, 1)``.
        labels: names of the targets; "0", "1", ... if not given.
        metric: the primary metric; None: ``nrmse``.
    """

    reads: ClassVar[Reads] = "numbers"
    link: ClassVar[Link] = IDENTITY
    estimator: ClassVar[Estimator] = "regressor"
    judges: ClassVar[Mapping[str, Metric]] = VALUES
    sensitive: ClassVar[str] = "spearman"

    def __init__(
        self,
        mean: Sequence[float],
        scale: Sequence[float],
        flat: bool = False,
        labels: Sequence[str] | None = None,
        metric: str | None = None,
    ) -> None:
        self.mean, self.scale, self.flat = list(mean), list(scale), flat
        self.outputs = len(self.mean)
        self.labels = list(labels) if labels else [str(k) for k in range(self.outputs)]
        self.choose_metric(metric, "nrmse", "it has no unit; 1 is the error of the training mean on the training rows")

    @classmethod
    def fit(cls, target: np.ndarray, *, labels: Sequence[str] | None = None, metric: str | None = None) -> Self:
        """Learn mean and standard deviation of each target, ``(N,)`` or ``(N, K)``.

        Raises:
            UserError: values are missing, infinite or no numbers, or a target is constant.
        """
        values = _values(target)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0))
        if len(constant):
            names = [labels[k] for k in constant] if labels else constant.tolist()
            raise UserError(
                "a regression target varies over the training rows",
                f"target {some(names)} is always {some(values[0, constant].tolist())}",
                "drop this target, or check the split",
            )
        return cls(mean.tolist(), scale.tolist(), np.ndim(target) == 1, labels, metric)

    def encode(self, target: np.ndarray) -> Tensor:
        """Standardised target ``(N, K)``, float32.

        Raises:
            UserError: a value is missing or infinite, or the number of targets is not that of the training rows.
        """
        return torch.from_numpy(((self._raw(target) - self.mean) / self.scale).astype(np.float32))

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean squared error ``(B,)`` over the targets, in standardised units."""
        return (outputs - target).square().mean(dim=-1)

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` in the units of the table, shaped like the training target: ``(N,)`` or ``(N, K)``."""
        prediction = check_outputs(outputs, self.outputs) * self.scale + self.mean
        return {"prediction": prediction[:, 0] if self.flat else prediction}

    def judged(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        truth = self._raw(target)
        outputs = check_outputs(outputs, self.outputs, len(truth))
        return truth, (outputs * self.scale + self.mean, outputs - (truth - self.mean) / self.scale)

    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """All metrics of outputs ``(n, K)``; with several targets some of them also per target."""
        found, (truth, (guess, error)) = super().metrics(outputs, target), self.judged(outputs, target)
        for name in ("mse", "rmse", "mae", "r2") if self.outputs > 1 else ():
            for k, label in enumerate(self.labels):
                column = slice(k, k + 1)
                found[f"{name}[{label}]"] = VALUES[name].whole(truth[:, column], guess[:, column], error[:, column])
        return found

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``predicted.png`` (predicted against actual) and ``residuals.png``, one panel per target."""
        truth, (guess, _) = self.judged(outputs, target)
        return [plots.predicted(truth, guess, folder), plots.residuals(truth, guess, folder)]

    def figures_of_methods(self, outputs: Mapping[str, np.ndarray], target: np.ndarray, folder: Path) -> list[Path]:
        """``predicted-methods.png`` and ``residuals-methods.png`` of the first target and the first seed."""
        truth = self._raw(target)[:, 0]
        guess = {name: self.judged(seeds[0], target)[1][0][:, 0] for name, seeds in outputs.items()}
        return [plots.predicted_panels(truth, guess, folder), plots.residual_panels(truth, guess, folder)]

    def settings(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "scale": self.scale,
            "flat": self.flat,
            "labels": self.labels,
            "metric": self.primary,
        }

    def _raw(self, target: np.ndarray) -> np.ndarray:
        values = _values(target)
        if values.shape[1] != self.outputs:
            raise UserError(
                f"this task was fitted on {self.outputs} targets",
                f"a target of shape {np.shape(target)}",
                "give the same target columns in the same order",
            )
        return values


def _values(target: np.ndarray) -> np.ndarray:
    """The target as float64 ``(N, K)``."""
    target = np.asarray(target)
    if target.ndim not in (1, 2) or not target.size:
        raise UserError(
            "a regression target is (N,) or (N, K), with at least one row", f"shape {target.shape}", "check the target"
        )
    refuse_missing(target)
    try:
        values = target.astype(np.float64).reshape(len(target), -1)
    except (TypeError, ValueError):
        raise UserError(
            "a regression target holds numbers",
            f"{target.dtype}, such as {some(target.ravel()[:3].tolist())}",
            "convert the column to numbers, or use the task 'classification'",
        ) from None
    rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(rows):
        raise UserError("a regression target is finite", f"infinite in rows {some(rows.tolist())}", "drop these rows")
    return values
