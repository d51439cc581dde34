r"""Low-rank multimodal fusion (LMF): the tensor fusion map with modality-specific low-rank factors.

.. math::
    a_m[k] = [1, h_m]\, F_m[k] \in R^{dim}, \qquad y = \sum_{k=1}^{r} w_k \prod_m a_m[k] + c

with :math:`h_m` ``(B, D_m)``, :math:`F_m` ``(r, D_m + 1, dim)``, ``w`` ``(r,)``, ``c`` ``(dim,)``. It equals ``tfn``
with the weight :math:`W[i_1 \dots i_M, o] = \sum_k w_k \prod_m F_m[k, i_m, o]`, and the outer product never exists.
The rank stays inside the product: a product of sums over the rank is another, weaker model. All ranks of one modality
are one matrix product ``(B, D_m) x (D_m, r dim)``; :math:`F_m[:, 0]` is its bias.

An absent modality is :math:`[1, 0]`, that is :math:`a_m = F_m[:, 0]`: the interactions of the others stay.

Cost: ``r dim sum(D_m + 1) + r + dim`` weights, linear in the number of modalities.

Initialisation: w = 1, :math:`\mathrm{Var}(F_m[:, 0]) = r^{-1/M} / 2`, other rows :math:`r^{-1/M} / (2 D_m)`: output
variance 1 for any M, r, dim and width, and the constant weighs as much as all features of a modality, so interactions
of every order start equal. (With one variance for all rows, as in the original, wide inputs leave only the product of
all modalities, and it memorises: in ``make demo``, widths 38/256/271, test accuracy 0.13 against 0.41, 3 seeds.)

When not to use it: M = 1 (a linear map of rank 1 does the same); large ranks train unstably. If one modality's
:math:`a_m` is 0 at all ranks, the others get no gradient.

Source: Liu, Shen et al., "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", ACL 2018,
arXiv 1806.00064. The output is linear as in the original; its post-fusion dropout is never applied there, here
``dropout`` acts on the fused vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import mul
from typing import Self

import torch
from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import check_positive, vectors, wide, with_one
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, when_read


@fusions.register("lmf")
class LowRankFusion(Fusion):
    """A sum over ranks of products over modalities.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        rank: ``r``, at least 1.
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].
    """

    arity = (1, None)
    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = (
        "Liu et al., Efficient Low-rank Multimodal Fusion with Modality-Specific Factors, ACL 2018, arXiv 1806.00064"
    )

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, rank: int = 4, dropout: Dropout = 0.0) -> None:
        super().__init__(dims, dim)
        check_positive("lmf", rank=rank)
        self.rank = rank
        scale = 0.5**0.5 * rank ** (-0.5 / len(self.dims))
        self.factors = nn.ParameterList(
            torch.cat([torch.empty(1, rank * dim).normal_(), torch.empty(d, rank * dim).normal_(std=d**-0.5)]) * scale
            for d in self.dims.values()
        )
        self.rank_weights = nn.Parameter(torch.ones(rank))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values = vectors(inputs)
        a = [wide(with_one(v) @ factor) for factor, v in zip(self.factors, values, strict=True)]

        def alone() -> list[Tensor]:
            constant = [wide(factor[0]) for factor in self.factors]
            others = [reduce(mul, constant[:m] + constant[m + 1 :], constant[0].new_ones(())) for m in range(len(a))]
            return [self._sum_ranks(x * other).to(values[0].dtype) for x, other in zip(a, others, strict=True)]

        vector = self._sum_ranks(reduce(mul, a)).to(values[0].dtype)
        return Fused(self.dropout(vector), None, when_read(self.names, alone), None)

    def _sum_ranks(self, products: Tensor) -> Tensor:
        """``(B, r dim)`` to ``(B, dim)``."""
        ranks = products.unflatten(1, (self.rank, self.dim))
        weights = wide(self.rank_weights).expand(ranks.shape[0], 1, self.rank)
        return torch.baddbmm(wide(self.bias), weights, ranks).squeeze(1)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], names: Sequence[str] = ("audio", "video", "text")) -> Self:
        """The fusion of the published network.

        Args:
            state: its parameters; ``{name}_factor`` ``(r, D + 1, o)``, ``fusion_weights`` ``(1, r)`` and
                ``fusion_bias`` ``(1, o)`` are read.
            names: the modalities, in the order this module shall have.
        """
        factors = [state[f"{name}_factor"] for name in names]
        rank, _, outputs = factors[0].shape
        dims = {name: f.shape[1] - 1 for name, f in zip(names, factors, strict=True)}
        module = cls(dims, outputs, rank=rank).to(factors[0].dtype)
        with torch.no_grad():
            for ours, factor in zip(module.factors, factors, strict=True):
                ours.copy_(factor.transpose(0, 1).flatten(1))
            module.rank_weights.copy_(state["fusion_weights"][0])
            module.bias.copy_(state["fusion_bias"][0])
        return module
