"""The interface of a task: what is asked of a representation.

A task is fitted on the training target and then owns everything between a head's outputs ``(B, K)`` and an answer: the
encoding of the target, the loss of each row, the decision, the metrics, the figures. It holds no weights; its
:meth:`Task.config` is JSON and rebuilds it.

It also *says* what the rooms above have to know, so that they never ask which task it is: how a table's target is read
(``reads``), how outputs relate to probabilities or values (``link``), what a classical model has to be
(``estimator``), the names of what is answered (``labels``), and the metric it is judged by (``primary``, with the
``reason``). A new task is one file.

``encode`` and ``loss`` serve training and give tensors; ``decide``, ``metrics``, ``scores`` and ``figures`` take
arrays, and the target as it stands in the table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from torch import Tensor

from weft.data.targets import Reads, tasks
from weft.errors import UserError, did_you_mean, some
from weft.tasks.checks import missing
from weft.tasks.judge import Judge
from weft.tasks.links import Link
from weft.tasks.metrics import Metric

Estimator = Literal["classifier", "per-label", "regressor"]


class Task(Judge):
    """Base of every task.

    Attributes:
        outputs: width ``K`` of the head.
        labels: the names of what is answered (classes, labels, target columns), in their order.
        primary, higher_is_better: the metric that models are selected and compared by, a key of ``judges``.
        reason: why that one, in words.

    Class attributes:
        reads: how a table's target is read: ``"classes"`` (one word or whole number per row), ``"numbers"``, ``"sets"``
            of labels, or ``"columns"`` (several columns of numbers side by side, ``(N, C)``).
        link: how outputs relate to probabilities, or that they are values.
        estimator: the classical model that can answer: one ``"classifier"``, one ``"per-label"``, or a ``"regressor"``
            of :meth:`response`.
        judges: the metrics by name.
        sensitive: the one of them that sees best whether anything predicts the target at all.

    Example:
        >>> import numpy as np
        >>> from weft.tasks.base import create_task
        >>> task = create_task("classification", np.array(["cat", "dog", "dog"]))
        >>> outputs = np.array([[2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
        >>> task.decide(outputs)["prediction"].tolist()
        ['cat', 'dog']
        >>> task.metrics(outputs, np.array(["cat", "cat"]))["accuracy"]
        0.5
    """

    outputs: int
    labels: list[str]
    reason: str
    reads: ClassVar[Reads]
    link: ClassVar[Link]
    estimator: ClassVar[Estimator]
    judges: ClassVar[Mapping[str, Metric]]
    sensitive: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, target: np.ndarray, *, labels: Sequence[str] | None = None, metric: str | None = None) -> Self:
        """Learn the classes or the scale of the training target, ``(N,)`` or ``(N, K)``. Tasks may take more settings.

        Args:
            target: of the training rows.
            labels: names of the answers, where the target itself does not have them.
            metric: the primary metric; None: the one that suits this target.

        Raises:
            UserError: values are missing, of the wrong kind, or all the same; the rows are named.
        """

    @classmethod
    def check_rows(cls, target: np.ndarray, ids: Sequence[str]) -> None:
        """Refuse rows of a target ``(N, C)`` of several columns, by their ids; default: nothing.

        Raises:
            UserError: a row cannot be learned from.
        """
        return

    @abstractmethod
    def encode(self, target: np.ndarray) -> Tensor:
        """What :meth:`loss` compares with, one row per row of the target.

        Raises:
            UserError: a missing value, or one that the training target cannot explain; the rows are named.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Loss of each row, ``(B,)``, from outputs ``(B, K)`` and an encoded target."""

    @abstractmethod
    def decide(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Answers from outputs ``(N, K)``: ``"prediction"`` in the words and units of the table, and more."""

    @abstractmethod
    def judged(self, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Truth and answers as the metrics in ``judges`` take them, all with a row per row of the target."""

    @abstractmethod
    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """Draw the task's figures as PNG files in ``folder``."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""

    def figures_of_methods(self, outputs: Mapping[str, np.ndarray], target: np.ndarray, folder: Path) -> list[Path]:
        """Draw methods side by side: ``{method: (S, N, K)}`` outputs of ``S`` seeds. Default: nothing."""
        return []

    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Every metric of outputs ``(N, K)`` against the raw target; NaN where these rows do not define one."""
        truth, answers = self.judged(outputs, target)
        return {name: metric.whole(truth, *answers) for name, metric in self.judges.items()}

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return self.judges[self.primary]

    @final
    def primary_metric(self, outputs: np.ndarray, target: np.ndarray) -> float:
        """What :meth:`metrics` has under ``primary``, alone."""
        truth, answers = self.judged(outputs, target)
        return self.metric.whole(truth, *answers)

    @final
    def quality(self, outputs: np.ndarray, target: np.ndarray) -> float:
        """The primary metric of outputs ``(n, K)`` as larger-is-better; -inf where these rows do not define it."""
        value = self.primary_metric(outputs, target)
        return (value if self.higher_is_better else -value) if np.isfinite(value) else -np.inf

    @final
    def scores(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """``(N,)`` what each row adds to the primary metric, higher is better.

        Raises:
            UserError: the primary metric is no mean over rows (``metric.rows`` is None).
        """
        truth, answers = self.judged(outputs, target)
        if self.metric.rows is None:
            raise UserError(f"{self.primary} is no mean over rows", "no score of a row", "judge all rows by metrics()")
        rows = self.metric.rows(truth, *answers)
        return rows if self.higher_is_better else -rows

    def choose_metric(self, metric: str | None, default: str, reason: str) -> None:
        """Set ``primary`` and ``reason``: ``metric`` where one was asked for, else the default.

        Raises:
            UserError: the task has no such metric.
        """
        if metric is not None and metric not in self.judges:
            raise UserError(
                f"no metric of this task is called {metric!r}",
                f"it has {some(self.judges, 20)}",
                did_you_mean(metric, self.judges, "metrics"),
            )
        self.primary, self.reason = (default, reason) if metric in (None, default) else (str(metric), "as asked")
        self.higher_is_better = self.metric.higher_is_better

    @final
    def config(self) -> dict[str, Any]:
        """JSON that :meth:`from_config` turns back into this task: its registered name and its settings."""
        return {"name": tasks.name_of(type(self)), **self.settings()}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Task:
        """The task that wrote ``config``, whatever its class."""
        return tasks.get(config["name"])(**{key: value for key, value in config.items() if key != "name"})

    @property
    def probabilistic(self) -> bool:
        """Whether outputs stand for a distribution (:meth:`log_probabilities`)."""
        return self.link.log_probabilities is not None

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Outputs ``(..., K)`` as log-probabilities ``(..., V, C)`` of ``V`` variables with ``C`` states each.

        Raises:
            UserError: the task predicts values, not probabilities.
        """
        if self.link.log_probabilities is None:
            raise self._no_probabilities()
        return self.link.log_probabilities(outputs)

    def from_log_probabilities(self, log_p: Tensor) -> Tensor:
        """Outputs ``(..., K)`` whose :meth:`log_probabilities` are ``log_p`` ``(..., V, C)``, normalised."""
        if self.link.from_log_probabilities is None:
            raise self._no_probabilities()
        return self.link.from_log_probabilities(log_p)

    def log_prior(self) -> Tensor:
        """``(V, C)`` log-frequencies of the training target, for rules that count the prior once."""
        raise self._no_probabilities()

    def response(self, target: np.ndarray) -> np.ndarray:
        """What a classical model is fitted to: codes ``(N,)``, zeros and ones ``(N, K)``, or values ``(N, K)``."""
        return self.encode(target).numpy()

    def row_weights(self, target: np.ndarray) -> np.ndarray | None:
        """Weights of the rows in the loss, shaped like :meth:`response`; None where all are alike."""
        return None

    @final
    def from_estimator(self, answers: np.ndarray) -> np.ndarray:
        """Outputs ``(N, K)`` float32 from what classical models say.

        Args:
            answers: probabilities ``(N, C)`` of the states (``"classifier"``), ``(N, K)`` of the labels
                (``"per-label"``), all strictly between 0 and 1, or values ``(N, K)`` (``"regressor"``).
        """
        if self.estimator == "regressor":
            return np.asarray(answers, dtype=np.float32)
        p = torch.from_numpy(np.asarray(answers, dtype=np.float64))
        p = p.unsqueeze(-2) if self.estimator == "classifier" else torch.stack([1 - p, p], dim=-1)
        return self.from_log_probabilities(p.log()).float().numpy()

    @final
    def average(self, outputs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Outputs ``(N, K)`` of a weighted mean of ``M`` models ``(M, N, K)``: of probabilities, or of values."""
        members = torch.from_numpy(np.asarray(outputs, dtype=np.float64))
        weight = torch.ones(len(members)) if weights is None else torch.from_numpy(np.asarray(weights))
        return self.mix(members, weight.double()).float().numpy()

    @final
    def mix(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """:meth:`average` of tensors, ``(M, N, K)`` and ``(M,)``."""
        share = weights / weights.sum()
        if not self.probabilistic:
            return torch.einsum("m,mnk->nk", share, outputs)
        log_p = self.log_probabilities(outputs) + share.log()[:, None, None, None]
        return self.from_log_probabilities(log_p.logsumexp(dim=0))

    def _no_probabilities(self) -> UserError:
        return UserError(
            f"{type(self).__name__} predicts values, not probabilities",
            f"link {self.link.name!r}",
            "use a rule that combines values: mean, weighted, inverse-variance",
        )


FEW_VALUES = 20
"""Numbers with at most this many distinct whole values are guessed to be classes."""


def create_task(name: str, target: np.ndarray, **settings: Any) -> Task:
    """Fit a registered task on the training target: ``create_task("classification", targets["label"][train])``.

    ``settings`` are those of :meth:`Task.fit`; those that are None or empty count as not given.

    Raises:
        UserError: an unknown task, a setting that it does not take, or a target that it refuses.
    """
    cls, given = tasks.get(name), {key: value for key, value in settings.items() if value}
    known = [key for key in signature(cls.fit).parameters if key != "target"]
    odd = [key for key in given if key not in known]
    if odd:
        raise UserError(
            f"the task {name!r} takes no {odd[0].replace('_', ' ')}",
            f"{odd[0]}={given[odd[0]]!r}",
            f"leave it out; it takes {some(known)}",
        )
    task: Task = cls.fit(target, **given)
    return task


def guess_task(target: np.ndarray) -> str:
    """Name of the task a target ``(N,)`` or ``(N, K)`` looks like; missing values are left out of the guess.

    Two axes of zeros and ones are ``"multilabel"``, other numbers on two axes ``"regression"``. Strings, booleans and
    at most 20 distinct whole numbers are ``"classification"``, other numbers ``"regression"``.

    Raises:
        UserError: no value is there, or the array has more than two axes.
    """
    target = np.asarray(target)
    if target.ndim not in (1, 2) or target.size == 0:
        raise UserError("a target is (N,) or (N, K)", f"shape {target.shape}", "give one value, or one row, per sample")
    values = target[~missing(target)]
    if not values.size:
        raise UserError("a target needs values", "every one is missing", "check the target column in the table")
    try:
        numbers = values.astype(np.float64)
        textual = any(isinstance(v, str) for v in values[:1].tolist()) or values.dtype.kind in "US"
    except (TypeError, ValueError):
        numbers, textual = np.empty(0), True
    if target.ndim == 2:
        return "multilabel" if not textual and np.isin(numbers, (0.0, 1.0)).all() else "regression"
    if textual:
        return "classification"
    distinct = np.unique(numbers)
    few = len(distinct) <= FEW_VALUES and bool((distinct == np.floor(distinct)).all())
    return "classification" if few else "regression"
