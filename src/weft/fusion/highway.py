r"""Highway fusion: a gate decides, per channel, how much of the first modality is transformed.

.. math::
    x = v_1 W + a, \qquad t = \sigma\Big(\sum_{m \ge 2} v_m V_m + b_t\Big), \qquad
    y = t \odot \mathrm{relu}(x H + b) + (1 - t) \odot x

with :math:`v_m` ``(B, D_m)`` and :math:`x, t, y` ``(B, dim)``: the first modality is carried, the others open the
gate. :math:`b_t` starts at -2, so that the operator begins near the identity. With ``gate="self"`` it is the highway
layer on the concatenation: :math:`x = [v_1, \dots, v_M] W + a` and :math:`t = \sigma(x V + b_t)`.

An absent modality is a zero vector: it adds nothing to the gate or to :math:`x`.

Cost: ``dim (D_1 + 1) + dim (sum_{m>=2} D_m + 1) + dim (dim + 1)`` weights; ``gate="self"`` projects all modalities to
``dim`` and gates with a map ``dim x dim``.

When not to use it: with the default gate the others only choose between two readings of the first modality; where
they carry evidence of their own, or the first is often absent, use ``gate="self"`` or a symmetric operator.

Source: Srivastava, Greff, Schmidhuber, "Highway Networks", 2015, arXiv 1505.00387.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import unit_variance_, vectors
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, when_read


@fusions.register("highway")
class Highway(Fusion):
    """Carry or transform, by a gate.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`; the first modality is carried where ``gate="others"``.
        gate: what opens the gate: the ``"others"``, or ``"self"``, the concatenation of all.
        gate_bias: start of :math:`b_t`; the original uses -1 to -3.
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].
    """

    arity = (2, None)
    wants = "vectors"
    absent = "native"
    paper = "Srivastava et al., Highway Networks, 2015, arXiv 1505.00387"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        gate: Literal["others", "self"] = "others",
        gate_bias: float = -2.0,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        first, *others = self.dims.values()
        carried = first if gate == "others" else first + sum(others)
        self.project = unit_variance_(nn.Linear(carried, dim), carried)
        opening = sum(others) if gate == "others" else dim
        self.gate = unit_variance_(nn.Linear(opening, dim), opening)
        nn.init.constant_(self.gate.bias, gate_bias)
        self.transform = unit_variance_(nn.Linear(dim, dim), dim / 2)
        self.steered = gate == "others"
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values = vectors(inputs)

        def alone() -> list[Tensor]:
            kept = [[v if n == m else torch.zeros_like(v) for n, v in enumerate(values)] for m in range(len(values))]
            return [self._layer(torch.cat(v, dim=1)) for v in kept]

        vector = self._layer(torch.cat(values, dim=1))
        return Fused(self.dropout(vector), None, when_read(self.names, alone), None)

    def _layer(self, joined: Tensor) -> Tensor:
        """``(..., sum D_m)`` to ``(..., dim)``."""
        first = self.project.in_features
        x = self.project(joined[..., :first])
        t = torch.sigmoid(self.gate(joined[..., first:] if self.steered else x))
        return t * torch.relu(self.transform(x)) + (1 - t) * x
