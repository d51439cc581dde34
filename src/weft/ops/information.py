r"""Partial information decomposition of two discrete sources about a target, without a solver.

With ``P(x1, x2, y)`` given, :math:`Q^* = \arg\max_Q H_Q(Y \mid X_1 X_2)` over all ``Q`` with ``Q(x1, y) = P(x1, y)``
and ``Q(x2, y) = P(x2, y)`` (the definition of Bertschinger et al.), and in bits

.. math::
    R &= I(X_1;Y) + I(X_2;Y) - I_{Q^*}(X_1X_2;Y) && \text{redundant: in either} \\
    U_1 &= I_{Q^*}(X_1X_2;Y) - I(X_2;Y) && \text{unique to the first; } U_2 \text{ likewise} \\
    S &= I_P(X_1X_2;Y) - I_{Q^*}(X_1X_2;Y) && \text{synergy: in neither, in both together}

so ``R + U1 + U2 + S = I_P(X1 X2; Y)``. ``Q*`` minimises ``KL(Q || W x uniform)`` jointly over ``Q`` and ``W``, which is
convex in both, so alternating minimisation decreases to the optimum:

.. math:: W \leftarrow \frac{1}{|Y|} \sum_y Q_y, \qquad
          Q_y \leftarrow \text{Sinkhorn scaling of } W \text{ to row sums } P(x_1, y) \text{ and column sums } P(x_2, y)

until no value of ``Q`` moves by more than ``TOLERANCE``. Cost O(rounds K1 K2 |Y|), many tables at once. Plug-in
estimates from few rows are too large: compare with nulls (:mod:`weft.compare.information`).

Bertschinger, Rauh, Olbrich, Jost, Ay 2014, Quantifying Unique Information; Csiszar and Tusnady 1984; Liang et al.,
Quantifying and Modeling Multimodal Interactions, NeurIPS 2023, arXiv 2302.12247.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from weft.errors import UserError

TOLERANCE, ROUNDS, SWEEPS = 1e-10, 4000, 3


class Decomposition(NamedTuple):
    """In bits, each of the shape of the tables' leading axes."""

    redundant: np.ndarray
    unique_first: np.ndarray
    unique_second: np.ndarray
    synergy: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """``I(X1 X2; Y)``."""
        return np.asarray(self.redundant + self.unique_first + self.unique_second + self.synergy)


def mutual_information(joint: np.ndarray) -> np.ndarray:
    """``I(X; Y)`` in bits of tables ``(..., K, Y)`` that sum to one."""
    logs = [
        np.log2(np.where(p > 0, p, 1.0)) for p in (joint, joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True))
    ]
    terms = joint * (logs[0] - logs[1] - logs[2])  # of logs, since the product of two tiny marginals is zero
    return np.asarray(terms.sum(axis=(-2, -1)))


def decompose(joint: np.ndarray, tolerance: float = TOLERANCE, rounds: int = ROUNDS) -> Decomposition:
    """The decomposition of tables ``(..., K1, K2, Y)`` of probabilities or counts.

    Args:
        joint: nothing negative, something above zero in every table.
        tolerance: largest change of a probability at which the iteration stops.
        rounds: at most so many updates of ``W``.

    Raises:
        UserError: an axis is missing, or a table is negative or empty.
    """
    joint = np.asarray(joint, dtype=np.float64)
    if joint.ndim < 3 or (joint < 0).any() or (joint.sum(axis=(-3, -2, -1)) <= 0).any():
        raise UserError(
            "a joint table is (..., K1, K2, Y), not negative and not empty",
            f"shape {joint.shape}, least {joint.min(initial=0.0)}",
            "count how often every triple occurs",
        )
    p = joint / joint.sum(axis=(-3, -2, -1), keepdims=True)
    first, second = p.sum(axis=-2), p.sum(axis=-3)  # (..., K1, Y), (..., K2, Y)
    rows, columns = first[..., :, None, :], second[..., None, :, :]
    q = _ratio(rows * columns, p.sum(axis=(-3, -2))[..., None, None, :])
    for _ in range(rounds):
        before, w = q, q.mean(axis=-1, keepdims=True)
        q = np.broadcast_to(w, p.shape)
        for _ in range(SWEEPS):
            q = q * _ratio(rows, q.sum(axis=-2, keepdims=True))
            q = q * _ratio(columns, q.sum(axis=-3, keepdims=True))
        if np.abs(q - before).max() < tolerance:
            break
    one, two = mutual_information(first), mutual_information(second)
    together = mutual_information(q.reshape(*q.shape[:-3], -1, q.shape[-1]))
    whole = mutual_information(p.reshape(*p.shape[:-3], -1, p.shape[-1]))
    return Decomposition(one + two - together, together - two, together - one, whole - together)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a / b``, zero where ``b`` is."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)
