r"""Multimodal factorised bilinear pooling (MFB) and its cascade (MFH).

.. math::
    e^{(1)} = \prod_m f(v_m U^{(1)}_m + a^{(1)}_m), \qquad
    e^{(i)} = e^{(i-1)} \odot \prod_m f(v_m U^{(i)}_m + a^{(i)}_m) \\
    z^{(i)}[j] = \sum_{k=1}^{F} e^{(i)}[j F + k], \qquad y = g\big([\mathrm{pnorm}(z^{(1)}), \dots]\, W + b\big)

with :math:`v_m` ``(B, D_m)``, :math:`e` ``(B, h F)``, :math:`z` ``(B, h)``: groups of F **consecutive** entries are
summed. MFB has one block, MFH two: the second product is multiplied by the first, before pooling and after its
dropout, and both pooled vectors are concatenated. pnorm is the signed square root followed by unit length.

An absent modality is left out of the products.

Cost: MFB ``h F sum(D_m + 1) + h dim + dim`` weights; MFH twice that, but for the bias of the output.

When not to use it: where the magnitude of the product matters, turn ``normalize`` off; with few rows ``lmf`` has fewer
weights at the same width.

Source: Yu et al., "Multi-modal Factorized Bilinear Pooling with Co-Attention Learning for Visual Question Answering",
ICCV 2017, arXiv 1708.01471 (h 1000, F 5, no activation, normalised); Yu et al., "Beyond Bilinear", TNNLS 2018, arXiv
1708.03619 (MFH). The public code of BLOCK uses relu before the product and after the output; both are options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import (
    ACTIVATIONS,
    Activation,
    check_positive,
    factor_of_product_,
    joint_and_alone,
    load_renamed,
    power_normalize,
    unit_variance_,
    vectors,
)
from weft.tokens import Fused, Tokens


class Products(nn.Module):
    """Project, activate, multiply: ``M`` vectors ``(B, D_m)`` to ``(M + 1, B, width)``, the joint product first.

    Args:
        inputs: ``(D_m, energy)``, width and initial mean squared norm of each modality.
        width: of the projections.
        activation: before the product.
    """

    def __init__(self, inputs: Sequence[tuple[int, float]], width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.project = nn.ModuleList(factor_of_product_(nn.Linear(d, width), energy) for d, energy in inputs)

    def forward(self, values: Sequence[Tensor], there: Tensor) -> Tensor:
        factors = [self.activation(project(v)) for project, v in zip(self.project, values, strict=True)]
        return joint_and_alone(factors, there)


@fusions.register("mfb")
class FactorizedBilinear(Fusion):
    """Products of wide projections, summed in groups of neighbours.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width after pooling; default ``dim``.
        factor: ``F``, size of the groups.
        activation: f, before the product.
        output_activation: g, after the output map.
        normalize: signed square root and unit length of the pooled vector.
        dropout: probability of zeroing an entry of the product, in [0, 1].
    """

    arity = (2, None)
    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Yu et al., Multi-modal Factorized Bilinear Pooling, ICCV 2017, arXiv 1708.01471"
    blocks: ClassVar[int] = 1

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        factor: int = 2,
        activation: Activation = "none",
        output_activation: Activation = "none",
        normalize: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        hidden = dim if hidden is None else hidden
        check_positive("mfb", hidden=hidden, factor=factor)
        self.factor, self.normalize = factor, normalize
        self.output_activation = ACTIVATIONS[output_activation]
        gain = nn.init.calculate_gain("linear" if activation == "none" else activation) ** 2
        share = factor ** (1 / len(self.dims))
        self.products = nn.ModuleList(
            Products([(d, d / gain * (1 if block else share)) for d in self.dims.values()], hidden * factor, activation)
            for block in range(self.blocks)
        )
        self.out = unit_variance_(nn.Linear(self.blocks * hidden, dim), self.blocks * (1 if normalize else hidden))
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, there = vectors(inputs)
        pooled, product = [], None
        for block in self.products:
            e = block(values, there)
            product = self.dropout(e if product is None else e * product)
            z = product.unflatten(-1, (-1, self.factor)).sum(dim=-1)
            pooled.append(power_normalize(z) if self.normalize else z)
        vector, *alone = self.output_activation(self.out(torch.cat(pooled, dim=-1)))
        return Fused(vector, None, dict(zip(self.names, alone, strict=True)), None)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("first", "second"), **options: Any
    ) -> Self:
        """The MFB or MFH of the public code of BLOCK (``linear0``, or ``linear0_0`` and ``linear0_1``, and so on).

        Args:
            state: its parameters.
            names: names of the two modalities.
            options: what they do not tell: ``activation`` and ``output_activation`` (there ``"relu"``), ``normalize``.
        """
        keys = {
            (block, m): f"linear{m}" + (f"_{block}" if cls.blocks > 1 else "")
            for block in range(cls.blocks)
            for m in range(len(names))
        }
        first, out = [state[f"{keys[0, m]}.weight"] for m in range(len(names))], state["linear_out.weight"]
        hidden = out.shape[1] // cls.blocks
        dims = {name: weight.shape[1] for name, weight in zip(names, first, strict=True)}
        module = cls(dims, out.shape[0], hidden=hidden, factor=first[0].shape[0] // hidden, **options)
        prefixes = {f"{key}.": f"products.{block}.project.{m}." for (block, m), key in keys.items()}
        load_renamed(module, state, {**prefixes, "linear_out.": "out."})
        return module


@fusions.register("mfh")
class FactorizedHighOrder(FactorizedBilinear):
    """Two cascaded MFB blocks: the product of the second is multiplied by that of the first.

    Args:
        dims, dim, hidden, factor, activation, output_activation, normalize, dropout: as for ``mfb``.
    """

    paper = (
        "Yu et al., Beyond Bilinear: Generalized Multimodal Factorized High-order Pooling, TNNLS 2018, arXiv 1708.03619"
    )
    blocks = 2
