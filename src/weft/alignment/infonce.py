r"""InfoNCE: tell the true partners from all others of the batch, in both directions.

.. math::
    l_{ij} = e^{\theta}\, a_i \cdot b_j, \qquad
    L = \frac{1}{2N} \sum_{ij} T_{ij} \Big(\log \sum_k e^{l_{ik}} + \log \sum_k e^{l_{kj}} - 2\, l_{ij}\Big)

with unit vectors ``a, b`` ``(N, D)`` and :math:`\theta = -\log \tau`, learned by default, in ``log_scale_range``
(at most 100 times the cosine, as CLIP). It is put back into the range before every use, so that its gradient never dies
at the edge. :math:`T` is the identity; where rows are partners of each other (``group``: the captions of one photo), it
is shared equally by the partners of a row (UniCL); ``smoothing`` gives a part of it to all rows. ``hardness`` weighs
negatives by their own similarity. (Where all rows of a group hold the very same ``a``, as captions of one photo do,
groups change nothing here: partners are in the log-sums anyway, and their mean is the sum there was.)

In training the pairs of all processes are one batch, whatever their number; see :mod:`weft.ops.contrastive` for the
algebra, and for ``chunk``.

Cost: ``N^2`` logits; with ``chunk`` only ``chunk^2`` at a time, for one more matrix product. Groups and smoothing are
free; hardness takes six exponentials of a logit instead of two.

When not to use it: batches of a few pairs; ``siglip`` depends less on the batch size. ``hardness`` where many negatives
are right in truth: it looks for them.

Source: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748;
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020;
Yang et al., "Unified Contrastive Learning in Image-Text-Label Space", CVPR 2022, arXiv 2204.03610; Robinson, Chuang,
Sra, Jegelka, "Contrastive Learning with Hard Negative Samples", ICLR 2021, arXiv 2010.04592.
"""

from __future__ import annotations

from math import isfinite, log

import torch
from torch import Tensor, nn

from weft.alignment.base import Objective, check_share, objectives
from weft.errors import UserError
from weft.ops.contrastive import info_nce


@objectives.register("infonce")
class InfoNCE(Objective):
    """Symmetric InfoNCE with a temperature.

    Args:
        temperature: the first, or (``learnable=False``) the only one; positive.
        learnable: train the logarithm of its inverse, ``log_scale``.
        log_scale_range: bounds of ``log_scale``. LightCRL's code starts at 0.07 in (0.01, 20).
        chunk: rows and columns of logits at a time; None: the whole matrix.
        smoothing: share of the targets that all rows have, 0 up to 1.
        hardness: :math:`\\beta`, how much more the harder negatives weigh; 0: all alike.

    Raises:
        UserError: an option is out of its range; from ``forward``, fewer than two valid
            pairs, or a temperature that has become NaN.
    """

    paper = "van den Oord et al., arXiv 1807.03748; Radford et al. (CLIP), ICML 2021, arXiv 2103.00020"

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learnable: bool = True,
        log_scale_range: tuple[float, float] = (0.0, log(100)),
        chunk: int | None = None,
        smoothing: float = 0.0,
        hardness: float = 0.0,
    ) -> None:
        super().__init__()
        if not (isfinite(temperature) and temperature > 0):
            raise UserError("infonce: temperature is a positive number", f"temperature={temperature}", "CLIP uses 0.07")
        low, high = log_scale_range
        if not low <= -log(temperature) <= high:
            raise UserError(
                "infonce: -log(temperature) lies in log_scale_range",
                f"{-log(temperature):.4g} for temperature={temperature}, log_scale_range={log_scale_range}",
                "choose another temperature, or widen the range",
            )
        check_share("infonce", "smoothing", smoothing)
        if not 0 <= hardness < float("inf"):
            raise UserError("infonce: hardness is a number, 0 or more", f"hardness={hardness}", "0.5 to 1 are usual")
        self.smoothing, self.hardness = smoothing, hardness
        self.log_scale = nn.Parameter(torch.tensor(-log(temperature)), requires_grad=learnable)
        self.log_scale_range, self.chunk = (low, high), chunk

    def extra_repr(self) -> str:
        return (
            f"learnable={self.log_scale.requires_grad}, log_scale_range={self.log_scale_range}, chunk={self.chunk}, "
            f"smoothing={self.smoothing}, hardness={self.hardness}"
        )

    def forward(self, a: Tensor, b: Tensor, valid: Tensor, group: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            self.log_scale.clamp_(*self.log_scale_range)
        return info_nce(
            a,
            b,
            valid,
            self.log_scale.exp(),
            self.chunk,
            group=group,
            smoothing=self.smoothing,
            hardness=self.hardness,
            gather=self.training,
        )
