r"""Tensor fusion network (TFN): every interaction of every subset of the modalities.

.. math::
    z_m = [1, h_m] \in R^{D_m + 1}, \qquad Z = z_1 \otimes \dots \otimes z_M, \qquad
    y_p = \sum_{i_1 \dots i_M} W[p, i_1, \dots, i_M] \prod_m z_m[i_m] + b_p

with :math:`h_m` ``(B, D_m)`` and ``y`` ``(B, dim)``. :math:`Z` has one block of :math:`\prod_{m \in S} D_m` entries
for every subset :math:`S`: a constant, the modalities themselves, all pairs, and so on. The layer after it is linear,
so :math:`Z` ``(B, prod(D_m + 1))`` is not built: :math:`W` is contracted with the wide modalities first and with the
narrow ones after, which is exact.

The published network puts a sub-network before each :math:`h_m`, which makes it narrow. ``subnet`` is the least of it:
:math:`h_m = \mathrm{relu}(v_m U_m + a_m)`, one layer per modality, all of one width; without it :math:`h_m = v_m`.

An absent modality is :math:`z_m = [1, 0]`: the blocks that contain it vanish, the others stay.

Cost: ``dim * prod(D_m + 1) + dim`` weights and twice as many FLOPs, exponential in the number of modalities: widths
32/32/64 and dim 128 take 9 million weights, 768/1024/512 and dim 256 take 10^11 and are refused.

When not to use it: more than three modalities or widths above some tens; set ``subnet``, or use ``lmf``, the same map
with a low-rank weight. The original drops entries of :math:`Z` in training; here ``dropout`` acts on the fused vector.

Source: Zadeh, Chen, Poria, Cambria, Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017,
arXiv 1707.07250. The modality order of the original (audio, video, text; text innermost) is kept by
:meth:`TensorFusion.from_official`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import check_positive, multilinear, presence, refuse_oversized, vectors, with_one
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, when_read


class Multilinear(nn.Module):
    r""":math:`y_p = \sum W[p, i_1 \dots i_M] \prod_m [1, h_m][i_m]`, of vectors ``(B, D_m)`` to ``(B, outputs)``.

    ``weight`` is ``(outputs, D_a + 1, D_b + 1, ...)`` with the modalities in ``order``, narrow ones first.

    Args:
        who: the operator, for the error message.
        widths: ``D_m``.
        outputs: ``P``.
        max_weights: refuse to allocate more than this.
    """

    def __init__(self, who: str, widths: Sequence[int], outputs: int, max_weights: int) -> None:
        super().__init__()
        self.order = sorted(range(len(widths)), key=widths.__getitem__)
        shape = [widths[m] + 1 for m in self.order]
        remedy = (
            "use 'lmf', the same map with low-rank weights; or make the modalities narrower first (tfn: subnet=32); or "
            "raise max_weights if the memory is there"
        )
        refuse_oversized(who, outputs * prod(shape), max_weights, remedy)
        self.weight = nn.Parameter(torch.empty(outputs, *shape).normal_(std=prod(shape) ** -0.5))

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        return multilinear(self.weight, [with_one(values[m]) for m in self.order])

    def alone(self, values: Sequence[Tensor]) -> list[Tensor]:
        """For every modality the output ``(B, outputs)`` when all others are ``[1, 0]``."""
        index = [tuple(slice(None) if n == m else 0 for n in self.order) for m in range(len(values))]
        return [F.linear(with_one(v), self.weight[:, *at]) for v, at in zip(values, index, strict=True)]

    def load_row_major(self, weight: Tensor) -> None:
        """Take a weight ``(P, prod(D_m + 1))`` whose columns nest the modalities as given, first outermost."""
        widths = dict(zip(self.order, self.weight.shape[1:], strict=True))
        nested = weight.reshape(-1, *(widths[m] for m in range(len(widths))))
        with torch.no_grad():
            self.weight.copy_(nested.permute(0, *(m + 1 for m in self.order)))


@fusions.register("tfn")
class TensorFusion(Fusion):
    """All products of all subsets of the modalities, then a linear map.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        subnet: width of a ReLU layer before the product, one per modality; 0: none.
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].
        max_weights: the largest weight tensor to allocate; 2^25 is 128 MiB in float32.

    Raises:
        UserError: the weight would be larger than ``max_weights``; ``cost()`` tells its size all the same.
    """

    arity = (1, None)
    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Zadeh et al., Tensor Fusion Network for Multimodal Sentiment Analysis, EMNLP 2017, arXiv 1707.07250"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        subnet: int = 0,
        dropout: Dropout = 0.0,
        max_weights: int = 2**25,
    ) -> None:
        super().__init__(dims, dim)
        if subnet:
            check_positive("tfn", subnet=subnet)
        self.subnets = nn.ModuleList(nn.Linear(d, subnet) for d in self.dims.values() if subnet)
        widths = [subnet or d for d in self.dims.values()]
        self.product = Multilinear("tfn", widths, dim, max_weights)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, there = vectors(inputs), presence(inputs)
        for m, subnet in enumerate(self.subnets):
            values[m] = torch.where(there[:, m : m + 1], subnet(values[m]).relu(), 0.0)
        alone = when_read(self.names, lambda: [y + self.bias for y in self.product.alone(values)])
        return Fused(self.dropout(self.product(values) + self.bias), None, alone, None)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], dims: Mapping[str, int]) -> Self:
        """The fusion with the first layer after it, of the published PyTorch network.

        Args:
            state: its parameters; ``post_fusion_layer_1.{weight,bias}`` are read.
            dims: widths of the unimodal outputs in the order of the nesting: audio, video, text.
        """
        weight, bias = state["post_fusion_layer_1.weight"], state["post_fusion_layer_1.bias"]
        module = cls(dims, weight.shape[0]).to(weight.dtype)
        module.product.load_row_major(weight)
        with torch.no_grad():
            module.bias.copy_(bias)
        return module
