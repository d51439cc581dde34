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
from typing import Any, Self

from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import (
    ACTIVATIONS,
    Activation,
    check_positive,
    factor_of_product_,
    joint_and_alone,
    load_projected,
    power_normalize,
    unit_variance_,
    vectors,
)
from weft.tokens import Fused, Tokens


@fusions.register("mlb")
class LowRankBilinear(Fusion):
    """Project, activate, multiply, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the product; default ``dim``.
        activation: f, before the product.
        output_activation: g, after the output map.
        normalize: signed square root and unit length of the product.
        dropout: probability of zeroing an entry of the product, in [0, 1].
    """

    arity = (2, None)
    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Kim et al., Hadamard Product for Low-rank Bilinear Pooling, ICLR 2017, arXiv 1610.04325"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        activation: Activation = "tanh",
        output_activation: Activation = "none",
        normalize: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        hidden = dim if hidden is None else hidden
        check_positive("mlb", hidden=hidden)
        self.activation, self.output_activation = ACTIVATIONS[activation], ACTIVATIONS[output_activation]
        self.normalize = normalize
        gain = nn.init.calculate_gain("linear" if activation == "none" else activation)
        self.project = nn.ModuleList(factor_of_product_(nn.Linear(d, hidden), d / gain**2) for d in self.dims.values())
        self.out = unit_variance_(nn.Linear(hidden, dim), 1 if normalize else hidden)
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, there = vectors(inputs)
        factors = [self.activation(project(v)) for project, v in zip(self.project, values, strict=True)]
        z = joint_and_alone(factors, there)
        if self.normalize:
            z = power_normalize(z)
        vector, *alone = self.output_activation(self.out(self.dropout(z)))
        return Fused(vector, None, dict(zip(self.names, alone, strict=True)), None)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("first", "second"), **options: Any
    ) -> Self:
        """The MLB of the public code of BLOCK (``linear0``, ``linear1``, ``linear_out``).

        Args:
            state: its parameters.
            names: names of the two modalities.
            options: what they do not tell: ``activation`` and ``output_activation`` (there ``"relu"``), ``normalize``.
        """
        return load_projected(cls, state, names, options)
