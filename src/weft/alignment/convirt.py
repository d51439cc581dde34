r"""ConVIRT's loss: InfoNCE with a fixed temperature in which one direction weighs more.

.. math::
    L = -\frac{1}{N} \sum_i \Big(\lambda \log \frac{e^{a_i \cdot b_i / \tau}}{\sum_j e^{a_i \cdot b_j / \tau}}
        + (1 - \lambda) \log \frac{e^{a_i \cdot b_i / \tau}}{\sum_j e^{a_j \cdot b_i / \tau}}\Big)

with unit vectors ``a, b`` ``(N, D)``; ``a`` is the first modality, the image in the paper, whose search for its text
has the weight :math:`\lambda = 0.75`; :math:`\tau = 0.1`. In training the pairs of all processes are one batch; see
:mod:`weft.ops.contrastive`.

Cost: ``N^2`` logits.

When not to use it: both directions matter equally, or the temperature should be learned: ``infonce``.

Source: Zhang, Jiang, Miura, Manning, Langlotz, "Contrastive Learning of Medical Visual Representations from Paired
Images and Text", MLHC 2022, arXiv 2010.00747.
"""

from __future__ import annotations

from math import isfinite

from torch import Tensor

from weft.alignment.base import Objective, objectives
from weft.errors import UserError
from weft.ops.contrastive import info_nce


@objectives.register("convirt")
class ConVIRT(Objective):
    """Weighted InfoNCE.

    Args:
        temperature: :math:`\\tau`, positive.
        weight: :math:`\\lambda` of the search from the first modality to the second, 0 to 1.

    Raises:
        UserError: ``temperature`` or ``weight`` is out of range; from ``forward``, fewer than two valid pairs.
    """

    paper = "Zhang et al., ConVIRT, MLHC 2022, arXiv 2010.00747"

    def __init__(self, *, temperature: float = 0.1, weight: float = 0.75) -> None:
        super().__init__()
        if not (isfinite(temperature) and temperature > 0):
            raise UserError("convirt: temperature is a positive number", f"temperature={temperature}", "0.1 is usual")
        if not 0 <= weight <= 1:
            raise UserError("convirt: weight is between 0 and 1", f"weight={weight}", "the paper uses 0.75")
        self.temperature, self.weight = temperature, weight

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, weight={self.weight}"

    def forward(self, a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
        return info_nce(a, b, valid, 1 / self.temperature, weight=self.weight, gather=self.training)
