"""How far probabilities can be believed: bins of confidence, calibration error, temperature scaling.

A classifier is calibrated when, of the rows it is 80 % sure of, 80 % are right. Temperature scaling divides the logits
by one positive number ``T`` chosen on held-out rows, ``T = argmin mean_n -log softmax(z_n / T)[y_n]``; it changes no
prediction. The problem is convex in ``1 / T``; ``log T`` is searched in [-5, 5] by bounded scalar minimisation.

Guo et al. 2017, On Calibration of Modern Neural Networks (ICML).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from weft.errors import UserError
from weft.tasks.checks import check_outputs

BINS = 15


class Reliability(NamedTuple):
    """Bins of confidence that hold at least one row.

    Attributes:
        confidence: ``(b,)`` mean confidence of the bin's rows.
        accuracy: ``(b,)`` share of them that is right.
        rows: ``(b,)`` how many they are.
        edges: ``(BINS + 1,)`` the edges of all bins; bin ``i`` is ``(edges[i], edges[i + 1]]``, the first includes 0.
        bins: ``(b,)`` which bin each entry is.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    rows: np.ndarray
    edges: np.ndarray
    bins: np.ndarray


def reliability_curve(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin rows by confidence ``(N,)`` in [0, 1] into ``bins`` bins of equal width; ``right`` ``(N,)`` is bool."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    used = np.flatnonzero(count)
    mean = np.bincount(which, weights=confidence, minlength=bins)[used] / count[used]
    accuracy = np.bincount(which, weights=np.asarray(right, dtype=np.float64), minlength=bins)[used] / count[used]
    return Reliability(mean, accuracy, count[used], edges, used)


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """``sum_b n_b / N |accuracy_b - confidence_b|`` over bins of equal width."""
    curve = reliability_curve(confidence, right, bins)
    return float(np.average(np.abs(curve.accuracy - curve.confidence), weights=curve.rows))


def fit_temperature(outputs: np.ndarray, target: np.ndarray) -> float:
    """The temperature ``T`` that minimises the log loss of ``softmax(outputs / T)``.

    Args:
        outputs: ``(N, K)`` logits of held-out rows, not those the model was trained on.
        target: ``(N,)`` class indices, as ``ClassificationTask.encode`` gives them.

    Raises:
        UserError: the shapes do not fit, values are not finite, or every row is right (then no ``T`` is best).
    """
    truth = np.asarray(target)
    outputs = check_outputs(outputs, np.shape(outputs)[-1], len(truth))
    rows = np.arange(len(truth))
    if (outputs[rows, truth][:, None] >= outputs).all():
        raise UserError(
            "a temperature is fitted on rows of which some are predicted wrongly",
            f"all {len(truth)} rows are right, so the smaller the temperature the better",
            "use more held-out rows, or leave the outputs as they are",
        )

    def log_loss(log_t: float) -> float:
        return float(-log_softmax(outputs / np.exp(log_t), axis=1)[rows, truth].mean())

    from scipy.optimize import minimize_scalar

    return float(np.exp(minimize_scalar(log_loss, bounds=(-5.0, 5.0), method="bounded", options={"xatol": 1e-8}).x))
