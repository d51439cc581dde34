r"""Linear models on pooled features, and chance: logistic regression for classes and labels, ridge for values.

.. math:: o = x\,W + b, \qquad \min_{W, b}\; \sum_i \ell(o_i, y_i) + \frac{1}{2 C} \lVert W \rVert^2

with ``x`` ``(B, P)`` the pooled modalities side by side (:mod:`weft.models.pooled`) and the strength ``C``. Fitted by
scikit-learn: L-BFGS for logistic regression (multinomial for classes, one per label for several labels), a closed form
for ridge (:math:`\alpha = 1/C`). :func:`linear_path` starts each fit where the last one ended, so a grid from strong to
weak regularisation costs little more than one fit.

Cost: ``O(N P K)`` per iteration, or ``O(N P^2)`` once. Nothing here is trained by gradient descent in torch; the result
is a module of buffers, which saves, loads and exports like any network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from weft.models.pooled import PooledInputs
from weft.models.predictor import About, Fitted, OnPooled, Predictor
from weft.models.pretrained import models
from weft.models.rows import refuse_empty_rows, select
from weft.tasks.base import Task
from weft.tokens import Tokens, present

if TYPE_CHECKING:
    from weft.store import Features

LOW = -20.0
"""Logit of a class that the training rows do not have."""
ITERATIONS = 200


@models.register("LinearModel")
class LinearModel(OnPooled):
    """A linear map of pooled features.

    Args:
        task: the fitted task.
        inputs: arguments of :class:`~weft.models.pooled.PooledInputs`, or one that is fitted.
        target, encoders, table: see :class:`~weft.models.predictor.Predictor`.
    """

    format = "LinearModel/1"

    def __init__(
        self, task: Task | dict[str, Any], inputs: PooledInputs | dict[str, Any], **about: Unpack[About]
    ) -> None:
        super().__init__(task, inputs, about)
        self.register_buffer("weight", torch.zeros(self.inputs.width, classes_of(self.task)))
        self.register_buffer("bias", torch.zeros(classes_of(self.task)))

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """Outputs ``(B, K)`` of the task from ``{name: Tokens}``."""
        return self._outputs(self.inputs(inputs))

    def set(self, weight: np.ndarray, bias: np.ndarray) -> LinearModel:
        """Take over weights ``(P, K)`` and biases ``(K,)``."""
        self.get_buffer("weight").copy_(torch.from_numpy(weight))
        self.get_buffer("bias").copy_(torch.from_numpy(bias))
        return self

    def outputs(self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 512) -> np.ndarray:
        rows, features = checked_rows(self, features, rows)
        weight, bias = (self.get_buffer(name).double() for name in ("weight", "bias"))
        # in float32 a sum would depend on the batch
        margins = [x.double() @ weight + bias for x in self.inputs.parts(features, rows)]
        found: np.ndarray = from_margins(self.task, torch.cat(margins)).float().numpy()
        return found

    def _outputs(self, x: Tensor) -> Tensor:
        return from_margins(self.task, x @ self.get_buffer("weight") + self.get_buffer("bias"))


@models.register("ChanceModel")
class ChanceModel(Fitted):
    """Class frequencies, label frequencies, or the mean, whatever the row.

    Args:
        task: the fitted task.
        dims: width of each modality.
        target, encoders, table: see :class:`~weft.models.predictor.Predictor`.
    """

    format = "ChanceModel/1"

    def __init__(self, task: Task | dict[str, Any], dims: Mapping[str, int], **about: Unpack[About]) -> None:
        super().__init__(task, dims, about)
        self.register_buffer("answer", torch.zeros(self.task.outputs))

    def fit(self, target: np.ndarray) -> ChanceModel:
        """Learn the frequencies of the training target."""
        self.get_buffer("answer").copy_(torch.from_numpy(chance(self.task, target)))
        return self

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """The same outputs ``(B, K)`` for every row."""
        rows = present(next(iter(inputs.values()))).shape[0]
        return self.get_buffer("answer").expand(rows, -1)

    def outputs(self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 512) -> np.ndarray:
        return np.tile(self.get_buffer("answer").numpy(), (len(features) if rows is None else len(rows), 1))


def checked_rows(model: Predictor, features: Features, rows: np.ndarray | None) -> tuple[np.ndarray, Features]:
    """The rows (default: all) and the features of a model's own modalities; rows that hold nothing are refused."""
    rows = np.arange(len(features)) if rows is None else np.asarray(rows)
    features = select(features, model.names)
    refuse_empty_rows(features, rows)
    return rows, features


def from_margins(task: Task, margins: Tensor) -> Tensor:
    """Outputs ``(B, K)`` of a task from what a classical model adds up: logits of classes or labels, or values."""
    if task.estimator == "regressor":
        return margins
    if task.estimator == "classifier":
        return task.from_log_probabilities(margins.log_softmax(dim=-1).unsqueeze(-2))
    both = torch.stack([nn.functional.logsigmoid(-margins), nn.functional.logsigmoid(margins)], dim=-1)
    return task.from_log_probabilities(both)


def chance(task: Task, target: np.ndarray) -> np.ndarray:
    """Outputs ``(K,)`` float32 of a guess that knows the training target alone."""
    y, low = task.response(target), np.exp(LOW)
    if task.estimator == "classifier":
        margins = np.log(np.maximum(np.bincount(y, minlength=classes_of(task)) / len(y), low))
    elif task.estimator == "regressor":
        margins = y.mean(axis=0)
    else:
        mean = np.clip(y.mean(axis=0), low, 1 - low)
        margins = np.log(mean / (1 - mean))
    found: np.ndarray = from_margins(task, torch.from_numpy(margins[None])).float().numpy()[0]
    return found


MANY_CLASSES = "The number of unique classes is greater"
"""What scikit-learn warns of at every fit; the table's own warnings have said it."""


def classes_of(task: Task) -> int:
    """How many classes, labels or values a classical model adds up."""
    return len(task.labels) if task.estimator == "classifier" else task.outputs


def linear_path(
    task: Task, x: np.ndarray, target: np.ndarray, strengths: Sequence[float]
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Weights ``(P, K)`` and biases ``(K,)`` at every strength, in this order; rows weigh what the task says.

    Args:
        task: the fitted task.
        x: ``(n, P)``.
        target: raw target of these rows.
        strengths: ``C``; larger fits closer.
    """
    y, weights = task.response(target), task.row_weights(target)
    if task.estimator == "classifier":
        yield from _classes(x, y, classes_of(task), strengths, weights)
    elif task.estimator == "regressor":
        for strength in strengths:
            weight, bias = _ridge(x, y, strength, weights)
            yield strength, weight, bias
    else:
        columns = [None] * y.shape[1] if weights is None else list(weights.T)
        labels = zip(y.T.astype(np.int64), columns, strict=True)
        paths = [_classes(x, column, 2, strengths, weight) for column, weight in labels]
        for found in zip(*paths, strict=True):
            weight = np.stack([w[:, 1] - w[:, 0] for _, w, _ in found], axis=1)
            yield found[0][0], weight, np.array([b[1] - b[0] for _, _, b in found])


def _classes(
    x: np.ndarray, y: np.ndarray, classes: int, strengths: Sequence[float], weights: np.ndarray | None
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Logistic regression of class numbers ``(n,)``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(y)
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    for strength in strengths:
        weight, bias = np.zeros((x.shape[1], classes)), np.full(classes, LOW)
        if len(seen) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # dev rows judge a fit, converged or not
                warnings.filterwarnings("ignore", MANY_CLASSES)
                model.set_params(C=strength).fit(x, y, sample_weight=weights)
            coefficients, intercept = model.coef_.T, model.intercept_
            if len(seen) == 2:
                coefficients = np.concatenate([-coefficients / 2, coefficients / 2], axis=1)
                intercept = np.array([-intercept[0] / 2, intercept[0] / 2])
            weight[:, seen], bias[seen] = coefficients, intercept
        else:
            bias[seen] = 0.0
        yield strength, weight, bias


def _ridge(x: np.ndarray, y: np.ndarray, strength: float, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of values ``(n, K)``."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(x, y, sample_weight=weights)
    return np.atleast_2d(model.coef_).reshape(-1, x.shape[1]).T, np.atleast_1d(model.intercept_)
