r"""Linear sum: the bilinear family's control, with a sum where the others multiply.

.. math:: y = g\Big( \sum_m f(v_m U_m + a_m) \; W + b \Big)

with :math:`v_m` ``(B, D_m)``, :math:`U_m` ``(D_m, h)``, ``W`` ``(h, dim)``. An absent modality's term is dropped.

Cost: ``h sum(D_m + 1) + h dim + dim`` weights, exactly those of ``mlb``: the difference between the two is what the
product is worth.

When not to use it: it models no interaction before the head; ``concat`` is cheaper.

Source: the public code of Ben-Younes et al., "BLOCK", AAAI 2019, arXiv 1902.00038 (LinearSum, f and g relu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import (
    ACTIVATIONS,
    Activation,
    check_positive,
    load_projected,
    unit_variance_,
    vectors,
)
from weft.tokens import Fused, Tokens


@fusions.register("linear-sum")
class LinearSum(Fusion):
    """Project, activate, add, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the sum; default ``dim``.
        activation: f, before the sum.
        output_activation: g, after the output map.
        dropout: probability of zeroing an entry of the sum, in [0, 1].
    """

    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Ben-Younes et al., BLOCK: Bilinear Superdiagonal Fusion, AAAI 2019, arXiv 1902.00038 (LinearSum)"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        activation: Activation = "relu",
        output_activation: Activation = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        hidden = dim if hidden is None else hidden
        check_positive("linear-sum", hidden=hidden)
        self.activation, self.output_activation = ACTIVATIONS[activation], ACTIVATIONS[output_activation]
        gain = nn.init.calculate_gain("linear" if activation == "none" else activation)
        self.project = nn.ModuleList(unit_variance_(nn.Linear(d, hidden), d / gain**2) for d in self.dims.values())
        self.out = unit_variance_(nn.Linear(hidden, dim), hidden * len(self.dims))
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, there = vectors(inputs)
        terms = torch.stack([self.activation(p(v)) for p, v in zip(self.project, values, strict=True)])
        total = torch.where(there.T.unsqueeze(-1), terms, 0.0).sum(dim=0)
        vector, *alone = self.output_activation(self.out(self.dropout(torch.cat([total.unsqueeze(0), terms]))))
        return Fused(vector, None, dict(zip(self.names, alone, strict=True)), None)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("first", "second"), **options: Any
    ) -> Self:
        """The LinearSum of the public code of BLOCK (``linear0``, ``linear1``, ``linear_out``).

        Args:
            state: its parameters.
            names: names of the two modalities.
            options: what they do not tell: ``activation`` and ``output_activation`` (there ``"relu"``).
        """
        return load_projected(cls, state, names, options)
