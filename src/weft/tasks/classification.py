"""Classification: one of ``K`` classes per row, binary (``K = 2``) or more.

Outputs are logits ``(B, K)``, ``p = softmax(outputs)``; the loss is the cross-entropy ``-log p[y]``, with
``class_weights="balanced"`` times ``1 / (K prior[y])``, whose mean over the training rows is one.

The primary metric is accuracy; where one class holds three quarters of the training rows or more, it is the AUC, since
always answering that class would look good. The metrics are ``CLASSES`` of :mod:`weft.tasks.metrics`, and ``brier`` is
``sum_k (p_k - [y = k])^2``, in [0, 2].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor
from torch.nn import functional as F

from weft.data.targets import Reads
from weft.errors import UserError, some
from weft.tasks import plots
from weft.tasks.base import Estimator, Task, tasks
from weft.tasks.checks import check_outputs, refuse_missing
from weft.tasks.links import SOFTMAX, Link
from weft.tasks.metrics import CLASSES, Metric, confusion

Weights = Literal["balanced"] | None
RARE = 1e-6
"""The probability of a step of a scale that no training row has."""
LOPSIDED = 0.75
"""A class with this share of the rows makes accuracy say little."""


class OneOfClasses(Task):
    """What tasks with one class per row share: labels to codes and back, their frequencies and weights.

    Args:
        classes: the labels in their order; strings, ints or bools.
        prior: training frequency of each class; uniform if not given.
        metric: the primary metric; None: the one that suits the prior.
        class_weights: "balanced": in the loss every class counts alike.

    Class attributes:
        fewer: by how many the outputs are fewer than the classes.
    """

    reads: ClassVar[Reads] = "classes"
    estimator: ClassVar[Estimator] = "classifier"
    fewer: ClassVar[int] = 0

    def __init__(
        self,
        classes: Sequence[str | int | bool],
        prior: Sequence[float] | None = None,
        metric: str | None = None,
        class_weights: Weights = None,
    ) -> None:
        self.classes = list(classes)
        self.labels, self.outputs = [str(label) for label in self.classes], len(self.classes) - self.fewer
        self.prior = [1.0 / len(self.classes)] * len(self.classes) if prior is None else list(prior)
        self.class_weights = class_weights
        if class_weights not in (None, "balanced"):
            raise UserError("class weights are 'balanced' or none", repr(class_weights), "use 'balanced'")
        self._index = {name: index for index, name in enumerate(self.labels)}
        self.choose_metric(metric, *self._suited())

    def _suited(self) -> tuple[str, str]:
        """The metric that suits the classes, and why."""
        most = int(np.argmax(self.prior))
        if self.prior[most] >= LOPSIDED:
            share = f"{100 * self.prior[most]:.0f} %"
            return "auc", f"always answering {self.labels[most]!r} would be right in {share} of the training rows"
        return "accuracy", "no class holds three quarters of the training rows"

    @classmethod
    def fit(
        cls,
        target: np.ndarray,
        *,
        labels: Sequence[str] | None = None,
        metric: str | None = None,
        class_weights: Weights = None,
    ) -> Self:
        """Learn the classes, sorted or in the order of ``labels``, and their frequencies.

        Raises:
            UserError: values are missing or fractional, there is only one class, or one that ``labels`` lacks.
        """
        found, counts = np.unique(_labels(target), return_counts=True)
        if len(found) < 2:
            raise UserError(
                "a classification target needs at least two classes",
                f"only {some(found.tolist())} in {counts.sum()} rows",
                "check the target column and the split; group rows of one class into several splits",
            )
        share = dict(zip(found.tolist(), (counts / counts.sum()).tolist(), strict=True))
        share = cls._ordered(share, [str(label) for label in labels or ()])
        return cls(list(share), list(share.values()), metric=metric, class_weights=class_weights)

    @classmethod
    def _ordered(cls, share: dict[Any, float], labels: list[str]) -> dict[Any, float]:
        """The frequencies in the order of the labels; sorted, where there are none."""
        if not labels:
            return share
        by_name = {str(label): label for label in share}
        odd = [name for name in by_name if name not in labels] or cls._lacking(labels, by_name)
        if odd or len(set(labels)) < len(labels):
            raise UserError(
                "the labels list every class of the training rows once",
                f"{some(odd) or 'one twice'}; classes {some(by_name)}, labels {some(labels)}",
                "correct the list of labels",
            )
        kind = type(next(iter(share)))
        return {by_name.get(name, kind(name)): share.get(by_name.get(name), 0.0) for name in labels}

    @classmethod
    def _lacking(cls, labels: list[str], found: Collection[str]) -> list[str]:
        """The labels without a row that are refused."""
        return [name for name in labels if name not in found]

    def encode(self, target: np.ndarray) -> Tensor:
        """Class indices ``(N,)`` int64.

        Raises:
            UserError: a missing value, or a class that the training target does not have.
        """
        labels, where = np.unique(_labels(target), return_inverse=True)
        unseen = [label for label in labels.tolist() if str(label) not in self._index]
        if unseen:
            rows = np.flatnonzero(np.isin(labels, unseen)[where])
            raise UserError(
                "the target has classes that were not in the training rows",
                f"classes {some(unseen)} in rows {some(rows.tolist())}; known: {some(self.classes)}",
                "fit on rows that hold every class (a stratified split does), or drop these rows",
            )
        indices = np.array([self._index[str(label)] for label in labels.tolist()], dtype=np.int64)
        return torch.from_numpy(indices[where.reshape(-1)])

    def row_weights(self, target: np.ndarray) -> np.ndarray | None:
        """``(N,)``, or None without class weights."""
        return None if self.class_weights is None else self._weights()[self.encode(target).numpy()]

    def log_prior(self) -> Tensor:
        """``(1, C)``."""
        return torch.tensor([self.prior]).clamp_min(RARE).log()

    def settings(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "prior": self.prior,
            "metric": self.primary,
            "class_weights": self.class_weights,
        }

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``confusion.png``, ``roc.png`` (if more than one class occurs) and ``reliability.png``."""
        truth, (guess, log_p) = self.judged(outputs, target)
        p, count = np.exp(log_p), len(self.classes)
        drawn = [plots.confusion(confusion(truth, guess, count), self.labels, folder)]
        if len(np.unique(truth)) > 1:
            first = 1 if count == 2 else 0
            curves = [name if isinstance(name, str) else f"class {name}" for name in self.classes]
            drawn.append(plots.roc(np.eye(count)[truth][:, first:], p[:, first:], curves[first:], folder))
        return [*drawn, plots.reliability(p.max(axis=1), guess == truth, folder)]

    def figures_of_methods(self, outputs: Mapping[str, np.ndarray], target: np.ndarray, folder: Path) -> list[Path]:
        """``roc-methods.png``, one panel per method (if more than one class occurs)."""
        truth = self.encode(target).numpy()
        if len(np.unique(truth)) < 2:
            return []
        first = 1 if len(self.classes) == 2 else 0
        hot = np.eye(len(self.classes))[truth][:, first:]
        p = {
            name: np.exp(np.stack([self.judged(o, target)[1][1] for o in seeds]))[:, :, first:]
            for name, seeds in outputs.items()
        }
        return [plots.roc_panels(hot, p, self.labels[first:], folder)]

    def _weights(self) -> np.ndarray:
        """``(C,)`` with a mean of one over the training rows; classes it never saw count nothing."""
        prior = np.asarray(self.prior)
        return np.divide(1.0, prior * (prior > 0).sum(), out=np.zeros_like(prior), where=prior > 0)

    def _weighted(self, losses: Tensor, target: Tensor) -> Tensor:
        """Losses ``(B,)`` times the weight of each row's class."""
        if self.class_weights is None:
            return losses
        return losses * torch.from_numpy(self._weights()).to(losses)[target]


@tasks.register("classification")
class ClassificationTask(OneOfClasses):
    """One of several classes, in no order."""

    link: ClassVar[Link] = SOFTMAX
    judges: ClassVar[Mapping[str, Metric]] = CLASSES
    sensitive: ClassVar[str] = "auc"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy ``(B,)`` of logits ``(B, K)`` with class indices ``(B,)``."""
        return self._weighted(F.cross_entropy(outputs, target, reduction="none"), target)

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` (N,) labels, ``probability`` (N, K) in the order of ``classes``, ``confidence`` (N,)."""
        probability = np.exp(log_softmax(check_outputs(outputs, self.outputs), axis=1))
        prediction = np.array(self.classes)[probability.argmax(axis=1)]
        return {"prediction": prediction, "probability": probability, "confidence": probability.max(axis=1)}

    def judged(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        truth = self.encode(target).numpy()
        log_p = log_softmax(check_outputs(outputs, self.outputs, len(truth)), axis=1)
        return truth, (log_p.argmax(axis=1), log_p)


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
