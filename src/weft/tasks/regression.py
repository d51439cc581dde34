"""Regression: one or several real values per row.

The target ``y`` ``(N, K)`` is standardised by the training rows, ``z = (y - mean) / scale`` with the population
standard deviation as scale. Outputs are in these standardised units, so the loss weighs every target alike; decisions
are in the units of the table. The loss of a row is ``mean_k (output_k - z_k)^2``, and its score, for paired tests, the
negative of that.

Metrics, by scikit-learn where it has them: ``nrmse``, the primary one, ``sqrt(mean over rows and targets of
(output - z)^2)``: it has no unit, so it means the same for any number of targets, and predicting the training mean
gives about 1; ``mse``, ``rmse``, ``mae`` in the units of the table, and ``r2``, each the plain mean over the targets.
With several targets each of the four is also given per target: ``"rmse[0]"``. ``r2`` is NaN with fewer than two rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn import metrics as sk
from torch import Tensor

from weft.errors import UserError, some
from weft.tasks import plots
from weft.tasks.base import Task, check_outputs, refuse_missing, tasks


@tasks.register("regression")
class RegressionTask(Task):
    """One or several real values.

    Args:
        mean, scale: of each target, ``K`` floats.
        flat: whether the target, and so the prediction, is ``(N,)`` and not ``(N, 1)``.
    """

    primary = "nrmse"
    higher_is_better = False
    probabilistic = False

    def __init__(self, mean: Sequence[float], scale: Sequence[float], flat: bool = False) -> None:
        self.mean, self.scale, self.flat = list(mean), list(scale), flat
        self.outputs = len(self.mean)

    @classmethod
    def fit(cls, target: np.ndarray) -> Self:
        """Learn mean and standard deviation of each target.

        Raises:
            UserError: values are missing, infinite or no numbers, or a target is constant.
        """
        values = _values(target)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0))
        if len(constant):
            raise UserError(
                "a regression target varies over the training rows",
                f"target {some(constant.tolist())} is always {some(values[0, constant].tolist())}",
                "drop this target, or check the split",
            )
        return cls(mean.tolist(), scale.tolist(), np.ndim(target) == 1)

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

    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """The metrics of the module docstring."""
        truth, guess = self._pair(outputs, target)
        each = {
            "mse": sk.mean_squared_error(truth, guess, multioutput="raw_values"),
            "rmse": np.sqrt(sk.mean_squared_error(truth, guess, multioutput="raw_values")),
            "mae": sk.mean_absolute_error(truth, guess, multioutput="raw_values"),
            "r2": np.full(self.outputs, np.nan)
            if len(truth) < 2
            else sk.r2_score(truth, guess, multioutput="raw_values"),
        }
        found = {"nrmse": float(np.sqrt(-self.scores(outputs, target).mean()))}
        found |= {name: float(values.mean()) for name, values in each.items()}
        if self.outputs > 1:
            found |= {f"{name}[{k}]": float(v) for name, values in each.items() for k, v in enumerate(values)}
        return found

    def scores(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Negative squared error of each row, in standardised units, mean over the targets."""
        truth, guess = self._pair(outputs, target)
        return -(((guess - truth) / self.scale) ** 2).mean(axis=1)

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``predicted.png`` (predicted against actual) and ``residuals.png``, one panel per target."""
        truth, guess = self._pair(outputs, target)
        return [plots.predicted(truth, guess, folder), plots.residuals(truth, guess, folder)]

    def figures_of_methods(self, outputs: Mapping[str, np.ndarray], target: np.ndarray, folder: Path) -> list[Path]:
        """``predicted-methods.png`` and ``residuals-methods.png`` of the first target and the first seed."""
        truth = self._raw(target)[:, 0]
        guess = {name: self._pair(seeds[0], target)[1][:, 0] for name, seeds in outputs.items()}
        return [plots.predicted_panels(truth, guess, folder), plots.residual_panels(truth, guess, folder)]

    def settings(self) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale, "flat": self.flat}

    def _raw(self, target: np.ndarray) -> np.ndarray:
        values = _values(target)
        if values.shape[1] != self.outputs:
            raise UserError(
                f"this task was fitted on {self.outputs} targets",
                f"a target of shape {np.shape(target)}",
                "give the same target columns in the same order",
            )
        return values

    def _pair(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        truth = self._raw(target)
        return truth, check_outputs(outputs, self.outputs, len(truth)) * self.scale + self.mean


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
