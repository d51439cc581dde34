r"""BLOCK: bilinear superdiagonal fusion, a Tucker core of low-rank blocks on its diagonal.

.. math::
    x_m = v_m U_m + a_m \in R^h, \qquad x_m = [x_m^1, \dots, x_m^C], \qquad
    z^c[t] = \sum_{k=1}^{r} \prod_m (x_m^c A_m^c + d_m^c)[k s_c + t], \qquad
    y = [\mathrm{pnorm}(z^1), \dots, \mathrm{pnorm}(z^C)]\, W + b

with :math:`v_m` ``(B, D_m)`` and chunks of width :math:`s_c`, :math:`\sum_c s_c = h`: one ``mutan`` merge per chunk.
pnorm is the signed square root followed by unit length, per chunk, or once over all of :math:`z`, or left out.

An absent modality is left out of the products.

Cost for M modalities and equal chunks: ``h sum(D_m + 1) + M r h (h / C + 1) + h dim + dim`` weights.

When not to use it: small sets where the magnitude of the target matters (pnorm removes it; ``normalize="none"`` or
``mutan`` then do better); more and smaller chunks cost expressiveness.

Source: Ben-Younes, Cadene, Thome, Cord, "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and
Visual Relationship Detection", AAAI 2019, arXiv 1902.00038. Published settings: h 1600, C 20, r 15. The original cuts
chunks of ``ceil(h / C)`` and leaves a short (or empty) last one; here they are balanced, and explicit sizes reach any
other cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion import bilinear_weights
from weft.fusion.base import fusions
from weft.fusion.bilinear import BilinearFusion
from weft.fusion.mutan import LowRankCore, check_rank, sum_ranks
from weft.ops.bilinear import check_positive, power_normalize, unit_variance_
from weft.registry import Dropout

Normalize = Literal["chunk", "whole", "none"]


def chunk_sizes(who: str, hidden: int, chunks: int | Sequence[int]) -> list[int]:
    """Sizes of the chunks of ``hidden`` entries: balanced for a number, checked for explicit sizes.

    Raises:
        UserError: more chunks than entries, or sizes that are not positive or do not sum to ``hidden``.
    """
    check_positive(who, hidden=hidden)
    if isinstance(chunks, int):
        sizes = [hidden // chunks + (c < hidden % chunks) for c in range(chunks)] if chunks > 0 else []
    else:
        sizes = list(chunks)
    if not sizes or min(sizes) < 1 or sum(sizes) != hidden:
        raise UserError(
            f"{who}: chunks cut hidden into positive sizes",
            f"hidden={hidden}, chunks={chunks}",
            "use at most hidden chunks, or sizes that sum to hidden",
        )
    return sizes


def normalize_chunks(chunks: Sequence[Tensor], how: Normalize) -> Tensor:
    """Join chunks ``(B, h_c)`` to ``(B, h)``, each of them or the whole power-normalised."""
    joined = torch.cat([power_normalize(z) for z in chunks] if how == "chunk" else list(chunks), dim=-1)
    return power_normalize(joined) if how == "whole" else joined


def norm_energy(sizes: Sequence[int], how: Normalize) -> int:
    """Mean squared norm of :func:`normalize_chunks` for chunks of unit variance."""
    return {"chunk": len(sizes), "whole": 1, "none": sum(sizes)}[how]


@fusions.register("block")
class Block(BilinearFusion):
    """A low-rank merge per chunk of the projections.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the projections; default ``dim``.
        chunks: ``C``, how many balanced chunks, or their sizes.
        rank: ``r``, at most the width of the narrowest chunk where ``chunks`` is a number.
        normalize: pnorm per ``"chunk"``, over the ``"whole"``, or ``"none"``.
        dropout: probability of zeroing an entry before the output map, in [0, 1].

    Raises:
        UserError: the chunks do not fit ``hidden``, or the rank exceeds a chunk.
    """

    paper = "Ben-Younes et al., BLOCK: Bilinear Superdiagonal Fusion, AAAI 2019, arXiv 1902.00038"
    published = staticmethod(bilinear_weights.block)

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        chunks: int | tuple[int, ...] = 4,
        rank: int = 4,
        normalize: Normalize = "chunk",
        dropout: Dropout = 0.0,
    ) -> None:
        hidden = dim if hidden is None else hidden
        sizes = chunk_sizes("block", hidden, chunks)
        check_rank("block", rank, min(sizes) if isinstance(chunks, int) else hidden)
        super().__init__(dims, dim, dropout=dropout)
        self.sizes, self.rank, self.normalize = sizes, rank, normalize
        self.project = nn.ModuleList(unit_variance_(nn.Linear(d, hidden), d) for d in self.dims.values())
        self.cores = nn.ModuleList(LowRankCore(len(self.dims), s, rank) for s in self.sizes)
        self.out = unit_variance_(nn.Linear(hidden, dim), norm_energy(sizes, normalize))

    def factors(self, values: Sequence[Tensor]) -> list[list[Tensor]]:
        """For every chunk ``c`` the factors ``(B, r h_c)`` of all modalities."""
        split = [project(v).split(self.sizes, dim=1) for project, v in zip(self.project, values, strict=True)]
        return [core(chunk) for core, *chunk in zip(self.cores, *split, strict=True)]

    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        merged = [sum_ranks(factors, self.rank) for factors in pieces]
        return self.dropout(normalize_chunks(merged, self.normalize))
