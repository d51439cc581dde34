r"""MUTAN: Tucker fusion with a core of low rank.

.. math::
    x_m = v_m U_m + a_m \in R^h, \qquad p_m = x_m A_m + d_m \in R^{r h}, \qquad
    z[t] = \sum_{k=1}^{r} \prod_m p_m[k h + t], \qquad y = [\mathrm{pnorm}](z)\, W + b

with :math:`v_m` ``(B, D_m)``, :math:`z` ``(B, h)``. The rank is the slow axis of the products: entries ``t, h + t, 2h
+ t, ...`` are summed (MFB sums neighbours instead). pnorm (optional) is the signed square root followed by unit
length.

An absent modality is left out of the products.

Cost for M modalities: ``h sum(D_m + 1) + M r h (h + 1) + h dim + dim`` weights.

When not to use it: with r near h it costs more than ``tucker``, whose core it approximates (r above h is refused).

Source: Ben-Younes, Cadene, Cord, Thome, "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", ICCV 2017,
arXiv 1705.06676. The public code's settings are h 1600, r 15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import (
    check_positive,
    factor_of_product_,
    joint_and_alone,
    load_renamed,
    power_normalize,
    published_widths,
    unit_variance_,
    vectors,
)
from weft.tokens import Fused, Tokens


class LowRankCore(nn.Module):
    """``M`` vectors ``(B, h)`` to ``(M + 1, B, h)``: the merge of those present, then each one's own.

    Args:
        who: the operator, for the error message.
        modalities: ``M``.
        width: ``h``.
        rank: ``r``, at most ``h``.

    Raises:
        UserError: the rank exceeds the width, which adds weights and no expressiveness.
    """

    def __init__(self, who: str, modalities: int, width: int, rank: int) -> None:
        super().__init__()
        check_positive(who, rank=rank)
        if rank > width:
            raise UserError(
                f"{who}: the rank of the core is at most its width",
                f"rank={rank}, width {width}",
                "lower rank, or raise hidden (block: hidden / chunks)",
            )
        self.rank = rank
        energy = width * rank ** (1 / modalities)
        self.factors = nn.ModuleList(
            factor_of_product_(nn.Linear(width, rank * width), energy) for _ in range(modalities)
        )

    def forward(self, values: Sequence[Tensor], there: Tensor) -> Tensor:
        factors = [factor(v) for factor, v in zip(self.factors, values, strict=True)]
        return joint_and_alone(factors, there).unflatten(-1, (self.rank, -1)).sum(dim=-2)


@fusions.register("mutan")
class Mutan(Fusion):
    """Project, multiply at every rank, sum the ranks, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the projections and of the merge; default ``dim``.
        rank: ``r``, at most ``hidden``.
        normalize: signed square root and unit length of the merge.
        dropout: probability of zeroing an entry of the merge, in [0, 1].
    """

    arity = (2, None)
    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Ben-Younes et al., MUTAN: Multimodal Tucker Fusion for VQA, ICCV 2017, arXiv 1705.06676"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        rank: int = 8,
        normalize: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        hidden = dim if hidden is None else hidden
        check_positive("mutan", hidden=hidden)
        self.normalize = normalize
        self.project = nn.ModuleList(unit_variance_(nn.Linear(d, hidden), d) for d in self.dims.values())
        self.core = LowRankCore("mutan", len(self.dims), hidden, rank)
        self.out = unit_variance_(nn.Linear(hidden, dim), 1 if normalize else hidden)
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, there = vectors(inputs)
        z = self.core([project(v) for project, v in zip(self.project, values, strict=True)], there)
        if self.normalize:
            z = power_normalize(z)
        vector, *alone = self.out(self.dropout(z))
        return Fused(vector, None, dict(zip(self.names, alone, strict=True)), None)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("first", "second"), **options: Any
    ) -> Self:
        """The Mutan of the public code of BLOCK (``linear0``, ``merge_linear0``, ..., ``linear_out``).

        Args:
            state: its parameters.
            names: names of the two modalities.
            options: what they do not tell: ``normalize``.
        """
        merge, out = state["merge_linear0.weight"], state["linear_out.weight"]
        dims = published_widths(state, names)
        hidden = merge.shape[1]
        module = cls(dims, out.shape[0], hidden=hidden, rank=merge.shape[0] // hidden, **options)
        prefixes = {"linear_out.": "out."}
        for m in range(len(names)):
            prefixes |= {f"linear{m}.": f"project.{m}.", f"merge_linear{m}.": f"core.factors.{m}."}
        load_renamed(module, state, prefixes)
        return module
