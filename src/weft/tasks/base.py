"""The interface of a task: what is asked of a representation.

A task is fitted on the training target and then owns everything between a head's outputs ``(B, K)`` and an answer: the
encoding of the target, the loss of each row, the decision, the metrics, the figures. It holds no weights; its
:meth:`Task.config` is JSON and rebuilds it.

``encode`` and ``loss`` serve training and give tensors; ``decide``, ``metrics``, ``scores`` and ``figures`` take
arrays, and the target as it stands in the table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from torch import Tensor

from weft.errors import UserError, some
from weft.registry import Registry
from weft.tasks.judge import Judge


class Task(Judge):
    """Base of every task.

    Attributes:
        outputs: width ``K`` of the head.

    Class attributes:
        primary: the metric that models are selected and compared by, a key of :meth:`metrics`.
        higher_is_better: whether more of ``primary`` is better.
        probabilistic: whether outputs stand for a distribution (:meth:`log_probabilities`).

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
    primary: ClassVar[str]
    higher_is_better: ClassVar[bool]
    probabilistic: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def fit(cls, target: np.ndarray) -> Self:
        """Learn the classes or the scale of the training target, ``(N,)`` or ``(N, K)``.

        Raises:
            UserError: values are missing, of the wrong kind, or all the same; the rows are named.
        """

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
    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Metrics of outputs ``(N, K)`` against the raw target; NaN where these rows do not define one."""

    @abstractmethod
    def scores(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """``(N,)`` score of each row, higher is better: what paired tests compare."""

    @abstractmethod
    def figures(self, outputs: np.ndarray, target: np.ndarray, folder: Path) -> list[Path]:
        """Draw the task's figures as PNG files in ``folder``."""

    def figures_of_methods(self, outputs: Mapping[str, np.ndarray], target: np.ndarray, folder: Path) -> list[Path]:
        """Draw methods side by side: ``{method: (S, N, K)}`` outputs of ``S`` seeds. Default: nothing."""
        return []

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""

    @final
    def config(self) -> dict[str, Any]:
        """JSON that :meth:`from_config` turns back into this task: its registered name and its settings."""
        return {"name": tasks.name_of(type(self)), **self.settings()}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Task:
        """The task that wrote ``config``, whatever its class."""
        return tasks.get(config["name"])(**{key: value for key, value in config.items() if key != "name"})

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Outputs ``(..., K)`` as log-probabilities ``(..., V, C)`` of ``V`` variables with ``C`` states each.

        Raises:
            UserError: the task predicts values, not probabilities.
        """
        raise self._no_probabilities()

    def from_log_probabilities(self, log_p: Tensor) -> Tensor:
        """Outputs ``(..., K)`` whose :meth:`log_probabilities` are ``log_p`` ``(..., V, C)``, normalised."""
        raise self._no_probabilities()

    def log_prior(self) -> Tensor:
        """``(V, C)`` log-frequencies of the training target, for rules that count the prior once."""
        raise self._no_probabilities()

    def _no_probabilities(self) -> UserError:
        return UserError(
            f"{type(self).__name__} predicts values, not probabilities",
            f"probabilistic = {self.probabilistic}",
            "use a rule that combines values: mean, weighted, inverse-variance",
        )


tasks: Registry[Any] = Registry("task", "weft.tasks", "weft.systems")

FEW_VALUES = 20
"""Numbers with at most this many distinct whole values are guessed to be classes."""


def create_task(name: str, target: np.ndarray) -> Task:
    """Fit a registered task on the training target: ``create_task("classification", targets["label"][train])``."""
    return tasks.get(name).fit(target)


def guess_task(target: np.ndarray) -> str:
    """Name of the task a target looks like; missing values are left out of the guess.

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


def missing(values: np.ndarray) -> np.ndarray:
    """Bool of the shape of ``values``: None, NaN, NaT."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.array([v is None or v != v for v in values.ravel()], dtype=bool).reshape(values.shape)
    return np.zeros(values.shape, dtype=bool)


def refuse_missing(target: np.ndarray) -> None:
    """Refuse a target with missing values, naming the rows."""
    gone = missing(target)
    rows = np.flatnonzero(gone.reshape(len(gone), -1).any(axis=1))
    if len(rows):
        raise UserError(
            "a target has missing values",
            f"rows {some(rows.tolist())} of {len(gone)}",
            "drop these rows, or give them a value",
        )


def check_outputs(outputs: np.ndarray, width: int, rows: int | None = None) -> np.ndarray:
    """Outputs as float64 ``(N, width)``.

    Raises:
        UserError: the shape does not fit, or a value is NaN or infinite; the rows are named.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    if (
        outputs.ndim != 2
        or outputs.shape[1] != width
        or (rows is not None and len(outputs) != rows)
        or not len(outputs)
    ):
        raise UserError(
            f"outputs are ({'N' if rows is None else rows}, {width}), one row per row of the target, and at least one",
            f"shape {outputs.shape}",
            "give the outputs of a head of this task for the same rows",
        )
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(bad):
        raise UserError(
            "outputs hold NaN or infinite values",
            f"rows {some(bad.tolist())} of {len(outputs)}",
            "lower the learning rate if training diverged; check the features of these rows",
        )
    return outputs
