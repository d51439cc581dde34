r"""Linear sum: the bilinear family's control, with a sum where the others multiply.

.. math:: y = g\Big( \big[\mathrm{pnorm}\big] \sum_m f(v_m U_m + a_m) \; W + b \Big)

with :math:`v_m` ``(B, D_m)``, :math:`U_m` ``(D_m, h)``, ``W`` ``(h, dim)`` and pnorm (optional) the signed square
root followed by unit length. An absent modality's term is dropped.

Cost: ``h sum(D_m + 1) + h dim + dim`` weights, exactly those of ``mlb``: the difference between the two is what the
product is worth.

When not to use it: it models no interaction before the head; ``concat`` is cheaper.

Source: the public code of Ben-Younes et al., "BLOCK", AAAI 2019, arXiv 1902.00038 (LinearSum, f and g relu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

from torch import Tensor, nn

from weft.fusion import bilinear_weights
from weft.fusion.base import fusions
from weft.fusion.bilinear import BilinearFusion
from weft.ops.bilinear import Activation, activation_of, check_positive, gain_of, unit_variance_
from weft.registry import Dropout


@fusions.register("linear-sum")
class LinearSum(BilinearFusion):
    """Project, activate, add, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the sum; default ``dim``.
        activation: f, before the sum.
        output_activation: g, after the output map.
        normalize: signed square root and unit length of the sum.
        dropout: probability of zeroing an entry of the sum, in [0, 1].
    """

    arity = (1, None)
    paper = "Ben-Younes et al., BLOCK: Bilinear Superdiagonal Fusion, AAAI 2019, arXiv 1902.00038 (LinearSum)"
    identity = 0.0
    published = staticmethod(bilinear_weights.plain)

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        activation: Activation = "relu",
        output_activation: Activation = "none",
        normalize: bool = False,
        dropout: Dropout = 0.0,
    ) -> None:
        hidden = dim if hidden is None else hidden
        check_positive("linear-sum", hidden=hidden)
        super().__init__(dims, dim, output_activation=output_activation, dropout=dropout)
        self.activation, self.normalize = activation_of(activation), normalize
        gain = gain_of(activation)
        self.project = nn.ModuleList(unit_variance_(nn.Linear(d, hidden), d / gain**2) for d in self.dims.values())
        self.out = unit_variance_(nn.Linear(hidden, dim), 1 if normalize else hidden * len(dims))

    def factors(self, values: Sequence[Tensor]) -> list[list[Tensor]]:
        return [[self.activation(project(v)) for project, v in zip(self.project, values, strict=True)]]

    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        return self.finish(reduce(add, pieces[0]), self.normalize)
