"""Multilabel: any number of ``K`` labels per row.

The target is ``(N, K)`` of zeros and ones. Outputs are logits ``(B, K)``, ``p_k = sigmoid(output_k)``; the loss of a
row is the binary cross-entropy, mean over the labels. A label is predicted where ``p_k > 0.5``.

The primary metric is ``average_precision``, the mean over the labels of the area under precision and recall: it needs
no threshold and counts rare labels like common ones.

The metrics are ``FLAGS`` of :mod:`weft.tasks.metrics`; means over labels leave out those without both positive and
negative rows. With ``class_weights="balanced"`` both answers to a label count alike in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from weft.data.targets import Reads
from weft.errors import UserError, some
from weft.tasks import plots
from weft.tasks.base import Estimator, Task, tasks
from weft.tasks.checks import check_outputs, refuse_missing
from weft.tasks.classification import Weights
from weft.tasks.links import SIGMOID, Link
from weft.tasks.metrics import FLAGS, Metric


@tasks.register("multilabel")
class MultilabelTask(Task):
    """Any number of labels per row.

    Args:
        prior: training frequency of each label, ``K`` floats strictly between 0 and 1.
        labels: their names; "0", "1", ... if not given.
        metric: the primary metric; None: ``average_precision``.
        class_weights: "balanced": in the loss, there and not there count alike.
    """

    reads: ClassVar[Reads] = "sets"
    link: ClassVar[Link] = SIGMOID
    estimator: ClassVar[Estimator] = "per-label"
    judges: ClassVar[Mapping[str, Metric]] = FLAGS
    sensitive: ClassVar[str] = "auc"

    def __init__(
        self,
        prior: Sequence[float],
        labels: Sequence[str] | None = None,
        metric: str | None = None,
        class_weights: Weights = None,
    ) -> None:
        self.prior = list(prior)
        self.outputs = len(self.prior)
        self.labels = list(labels) if labels else [str(k) for k in range(self.outputs)]
        self.class_weights = class_weights
        self.choose_metric(metric, "average_precision", "it needs no threshold and counts rare labels like common ones")

    @classmethod
    def fit(
        cls,
        target: np.ndarray,
        *,
        labels: Sequence[str] | None = None,
        metric: str | None = None,
        class_weights: Weights = None,
    ) -> Self:
        """Learn the frequency of each label of a target ``(N, K)`` of zeros and ones.

        Raises:
            UserError: values are missing or not 0 and 1, or a label is the same in every row.
        """
        values = _binary(target)
        if labels and len(labels) != values.shape[1]:
            found = f"{len(labels)} labels, {values.shape[1]} columns"
            raise UserError("every column of a multilabel target has a name", found, "give one label per column")
        prior = values.mean(axis=0)
        constant = np.flatnonzero((prior == 0) | (prior == 1))
        if len(constant):
            names = [labels[k] for k in constant] if labels else constant.tolist()
            raise UserError(
                "every label of a multilabel target occurs in some training rows and not in others",
                f"labels {some(names)} are in none or all of {len(values)} rows",
                "drop these columns, or check the split",
            )
        return cls(prior.tolist(), labels, metric, class_weights)

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
        target = target.to(outputs.dtype)
        losses = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
        if self.class_weights is not None:
            prior = torch.tensor(self.prior, dtype=outputs.dtype, device=outputs.device)
            losses = losses * torch.where(target > 0, 0.5 / prior, 0.5 / (1 - prior))
        return losses.mean(dim=-1)

    def row_weights(self, target: np.ndarray) -> np.ndarray | None:
        """``(N, K)``, or None without class weights."""
        if self.class_weights is None:
            return None
        prior = np.asarray(self.prior)
        return np.where(self.encode(target).numpy() > 0, 0.5 / prior, 0.5 / (1 - prior))

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` ``(N, K)`` of zeros and ones, ``probability`` ``(N, K)``."""
        outputs = check_outputs(outputs, self.outputs)
        return {"prediction": (outputs > 0).astype(np.int64), "probability": expit(outputs)}

    def judged(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        truth = self.encode(target).numpy().astype(np.float64)
        return truth, (check_outputs(outputs, self.outputs, len(truth)),)

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``roc.png``, one curve per label (if some label has both positive and negative rows)."""
        truth, (outputs,) = self.judged(outputs, target)
        if not ((truth.min(axis=0) == 0) & (truth.max(axis=0) == 1)).any():
            return []
        return [plots.roc(truth, expit(outputs), self.labels, folder)]

    def settings(self) -> dict[str, Any]:
        return {
            "prior": self.prior,
            "labels": self.labels,
            "metric": self.primary,
            "class_weights": self.class_weights,
        }

    def log_prior(self) -> Tensor:
        """``(K, 2)``."""
        prior = torch.tensor(self.prior)
        return torch.stack([1 - prior, prior], dim=-1).log()


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
