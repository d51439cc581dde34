"""Classification: one of ``K`` classes per row, binary (``K = 2``) or more.

Outputs are logits ``(B, K)``, ``p = softmax(outputs)``; the loss is the cross-entropy ``-log p[y]``. The score of a
row, for paired tests, is 1 where the prediction is right and 0 where it is wrong: its mean is the primary metric.

Metrics, by scikit-learn where it has them: ``accuracy``; ``balanced_accuracy`` (mean recall of the classes that occur);
``f1_macro`` (over the classes that occur or are predicted), ``f1_micro``; ``auc`` (binary: of the second class; more:
one-vs-rest, mean over the classes that have both positive and negative rows); ``log_loss``; ``brier`` (``sum_k (p_k -
[y = k])^2``, in [0, 2]); ``ece``, the expected calibration error: 15 bins of equal width over the confidence
``max_k p_k``, ``sum_b n_b / N |accuracy_b - mean confidence_b|`` (Guo et al. 2017, On Calibration of Modern Neural
Networks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError, some
from weft.tasks import plots
from weft.tasks.base import Task, check_outputs, refuse_missing, tasks
from weft.tasks.calibration import expected_calibration_error


@tasks.register("classification")
class ClassificationTask(Task):
    """One of several classes.

    Args:
        classes: the labels in the order of the outputs; strings, ints or bools.
        prior: training frequency of each class; uniform if not given.
    """

    primary = "accuracy"
    higher_is_better = True

    def __init__(self, classes: Sequence[str | int | bool], prior: Sequence[float] | None = None) -> None:
        self.classes = list(classes)
        self.outputs = len(self.classes)
        self.prior = [1.0 / self.outputs] * self.outputs if prior is None else list(prior)
        self._index = {label: index for index, label in enumerate(self.classes)}

    @classmethod
    def fit(cls, target: np.ndarray) -> Self:
        """Learn the classes, sorted, and their frequencies.

        Raises:
            UserError: values are missing or fractional, or there is only one class.
        """
        classes, counts = np.unique(_labels(target), return_counts=True)
        if len(classes) < 2:
            raise UserError(
                "a classification target needs at least two classes",
                f"only {some(classes.tolist())} in {counts.sum()} rows",
                "check the target column and the split; group rows of one class into several splits",
            )
        return cls(classes.tolist(), (counts / counts.sum()).tolist())

    def encode(self, target: np.ndarray) -> Tensor:
        """Class indices ``(N,)`` int64.

        Raises:
            UserError: a missing value, or a class that the training target does not have.
        """
        labels, where = np.unique(_labels(target), return_inverse=True)
        unseen = [label for label in labels.tolist() if label not in self._index]
        if unseen:
            rows = np.flatnonzero(np.isin(labels, unseen)[where])
            raise UserError(
                "the target has classes that were not in the training rows",
                f"classes {some(unseen)} in rows {some(rows.tolist())}; known: {some(self.classes)}",
                "fit on rows that hold every class (a stratified split does), or drop these rows",
            )
        indices = np.array([self._index[label] for label in labels.tolist()], dtype=np.int64)
        return torch.from_numpy(indices[where.reshape(-1)])

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy ``(B,)`` of logits ``(B, K)`` with class indices ``(B,)``."""
        return F.cross_entropy(outputs, target, reduction="none")

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` (N,) labels, ``probability`` (N, K) in the order of ``classes``, ``confidence`` (N,)."""
        probability = self._probability(outputs)
        prediction = np.array(self.classes)[probability.argmax(axis=1)]
        return {"prediction": prediction, "probability": probability, "confidence": probability.max(axis=1)}

    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """The metrics of the module docstring; ``auc`` is NaN if only one class occurs."""
        truth = self.encode(target).numpy()
        outputs = check_outputs(outputs, self.outputs, len(truth))
        p = self._probability(outputs)
        guess = p.argmax(axis=1)
        hot = np.eye(self.outputs)[truth]
        seen = np.unique(truth)
        log_p = log_softmax(outputs, axis=1)
        return {
            "accuracy": float(sk.accuracy_score(truth, guess)),
            "balanced_accuracy": float(sk.recall_score(truth, guess, labels=seen, average="macro")),
            "f1_macro": float(sk.f1_score(truth, guess, average="macro", zero_division=0)),
            "f1_micro": float(sk.f1_score(truth, guess, average="micro")),
            "auc": _one_vs_rest_auc(hot, p),
            "log_loss": float(-log_p[np.arange(len(truth)), truth].mean()),
            "brier": float(((p - hot) ** 2).sum(axis=1).mean()),
            "ece": expected_calibration_error(p.max(axis=1), guess == truth),
        }

    def scores(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """1 where the prediction is right, 0 where it is wrong."""
        truth = self.encode(target).numpy()
        return (check_outputs(outputs, self.outputs, len(truth)).argmax(axis=1) == truth).astype(np.float64)

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``confusion.png``, ``roc.png`` (if more than one class occurs) and ``reliability.png``."""
        truth = self.encode(target).numpy()
        p = self._probability(check_outputs(outputs, self.outputs, len(truth)))
        names = [str(label) for label in self.classes]
        guess = p.argmax(axis=1)
        drawn = [plots.confusion(sk.confusion_matrix(truth, guess, labels=range(self.outputs)), names, folder)]
        if len(np.unique(truth)) > 1:
            hot = np.eye(self.outputs)[truth]
            first = 1 if self.outputs == 2 else 0
            curves = [name if isinstance(name, str) else f"class {name}" for name in self.classes]
            drawn.append(plots.roc(hot[:, first:], p[:, first:], curves[first:], folder))
        return [*drawn, plots.reliability(p.max(axis=1), guess == truth, folder)]

    def figures_of_methods(self, outputs: Mapping[str, np.ndarray], target: np.ndarray, folder: Path) -> list[Path]:
        """``roc-methods.png``, one panel per method (if more than one class occurs)."""
        truth = self.encode(target).numpy()
        if len(np.unique(truth)) < 2:
            return []
        first = 1 if self.outputs == 2 else 0
        hot = np.eye(self.outputs)[truth][:, first:]
        p = {name: np.stack([self._probability(o) for o in seeds])[:, :, first:] for name, seeds in outputs.items()}
        return [plots.roc_panels(hot, p, [str(label) for label in self.classes[first:]], folder)]

    def settings(self) -> dict[str, Any]:
        return {"classes": self.classes, "prior": self.prior}

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """``(..., 1, K)``: one variable whose states are the classes."""
        return F.log_softmax(outputs, dim=-1).unsqueeze(-2)

    def from_log_probabilities(self, log_p: Tensor) -> Tensor:
        """``(..., K)`` normalised log-probabilities."""
        return F.log_softmax(log_p[..., 0, :], dim=-1)

    def log_prior(self) -> Tensor:
        """``(1, K)``."""
        return torch.tensor([self.prior]).log()

    def _probability(self, outputs: np.ndarray) -> np.ndarray:
        return np.exp(log_softmax(check_outputs(outputs, self.outputs), axis=1))


def _one_vs_rest_auc(hot: np.ndarray, p: np.ndarray) -> float:
    """Mean AUC over the classes with both positive and negative rows; for two classes, that of the second."""
    columns = [1] if hot.shape[1] == 2 else range(hot.shape[1])
    areas = [sk.roc_auc_score(hot[:, k], p[:, k]) for k in columns if 0 < hot[:, k].sum() < len(hot)]
    return float(np.mean(areas)) if areas else float("nan")


def _labels(target: np.ndarray) -> np.ndarray:
    """Labels as an array of strings, ints or bools; whole floats become ints."""
    target = np.asarray(target)
    if target.ndim != 1 or not len(target):
        raise UserError(
            "a classification target is one label per row, (N,), and at least one row",
            f"shape {target.shape}",
            "several labels per row are a 'multilabel' target of zeros and ones, (N, K)",
        )
    refuse_missing(target)
    if target.dtype.kind == "O":
        values = target.tolist()
        if len({isinstance(v, str) for v in values}) > 1:
            raise UserError(
                "a classification target mixes strings and numbers",
                f"{some(sorted({str(type(v).__name__) for v in values}))}",
                "write every label as a string",
            )
        target = np.array(values)
    if target.dtype.kind == "f":
        rows = np.flatnonzero(target != np.floor(target))
        if len(rows):
            raise UserError(
                "class labels are strings or whole numbers",
                f"{some(target[rows].tolist())} in rows {some(rows.tolist())}",
                "for real values use the task 'regression'",
            )
        return target.astype(np.int64)
    if target.dtype.kind in "iu":
        return target.astype(np.int64)
    if target.dtype.kind in "Ub":
        return target
    raise UserError("class labels are strings, whole numbers or booleans", f"{target.dtype}", "convert the column")
