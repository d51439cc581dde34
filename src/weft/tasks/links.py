r"""How the outputs of a head relate to what is answered. A task names its link; everything that mixes answers uses it.

A link to probabilities turns outputs ``(..., K)`` into log-probabilities ``(..., V, C)`` of ``V`` variables with ``C``
states each, and back:

* ``softmax``: one variable with ``C = K`` states, :math:`p = \mathrm{softmax}(o)`.
* ``sigmoid``: ``V = K`` variables, :math:`P(v_k = 1) = \sigma(o_k)`.
* ``sequential``: one variable with ``C = K + 1`` ordered states, :math:`P(y > k \mid y \ge k) = \sigma(o_k)`, the
  continuation ratio: any outputs give a distribution, and any distribution has its outputs.
* ``identity``: outputs are values, and there are no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Link:
    """A link and its inverse; None for both where outputs are values."""

    name: str
    log_probabilities: Callable[[Tensor], Tensor] | None = None
    from_log_probabilities: Callable[[Tensor], Tensor] | None = None


def _sequential(outputs: Tensor) -> Tensor:
    """``log P(y = k) = log(1 - s_k) + sum_{j < k} log s_j``, with the last state never stopped before."""
    went_on = F.pad(F.logsigmoid(outputs).cumsum(dim=-1), (1, 0))
    stopped = F.pad(F.logsigmoid(-outputs), (0, 1))
    return (went_on + stopped).unsqueeze(-2)


def _from_sequential(log_p: Tensor) -> Tensor:
    """``o_k = log P(y > k) - log P(y = k)``."""
    log_p = log_p[..., 0, :]
    beyond = log_p.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return beyond[..., 1:] - log_p[..., :-1]


SOFTMAX = Link(
    "softmax",
    lambda outputs: F.log_softmax(outputs, dim=-1).unsqueeze(-2),
    lambda log_p: F.log_softmax(log_p[..., 0, :], dim=-1),
)
SIGMOID = Link(
    "sigmoid",
    lambda outputs: torch.stack([F.logsigmoid(-outputs), F.logsigmoid(outputs)], dim=-1),
    lambda log_p: log_p[..., 1] - log_p[..., 0],
)
SEQUENTIAL = Link("sequential", _sequential, _from_sequential)
IDENTITY = Link("identity")
