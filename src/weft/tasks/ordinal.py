r"""Ordinal classification: one of ``C`` classes that have an order, such as grades, stars or stages.

Outputs are ``K = C - 1`` logits, one per step up: :math:`P(y > k \mid y \ge k) = \sigma(o_k)`. The loss is the negative
log-likelihood of the observed class,

.. math:: \ell = -\sum_{k < y} \log \sigma(o_k) - [y < C - 1] \log \sigma(-o_y)

so every step is a binary question to the rows that came so far, and the distribution is consistent whatever the
outputs. The prediction is the median of the distribution, which minimises the expected distance in classes.

The primary metric is Cohen's kappa with quadratic weights: being wrong by two classes counts four times as much as by
one. Words need their order: ``labels`` of the table, lowest first; numbers are sorted.

Source: Shi, Cao, Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based on Conditional
Probabilities" (CORN), 2023, arXiv 2111.08851; McCullagh 1980 has the continuation ratio. Not for classes without an
order: it would learn one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError, some
from weft.tasks.base import tasks
from weft.tasks.checks import check_outputs
from weft.tasks.classification import OneOfClasses
from weft.tasks.links import SEQUENTIAL, Link
from weft.tasks.metrics import ORDERED, Metric


@tasks.register("ordinal")
class OrdinalTask(OneOfClasses):
    """One of several classes, lowest first."""

    link: ClassVar[Link] = SEQUENTIAL
    judges: ClassVar[Mapping[str, Metric]] = ORDERED
    sensitive: ClassVar[str] = "spearman"

    fewer: ClassVar[int] = 1

    @classmethod
    def _ordered(cls, share: dict[Any, float], labels: list[str]) -> dict[Any, float]:
        """Numbers by their value, also where they are words; other words need ``labels``."""
        if labels:
            return super()._ordered(share, labels)
        try:
            return {label: share[label] for label in sorted(share, key=float)}
        except ValueError:
            raise UserError(
                "ordinal classes that are words need their order",
                some(share),
                "give labels, lowest first: labels: [low, middle, high]",
            ) from None

    @classmethod
    def _lacking(cls, labels: list[str], found: Collection[str]) -> list[str]:
        """None: a scale is what it is, whatever steps of it some rows take."""
        return []

    def _suited(self) -> tuple[str, str]:
        return "kappa_quadratic", "the classes have an order, so a near miss is better than a far one"

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood ``(B,)`` of logits ``(B, C - 1)`` for class indices ``(B,)``."""
        log_p = self.log_probabilities(outputs).squeeze(-2)
        return self._weighted(-log_p.gather(-1, target.unsqueeze(-1))[..., 0], target)

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` (N,) the median class, ``probability`` (N, C), ``confidence`` (N,) of the prediction."""
        log_p = self._log_p(check_outputs(outputs, self.outputs))
        guess, probability = _median(log_p), np.exp(log_p)
        confidence = probability[np.arange(len(guess)), guess]
        return {"prediction": np.array(self.classes)[guess], "probability": probability, "confidence": confidence}

    def judged(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        truth = self.encode(target).numpy()
        log_p = self._log_p(check_outputs(outputs, self.outputs, len(truth)))
        return truth, (_median(log_p), log_p)

    def _log_p(self, outputs: np.ndarray) -> np.ndarray:
        log_p: np.ndarray = self.log_probabilities(torch.from_numpy(outputs))[..., 0, :].numpy()
        return log_p


def _median(log_p: np.ndarray) -> np.ndarray:
    """``(N,)`` how many classes more than half of the probability lies above."""
    beyond = np.exp(log_p)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    return np.asarray((beyond > 0.5).sum(axis=1))
