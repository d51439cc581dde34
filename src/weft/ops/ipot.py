r"""Word-region alignment: exact optimal transport between two token sequences by proximal points (IPOT).

.. math::
    C_{ij} &= 1 - \hat x_i \cdot \hat y_j                                && (B, M, N), \text{ 0 at padding} \\
    A &= \exp(-C^T / \beta), \quad T = 1, \quad \sigma = 1/m             && (B, N, M), (B, N, M), (B, M) \\
    Q &= A \odot T, \quad \delta = \frac{1}{n \, Q \sigma}, \quad
    \sigma = \frac{1}{m \, Q^T \delta}, \quad
    T = \mathrm{diag}(\delta) \, Q \, \mathrm{diag}(\sigma)              && \text{repeated} \\
    D &= \langle C^T, T \rangle                                          && (B,)

``m`` and ``n`` count the real tokens of either side. Every step is one Sinkhorn sweep whose prior is the last plan, so
the plan goes to the exact one, not to an entropic one: a smaller ``beta`` or more iterations are only nearer to it.
The marginal of ``x`` is exact, that of ``y`` is exact in the limit. The plan is a constant: gradients flow through the
cost alone. Cost: ``iterations`` passes over ``(B, N, M)``.

When not to use it: one side has a single token (the distance is a mean of cosines); a plan that must be
differentiated (see :mod:`weft.ops.sinkhorn`).

Source: Xie et al., "A Fast Proximal Point Method for Computing Exact Wasserstein Distance", UAI 2019, arXiv 1802.04307;
as in Chen et al., "UNITER", ECCV 2020, arXiv 1909.11740, which adds ``0.1 (sum of D of pairs that match - sum of D of
others) / B`` to image-text matching.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.tokens import Tokens

PADDING = 1e4


def cosine_cost(x: Tokens, y: Tokens) -> Tensor:
    """``C``, ``(B, M, N)``, of ``x`` ``(B, M, d)`` and ``y`` ``(B, N, d)``; 0 where either is padding."""
    cosine = F.normalize(x.values, dim=-1, eps=1e-5) @ F.normalize(y.values, dim=-1, eps=1e-5).mT
    return (1 - cosine) * _real(x.mask, y.mask)


def ipot(cost: Tensor, x_mask: Tensor, y_mask: Tensor, *, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """The plan ``T``, ``(B, N, M)``: zero at padding, columns of real tokens sum to ``1/m``; carries no gradient.

    Args:
        cost: ``(B, M, N)``.
        x_mask: ``(B, M)``, true at real tokens; y_mask: ``(B, N)``.
        beta: step of the proximal point, positive.
        iterations: at least 1.

    Raises:
        UserError: ``beta`` or ``iterations`` is not positive, or a row has no real token on one side.
    """
    if not (0 < beta < float("inf") and iterations >= 1):
        found = f"beta={beta}, iterations={iterations}"
        raise UserError("IPOT needs a positive beta and at least one iteration", found, "0.5 and 50 are usual")
    empty = ~(x_mask.any(dim=1) & y_mask.any(dim=1))
    if empty.any():
        found = f"row {int(empty.nonzero()[0])} has none on one side"
        raise UserError("IPOT needs a real token on both sides of every row", found, "leave such rows out")
    real = _real(y_mask, x_mask).to(cost.dtype)
    kernel = torch.exp(-cost.detach().mT / beta) * real
    m, n = (mask.sum(dim=1, keepdim=True).to(cost.dtype) for mask in (x_mask, y_mask))
    pad_x, pad_y = (PADDING * (~mask).to(cost.dtype) for mask in (x_mask, y_mask))
    plan, sigma = real, x_mask.to(cost.dtype) / m
    for _ in range(iterations):
        q = kernel * plan
        delta = 1 / (n * (q @ sigma[..., None])[..., 0] + pad_y)
        sigma = 1 / (m * (q.mT @ delta[..., None])[..., 0] + pad_x)
        plan = delta[..., None] * q * sigma[:, None]
    return plan


def transport_distance(x: Tokens, y: Tokens, *, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """``D``, ``(B,)``, between the tokens of ``x`` and of ``y``, row by row; at least float32. See :func:`ipot`."""
    x, y = (t if t.values.dtype == torch.float64 else Tokens(t.values.float(), t.mask) for t in (x, y))
    with torch.autocast(x.values.device.type, enabled=False):
        cost = cosine_cost(x, y)
        return (cost.mT * ipot(cost, x.mask, y.mask, beta=beta, iterations=iterations)).sum(dim=(1, 2))


def _real(rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, :, None] & columns[:, None, :]
