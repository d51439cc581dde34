r"""Multimodal low-rank bilinear pooling (MLB): the elementwise product of projections.

.. math:: y = g\Big( \big[\mathrm{pnorm}\big] \prod_m f(v_m U_m + a_m) \; W + b \Big)

with :math:`v_m` ``(B, D_m)``, :math:`U_m` ``(D_m, h)``, ``W`` ``(h, dim)``, activations f and g, and pnorm (optional)
the signed square root followed by unit length. It is ``lmf`` of rank 1 with a linear map after it.

An absent modality is left out of the product.

Cost: ``h sum(D_m + 1) + h dim + dim`` weights.

When not to use it: for many modalities a product of tanh or relu features is nearly always near 0; sum ranks (``lmf``,
``mutan``) or use an additive method.

Source: Kim et al., "Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017, arXiv 1610.04325: tanh, h 1200. The
public code of BLOCK uses relu before the product and after the output; both are options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from weft.fusion import bilinear_weights
from weft.fusion.base import fusions
from weft.fusion.bilinear import BilinearFusion
from weft.ops.bilinear import (
    Activation,
    activation_of,
    check_positive,
    factor_of_product_,
    gain_of,
    product,
    unit_variance_,
)
from weft.registry import Dropout


@fusions.register("mlb")
class LowRankBilinear(BilinearFusion):
    """Project, activate, multiply, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the product; default ``dim``.
        activation: f, before the product.
        output_activation: g, after the output map.
        normalize: signed square root and unit length of the product.
        dropout: probability of zeroing an entry of the product, in [0, 1].
    """

    paper = "Kim et al., Hadamard Product for Low-rank Bilinear Pooling, ICLR 2017, arXiv 1610.04325"
    published = staticmethod(bilinear_weights.plain)

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        activation: Activation = "tanh",
        output_activation: Activation = "none",
        normalize: bool = False,
        dropout: Dropout = 0.0,
    ) -> None:
        hidden = dim if hidden is None else hidden
        check_positive("mlb", hidden=hidden)
        super().__init__(dims, dim, output_activation=output_activation, dropout=dropout)
        self.activation, self.normalize = activation_of(activation), normalize
        gain = gain_of(activation)
        self.project = nn.ModuleList(factor_of_product_(nn.Linear(d, hidden), d / gain**2) for d in self.dims.values())
        self.out = unit_variance_(nn.Linear(hidden, dim), 1 if normalize else hidden)

    def factors(self, values: Sequence[Tensor]) -> list[list[Tensor]]:
        return [[self.activation(project(v)) for project, v in zip(self.project, values, strict=True)]]

    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        return self.finish(product(pieces[0]), self.normalize)
