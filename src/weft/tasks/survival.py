r"""Survival: when does it happen, where for some rows it is only known that it had not happened yet.

The target is ``(N, 2)``: a time above zero, and 1 where the event was seen then, 0 where the row is censored
(observed no longer). The output ``o`` is the log-hazard relative to the other rows; the loss is Cox's partial
likelihood with Breslow's treatment of ties, where the rows of a batch compete with each other:

.. math:: \ell_i = e_i \Big( \log \sum_{j:\ t_j \ge t_i} \exp o_j - o_i \Big)

so a batch should be large, and rows say nothing alone. Cost O(B log B). The primary metric is Harrell's concordance.

A classical model is a regressor of the null martingale residual :math:`e_i - H_0(t_i)`, with the Nelson-Aalen
cumulative hazard :math:`H_0` of the training rows: the direction in which the partial likelihood grows at ``o = 0``.

Sources: Cox 1972; Breslow 1974; Harrell et al. 1982; Therneau, Grambsch, Fleming 1990 (martingale residuals); Katzman
et al. 2018 (DeepSurv: the partial likelihood as a network's loss). Not for competing events or changing covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from weft.data.targets import Reads
from weft.errors import UserError, count, some
from weft.tasks import plots
from weft.tasks.base import Estimator, Task, tasks
from weft.tasks.checks import check_outputs, refuse_missing
from weft.tasks.links import IDENTITY, Link
from weft.tasks.metrics import TIMES, Metric


@tasks.register("survival")
class SurvivalTask(Task):
    """Relative hazard of an event in time.

    Args:
        times: when events happened in the training rows, increasing.
        hazard: the Nelson-Aalen cumulative hazard just after each of them.
        labels: names of the two columns of the target.
        metric: the primary metric; None: ``concordance``.
    """

    outputs = 1
    reads: ClassVar[Reads] = "columns"
    link: ClassVar[Link] = IDENTITY
    estimator: ClassVar[Estimator] = "regressor"
    judges: ClassVar[Mapping[str, Metric]] = TIMES
    sensitive: ClassVar[str] = "concordance"

    def __init__(
        self,
        times: Sequence[float],
        hazard: Sequence[float],
        labels: Sequence[str] | None = None,
        metric: str | None = None,
    ) -> None:
        self.times, self.hazard = list(times), list(hazard)
        self.labels = list(labels) if labels else ["time", "event"]
        self.choose_metric(metric, "concordance", "it asks who comes first, which censored rows can answer too")

    @classmethod
    def fit(cls, target: np.ndarray, *, labels: Sequence[str] | None = None, metric: str | None = None) -> Self:
        """Learn the cumulative hazard of all training rows, target ``(N, 2)``, together.

        Raises:
            UserError: values are missing, times are not positive, events not 0 and 1, or there are fewer than two.
        """
        values = _times(target)
        _refuse_without_events(values)
        times, events = np.unique(values[values[:, 1] == 1, 0], return_counts=True)
        at_risk = (values[:, 0] >= times[:, None]).sum(axis=1)
        return cls(times.tolist(), np.cumsum(events / at_risk).tolist(), labels, metric)

    @classmethod
    def check_rows(cls, target: np.ndarray, ids: Sequence[str]) -> None:
        """Refuse what :meth:`fit` refuses, in all rows, by their ids."""
        _refuse_without_events(_times(target, ids))

    def encode(self, target: np.ndarray) -> Tensor:
        """``(N, 2)`` float32: time and event.

        Raises:
            UserError: as :meth:`fit`.
        """
        return torch.from_numpy(_times(target).astype(np.float32))

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Partial likelihood ``(B,)`` of log-hazards ``(B, 1)``; zero for censored rows."""
        risk, time, event = outputs[:, 0], target[:, 0], target[:, 1]
        order = torch.argsort(time, descending=True, stable=True)
        at_risk = torch.logcumsumexp(risk[order], dim=0)
        # rows with equal times are all at risk together: take the value at the last of them
        last = torch.searchsorted(-time[order].contiguous(), -time.contiguous(), right=True) - 1
        return event.to(risk.dtype) * (at_risk[last] - risk)

    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """``prediction`` ``(N,)``: the log-hazard; the larger, the sooner."""
        return {"prediction": check_outputs(outputs, 1)[:, 0]}

    def judged(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        truth = _times(target)
        return truth, (check_outputs(outputs, 1, len(truth))[:, 0],)

    def response(self, target: np.ndarray) -> np.ndarray:
        """The null martingale residuals ``(N, 1)``."""
        values = _times(target)
        steps = np.searchsorted(self.times, values[:, 0], side="right")
        return (values[:, 1] - np.append(0.0, self.hazard)[steps])[:, None]

    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """``survival.png``: Kaplan-Meier curves of the thirds with the lowest, middle and highest hazard."""
        truth, (risk,) = self.judged(outputs, target)
        third = np.argsort(np.argsort(risk, kind="stable"), kind="stable") * 3 // len(risk)
        names = ("lowest hazard", "middle", "highest hazard")
        lines = {name: kaplan_meier(truth[third == k]) for k, name in enumerate(names) if (third == k).any()}
        return [plots.steps(lines, "survival", folder, xlabel=self.labels[0], ylabel="share without event")]

    def settings(self) -> dict[str, Any]:
        return {"times": self.times, "hazard": self.hazard, "labels": self.labels, "metric": self.primary}


def kaplan_meier(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times and the share without event from each on, starting at ``(0, 1)``, for times and events ``(N, 2)``."""
    times, events = np.unique(truth[truth[:, 1] == 1, 0], return_counts=True)
    at_risk = (truth[:, 0] >= times[:, None]).sum(axis=1)
    return np.append(0.0, times), np.append(1.0, np.cumprod(1 - events / at_risk))


def _refuse_without_events(values: np.ndarray) -> None:
    if values[:, 1].sum() < 2:
        found = f"{int(values[:, 1].sum())} in {len(values)} rows"
        raise UserError("a survival target has events", found, "1 is an event, 0 is censored: check the column")


def _times(target: np.ndarray, ids: Sequence[str] | None = None) -> np.ndarray:
    """The target as float64 ``(N, 2)``; its rows are called by their ids, else by their place."""
    target = np.asarray(target)
    if target.ndim != 2 or target.shape[1] != 2 or not len(target):
        raise UserError(
            "a survival target is (N, 2): time, and 1 for an event or 0 for a censored row",
            f"shape {target.shape}",
            "name two columns: target: [time, event]",
        )
    refuse_missing(target)
    try:
        values = target.astype(np.float64)
    except (TypeError, ValueError):
        raise UserError("times and events are numbers", f"{some(target[0].tolist())}", "convert the columns") from None
    wrong = np.flatnonzero(~((values[:, 0] > 0) & np.isfinite(values[:, 0]) & np.isin(values[:, 1], (0.0, 1.0))))
    if len(wrong):
        names = [int(row) if ids is None else ids[row] for row in wrong]
        raise UserError(
            "times are above zero, events 0 or 1",
            f"{count(len(wrong), 'row')}, {some(names)}; the first has {some(values[wrong[0]].tolist())}",
            "correct these rows, empty their time (rows without a target are left out), or swap the two columns"
            if len(wrong) < len(values)
            else "swap the two columns of the target, time first; or name others",
        )
    return values
