r"""Tucker fusion: a full core between narrow projections.

.. math::
    x_m = v_m U_m + a_m \in R^h, \qquad
    z_t = \sum_{i_1 \dots i_M} G[t, i_1, \dots, i_M] \prod_m x_m[i_m] + g_t, \qquad y = [\mathrm{pnorm}](z)\, W + b

with :math:`v_m` ``(B, D_m)``, ``G`` ``(h, h, ..., h)`` of order M + 1. With ``chunks`` > 1 the core is
block-superdiagonal (BlockTucker): every :math:`x_m` is cut into C chunks, each with a full core of its own. pnorm is
the signed square root followed by unit length, per chunk, over the whole, or left out. The core is contracted one
group of modalities at a time.

A product has no meaning for a missing factor of a full core, so a learned vector stands in for an absent modality.

Cost: ``h sum(D_m + 1) + C (s^(M+1) + s) + h dim + dim`` weights with s = h / C, exponential in the number of
modalities.

When not to use it: more than three modalities; ``mutan`` and ``block`` are its low-rank forms.

Source: Ben-Younes et al., "MUTAN", ICCV 2017, arXiv 1705.06676 (the Tucker form), and "BLOCK", AAAI 2019,
arXiv 1902.00038 (BlockTucker). The public default h 1600 needs a core of 4 10^9 weights and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from weft.fusion import bilinear_weights
from weft.fusion.base import fusions
from weft.fusion.bilinear import BilinearFusion
from weft.fusion.block import Normalize, chunk_sizes, norm_energy, normalize_chunks
from weft.ops.bilinear import factor_of_product_, multilinear, refuse_oversized, unit_variance_
from weft.registry import Dropout

DEFAULT_CORE = 2**18


class FullCore(nn.Module):
    """The multilinear map of ``M`` vectors ``(B, s)`` to ``(B, s)``, with a bias."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty([width] * (modalities + 1)).normal_(std=width ** (-modalities / 2)))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        return multilinear(self.weight, values) + self.bias


@fusions.register("tucker")
class Tucker(BilinearFusion):
    """Project, merge through a full core, project.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        hidden: ``h``, width of the projections; default: the largest up to 64 whose core has at most 2^18 weights.
        chunks: ``C``, how many balanced chunks with a core each, or their sizes.
        normalize: pnorm per ``"chunk"``, over the ``"whole"``, or ``"none"``.
        dropout: probability of zeroing an entry before the output map, in [0, 1].
        max_weights: the most weights of all cores to allocate; 2^28 are 1 GiB in float32.

    Raises:
        UserError: the chunks do not fit ``hidden``, or the cores exceed ``max_weights``.
    """

    absent = "fill"
    symmetric = False
    paper = "Ben-Younes et al., MUTAN, ICCV 2017, arXiv 1705.06676; BLOCK, AAAI 2019, arXiv 1902.00038 (BlockTucker)"
    published = staticmethod(bilinear_weights.tucker)

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        chunks: int | tuple[int, ...] = 1,
        normalize: Normalize = "none",
        dropout: Dropout = 0.0,
        max_weights: int = 2**25,
    ) -> None:
        modalities = len(dims)
        if hidden is None:
            hidden = max(h for h in range(1, 65) if h == 1 or h ** (modalities + 1) <= DEFAULT_CORE)
        sizes = chunk_sizes("tucker", hidden, chunks)
        refuse_oversized(
            "tucker",
            sum(s ** (modalities + 1) for s in sizes),
            max_weights,
            "lower hidden, raise chunks, use the low-rank cores of 'mutan' or 'block', or raise max_weights",
        )
        super().__init__(dims, dim, dropout=dropout)
        self.sizes, self.normalize = sizes, normalize
        self.project = nn.ModuleList(factor_of_product_(nn.Linear(d, hidden), d) for d in self.dims.values())
        self.cores = nn.ModuleList(FullCore(modalities, s) for s in self.sizes)
        self.out = unit_variance_(nn.Linear(hidden, dim), norm_energy(sizes, normalize))

    def factors(self, values: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """For every chunk ``c`` the factors ``(B, h_c)`` of all modalities."""
        split = [project(v).split(self.sizes, dim=-1) for project, v in zip(self.project, values, strict=True)]
        return list(zip(*split, strict=True))

    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        chunks = [core(factors) for core, factors in zip(self.cores, pieces, strict=True)]
        return self.dropout(normalize_chunks(chunks, self.normalize))

    def alone(self, pieces: Sequence[Sequence[Tensor]], m: int) -> Tensor:
        stand_ins = self.factors(list(self.fillers))
        return self.merge(
            [
                [x if n == m else s.expand_as(x) for n, (x, s) in enumerate(zip(*both, strict=True))]
                for both in zip(pieces, stand_ins, strict=True)
            ]
        )
