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
from typing import ClassVar

import torch
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
    power_normalize,
    product,
    unit_variance_,
)
from weft.registry import Dropout


class Projections(nn.Module):
    """The projections of one block, for modalities of width ``D_m`` and initial mean squared norm ``energy``."""

    def __init__(self, inputs: Sequence[tuple[int, float]], width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(factor_of_product_(nn.Linear(d, width), energy) for d, energy in inputs)

    def forward(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The projections ``(B, width)`` of all modalities."""
        return [project(v) for project, v in zip(self.project, values, strict=True)]


@fusions.register("mfb")
class FactorizedBilinear(BilinearFusion):
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

    paper = "Yu et al., Multi-modal Factorized Bilinear Pooling, ICCV 2017, arXiv 1708.01471"
    published = staticmethod(bilinear_weights.factorized)
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
        dropout: Dropout = 0.0,
    ) -> None:
        hidden = dim if hidden is None else hidden
        check_positive("mfb", hidden=hidden, factor=factor)
        super().__init__(dims, dim, output_activation=output_activation, dropout=dropout)
        self.activation, self.factor, self.normalize = activation_of(activation), factor, normalize
        gain, share = gain_of(activation) ** 2, factor ** (1 / len(self.dims))
        self.products = nn.ModuleList(
            Projections([(d, d / gain * (1 if block else share)) for d in self.dims.values()], hidden * factor)
            for block in range(self.blocks)
        )
        self.out = unit_variance_(nn.Linear(self.blocks * hidden, dim), self.blocks * (1 if normalize else hidden))

    def factors(self, values: Sequence[Tensor]) -> list[list[Tensor]]:
        """For every block the factors ``(B, F h)`` of all modalities."""
        return [[self.activation(f) for f in block(values)] for block in self.products]

    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        pooled, before = [], None
        for factors in pieces:
            e = product(factors)
            before = self.dropout(e if before is None else e * before)
            z = before.unflatten(1, (-1, self.factor)).sum(dim=2)
            pooled.append(power_normalize(z) if self.normalize else z)
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


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
