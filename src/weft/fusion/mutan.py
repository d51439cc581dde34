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

from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion import bilinear_weights
from weft.fusion.base import fusions
from weft.fusion.bilinear import BilinearFusion
from weft.ops.bilinear import check_positive, factor_of_product_, product, unit_variance_
from weft.registry import Dropout


class LowRankCore(nn.Module):
    """The factors of a core of low rank: the sum over ranks of their product is the merge.

    Args:
        modalities: ``M``.
        width: ``h``.
        rank: ``r``.
    """

    def __init__(self, modalities: int, width: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        energy = width * rank ** (1 / modalities)
        self.factors = nn.ModuleList(
            factor_of_product_(nn.Linear(width, rank * width), energy) for _ in range(modalities)
        )

    def forward(self, projections: Sequence[Tensor]) -> list[Tensor]:
        """The factors ``(B, r h)`` of all modalities, of their projections ``(B, h)``."""
        return [factor(x) for factor, x in zip(self.factors, projections, strict=True)]


def sum_ranks(factors: Sequence[Tensor], rank: int) -> Tensor:
    """The merge ``(B, h)`` of the factors ``(B, r h)`` of some modalities."""
    return product(factors).unflatten(1, (rank, -1)).sum(dim=1)


def check_rank(who: str, rank: int, width: int) -> None:
    """Refuse a rank above the width of a core, which adds weights and no expressiveness.

    Raises:
        UserError: it is, or is not positive.
    """
    check_positive(who, rank=rank)
    if rank > width:
        raise UserError(
            f"{who}: the rank of the core is at most its width",
            f"rank={rank}, width {width}",
            "lower rank, or raise hidden (block: hidden / chunks)",
        )


@fusions.register("mutan")
class Mutan(BilinearFusion):
    """Project, multiply at every rank, sum the ranks, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the projections and of the merge; default ``dim``.
        rank: ``r``, at most ``hidden``.
        normalize: signed square root and unit length of the merge.
        dropout: probability of zeroing an entry of the merge, in [0, 1].
    """

    paper = "Ben-Younes et al., MUTAN: Multimodal Tucker Fusion for VQA, ICCV 2017, arXiv 1705.06676"
    published = staticmethod(bilinear_weights.mutan)

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        rank: int = 8,
        normalize: bool = False,
        dropout: Dropout = 0.0,
    ) -> None:
        hidden = dim if hidden is None else hidden
        check_positive("mutan", hidden=hidden)
        check_rank("mutan", rank, hidden)
        super().__init__(dims, dim, dropout=dropout)
        self.normalize = normalize
        self.project = nn.ModuleList(unit_variance_(nn.Linear(d, hidden), d) for d in self.dims.values())
        self.core = LowRankCore(len(self.dims), hidden, rank)
        self.out = unit_variance_(nn.Linear(hidden, dim), 1 if normalize else hidden)

    def factors(self, values: Sequence[Tensor]) -> list[list[Tensor]]:
        return [self.core([project(v) for project, v in zip(self.project, values, strict=True)])]

    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        return self.finish(sum_ranks(pieces[0], self.core.rank), self.normalize)
