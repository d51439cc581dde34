r"""Sigmoid loss (SigLIP): is this pair a match? asked of every pair of rows by itself.

.. math::
    L = -\frac{1}{N} \sum_{ij} \log \sigma\big(y_{ij} (e^{\theta}\, a_i \cdot b_j + \beta)\big), \qquad
    y_{ij} = 1 \text{ if } i = j \text{ or } g_i = g_j, \text{ else } -1

with unit vectors ``a, b`` ``(N, D)``; :math:`\theta = \log 10`, :math:`\beta = -10` at the start, both learned: the
bias begins with "no match", which all but ``N`` of the ``N^2`` answers are. Rows of one group :math:`g` (captions of
one photo) match; ``smoothing`` lowers the target of matches to :math:`1 - \epsilon`. In training the pairs of all
processes are one batch; see :mod:`weft.ops.contrastive`.

Cost: ``N^2`` logits; with ``chunk`` only ``chunk^2`` at a time, at no more work: value and gradient are made together.

When not to use it: small batches with a short schedule, where the bias needs many steps to settle; try ``infonce``.
Nor where hard negatives are to weigh more: their weights would need sums over all pairs, which no term here knows;
``infonce`` has ``hardness``.

Source: Zhai, Mustafa, Kolesnikov, Beyer, "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv 2303.15343.
"""

from __future__ import annotations

from math import isfinite, log

import torch
from torch import Tensor, nn

from weft.alignment.base import Objective, check_share, objectives
from weft.errors import UserError
from weft.ops.contrastive import sigmoid_loss


@objectives.register("siglip")
class SigLIP(Objective):
    """Pairwise sigmoid loss.

    Args:
        log_scale: :math:`\\theta` at the start.
        bias: :math:`\\beta` at the start.
        chunk: rows and columns of logits at a time; None: the whole matrix.
        smoothing: :math:`\\epsilon`, 0 up to 1.

    Raises:
        UserError: a start value is not a finite number, or smoothing is out of range; from ``forward``, no valid pair.
    """

    paper = "Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023, arXiv 2303.15343"

    def __init__(
        self, *, log_scale: float = log(10), bias: float = -10.0, chunk: int | None = None, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not (isfinite(log_scale) and isfinite(bias)):
            raise UserError(
                "siglip: log_scale and bias are finite numbers",
                f"log_scale={log_scale}, bias={bias}",
                "the paper starts at log(10) and -10",
            )
        self.log_scale, self.bias = nn.Parameter(torch.tensor(log_scale)), nn.Parameter(torch.tensor(bias))
        check_share("siglip", "smoothing", smoothing)
        self.chunk, self.smoothing = chunk, smoothing

    def extra_repr(self) -> str:
        return f"chunk={self.chunk}, smoothing={self.smoothing}"

    def forward(self, a: Tensor, b: Tensor, valid: Tensor, group: Tensor | None = None) -> Tensor:
        scale = self.log_scale.exp()
        return sigmoid_loss(
            a, b, valid, scale, self.bias, self.chunk, group=group, smoothing=self.smoothing, gather=self.training
        )
