r"""Entropic optimal transport between two sets of equal weights, in the log domain.

.. math::
    P_\epsilon(K) = \arg\min_{P \in U(1/n,\, 1/m)} -\langle P, K \rangle - \epsilon H(P)
        = \exp\big((K + f\,1^T + 1\,g^T) / \epsilon\big)

``K`` ``(n, m)`` holds similarities, ``U`` the plans whose rows sum to ``1/n`` and columns to ``1/m``. Rows and columns
are put right in turn; at the end the row potential takes half a step, so that neither side is favoured. Cost:
``iterations`` passes over ``K``.

Source: Cuturi, "Sinkhorn Distances", NeurIPS 2013, arXiv 1306.0895.
"""

from __future__ import annotations

from math import log

from torch import Tensor

from weft.errors import UserError


def sinkhorn(similarities: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    """``log P``, ``(n, m)``.

    Args:
        similarities: ``(n, m)``, finite.
        epsilon: strength of the entropy, positive; a small one needs more iterations.
        iterations: at least 1.

    Raises:
        UserError: ``epsilon`` or ``iterations`` is not positive.
    """
    if not (0 < epsilon < float("inf") and iterations >= 1):
        found = f"epsilon={epsilon}, iterations={iterations}"
        raise UserError("Sinkhorn needs a positive epsilon and at least one iteration", found, "0.05 and 100 are usual")
    logits = similarities / epsilon
    rows, columns = -log(logits.shape[0]), -log(logits.shape[1])
    g = logits.new_zeros(logits.shape[1])
    for _ in range(iterations):
        f = rows - (logits + g).logsumexp(dim=1)
        g = columns - (logits + f[:, None]).logsumexp(dim=0)
    f = (f + rows - (logits + g).logsumexp(dim=1)) / 2
    return logits + f[:, None] + g
