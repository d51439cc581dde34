"""Multilabel: any number of ``K`` labels per row.

The target is ``(N, K)`` of zeros and ones. Outputs are logits ``(B, K)``, ``p_k = sigmoid(output_k)``; the loss of a
row is the binary cross-entropy, mean over the labels. A label is predicted where ``p_k > 0.5``.

The primary metric is ``average_precision``, the mean over the labels of the area under precision and recall: it needs
no threshold and counts rare labels like common ones. The score of a row, for paired tests, is the F1 of its set of
labels, ``2 |predicted and true| / (|predicted| + |true|)``, 1 where both are empty.

Metrics, by scikit-learn where it has them: ``average_precision`` and ``auc``, means over the labels that have both
positive and negative rows (NaN if none has); ``average_precision_micro``; ``f1_macro``, ``f1_micro``, ``f1_samples``
(the mean score); ``subset_accuracy`` (all labels right), ``hamming_loss`` (share of wrong labels), ``log_loss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.special import expit
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError, some
from weft.tasks import plots
from weft.tasks.base import Task, check_outputs, refuse_missing, tasks


@tasks.register("multilabel")
class MultilabelTask(Task):
    """Any number of labels per row.

    Args:
        prior: training frequency of each label, ``K`` floats strictly between 0 and 1.
    """

    primary = "average_precision"
    higher_is_better = True

    def __init__(self, prior: Sequence[float]) -> None:
        self.prior = list(prior)
        self.outputs = len(self.prior)

    @classmethod
    def fit(cls, target: np.ndarray) -> Self:
        """Learn the frequency of each label.

        Raises:
            UserError: values are missing or not 0 and 1, or a label is the same in every row.
        """
        values = _binary(target)
        prior = values.mean(axis=0)
        constant = np.flatnonzero((prior == 0) | (prior == 1))
        if len(constant):
            raise UserError(
                "every label of a multilabel target occurs in some training rows and not in others",
                f"labels {some(constant.tolist())} are in none or all of {len(values)} rows",
                "drop these columns, or check the split",
            )
        return cls(prior.tolist())

    def encode(self, target: np.ndarray) -> Tensor:
        """``(N, K)`` float32 of zeros and ones.

        Raises:
            UserError: a value is missing or not 0 or 1, or the number of labels is not that of the training rows.
        """
        values = _binary(target)
        if values.shape[1] != self.outputs:
            raise UserError(
                f"this task was fitted on {self.outputs} labels",
                f"a target of shape {values.shape}",
                "give the same label columns in the same order",
            )
        return torch.from_numpy(values.astype(np.float32))

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy ``(B,)``, mean over the labels."""
        return F.binary_cross_entropy_with_logits(outputs, target.to(outputs.dtype), reduction="none").mean(dim=-1)

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` ``(N, K)`` of zeros and ones, ``probability`` ``(N, K)``."""
        outputs = check_outputs(outputs, self.outputs)
        return {"prediction": (outputs > 0).astype(np.int64), "probability": expit(outputs)}

    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """The metrics of the module docstring."""
        truth, outputs = self._pair(outputs, target)
        guess = outputs > 0
        both = np.flatnonzero((truth.min(axis=0) == 0) & (truth.max(axis=0) == 1))
        precision = [sk.average_precision_score(truth[:, k], outputs[:, k]) for k in both]
        area = [sk.roc_auc_score(truth[:, k], outputs[:, k]) for k in both]
        return {
            "average_precision": float(np.mean(precision)) if precision else float("nan"),
            "average_precision_micro": (
                float(sk.average_precision_score(truth.ravel(), outputs.ravel())) if truth.any() else float("nan")
            ),
            "auc": float(np.mean(area)) if area else float("nan"),
            "f1_macro": float(_f1(truth, guess, axis=0, empty=0.0).mean()),
            "f1_micro": float(_f1(truth, guess, axis=None, empty=0.0)),
            "f1_samples": float(_f1(truth, guess, axis=1, empty=1.0).mean()),
            "subset_accuracy": float((guess == truth).all(axis=1).mean()),
            "hamming_loss": float((guess != truth).mean()),
            "log_loss": float((np.logaddexp(0.0, outputs) - truth * outputs).mean()),
        }

    def scores(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """F1 of each row's set of labels, 1 where both sets are empty."""
        truth, outputs = self._pair(outputs, target)
        return _f1(truth, outputs > 0, axis=1, empty=1.0)

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``roc.png``, one curve per label (if some label has both positive and negative rows)."""
        truth, outputs = self._pair(outputs, target)
        if not ((truth.min(axis=0) == 0) & (truth.max(axis=0) == 1)).any():
            return []
        names = [f"label {k}" for k in range(self.outputs)]
        return [plots.roc(truth, expit(outputs), names, folder)]

    def settings(self) -> dict[str, Any]:
        return {"prior": self.prior}

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """``(..., K, 2)``: ``K`` variables with the states "not there" and "there"."""
        return torch.stack([F.logsigmoid(-outputs), F.logsigmoid(outputs)], dim=-1)

    def from_log_probabilities(self, log_p: Tensor) -> Tensor:
        """``(..., K)`` logits, ``log p(there) - log p(not there)``."""
        return log_p[..., 1] - log_p[..., 0]

    def log_prior(self) -> Tensor:
        """``(K, 2)``."""
        prior = torch.tensor(self.prior)
        return torch.stack([1 - prior, prior], dim=-1).log()

    def _pair(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        truth = self.encode(target).numpy()
        return truth, check_outputs(outputs, self.outputs, len(truth))


def _f1(truth: np.ndarray, guess: np.ndarray, axis: int | None, empty: float) -> np.ndarray:
    """``2 both / (true + predicted)`` over an axis of ``(N, K)``; ``empty`` where nothing is true or predicted."""
    total = truth.sum(axis=axis) + guess.sum(axis=axis)
    return np.where(total == 0, empty, 2 * (truth * guess).sum(axis=axis) / np.maximum(total, 1))


def _binary(target: np.ndarray) -> np.ndarray:
    """The target as float64 ``(N, K)`` of zeros and ones."""
    target = np.asarray(target)
    if target.ndim != 2 or not target.size:
        raise UserError(
            "a multilabel target is (N, K), one column per label, with at least one row",
            f"shape {target.shape}",
            "for one label per row use the task 'classification'",
        )
    refuse_missing(target)
    try:
        values = target.astype(np.float64)
        rows = np.flatnonzero(~np.isin(values, (0.0, 1.0)).all(axis=1))
    except (TypeError, ValueError):
        rows = np.arange(len(target))
    if len(rows):
        raise UserError(
            "a multilabel target holds zeros and ones",
            f"other values in rows {some(rows.tolist())}, such as {some(target[rows[0]].tolist())}",
            "write 1 where the label is there and 0 where it is not",
        )
    return values
