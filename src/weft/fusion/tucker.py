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
from typing import Any, Self

import torch
from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.fusion.block import Normalize, chunk_sizes, norm_energy, normalize_chunks
from weft.ops.bilinear import (
    factor_of_product_,
    load_renamed,
    multilinear,
    published_widths,
    refuse_oversized,
    unit_variance_,
    vectors,
)
from weft.tokens import Fused, Tokens

DEFAULT_CORE = 2**18


class FullCore(nn.Module):
    """The multilinear map of ``M`` vectors ``(B, s)`` to ``(B, s)``, with a bias.

    ``forward`` gives ``(M + 1, B, s)``: all together, then each alone with the stand-ins ``(s,)`` of the others.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty([width] * (modalities + 1)).normal_(std=width ** (-modalities / 2)))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Sequence[Tensor], stand_ins: Sequence[Tensor]) -> Tensor:
        alone = [v @ self._matrix(m, stand_ins).T for m, v in enumerate(values)]
        return torch.stack([multilinear(self.weight, values), *alone]) + self.bias

    def _matrix(self, m: int, stand_ins: Sequence[Tensor]) -> Tensor:
        """What is left of the core ``(s, s)`` for modality ``m`` once the others are fixed."""
        weight: Tensor = self.weight
        for n in reversed(range(len(stand_ins))):
            if n != m:
                weight = torch.tensordot(weight, stand_ins[n], dims=([n + 1], [0]))
        return weight


@fusions.register("tucker")
class Tucker(Fusion):
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

    arity = (2, None)
    wants = "vectors"
    absent = "fill"
    paper = "Ben-Younes et al., MUTAN, ICCV 2017, arXiv 1705.06676; BLOCK, AAAI 2019, arXiv 1902.00038 (BlockTucker)"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        hidden: int | None = None,
        chunks: int | tuple[int, ...] = 1,
        normalize: Normalize = "none",
        dropout: float = 0.0,
        max_weights: int = 2**25,
    ) -> None:
        super().__init__(dims, dim)
        modalities = len(self.dims)
        if hidden is None:
            hidden = max(h for h in range(1, 65) if h == 1 or h ** (modalities + 1) <= DEFAULT_CORE)
        self.sizes = chunk_sizes("tucker", hidden, chunks)
        refuse_oversized(
            "tucker",
            sum(s ** (modalities + 1) for s in self.sizes),
            max_weights,
            "lower hidden, raise chunks, use the low-rank cores of 'mutan' or 'block', or raise max_weights",
        )
        self.normalize = normalize
        self.project = nn.ModuleList(factor_of_product_(nn.Linear(d, hidden), d) for d in self.dims.values())
        self.cores = nn.ModuleList(FullCore(modalities, s) for s in self.sizes)
        self.out = unit_variance_(nn.Linear(hidden, dim), norm_energy(self.sizes, normalize))
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, _ = vectors(inputs)
        stand_ins = [p(f) for p, f in zip(self.project, self.fillers, strict=True)]
        projected = [p(v) for p, v in zip(self.project, values, strict=True)]
        chunks = []
        for core, at in zip(self.cores, self._slices(), strict=True):
            chunks.append(core([x[:, at] for x in projected], [x[at] for x in stand_ins]))
        vector, *alone = self.out(self.dropout(normalize_chunks(chunks, self.normalize)))
        return Fused(vector, None, dict(zip(self.names, alone, strict=True)), None)

    def _slices(self) -> list[slice]:
        ends = [sum(self.sizes[: c + 1]) for c in range(len(self.sizes))]
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("first", "second"), **options: Any
    ) -> Self:
        """The Tucker (``bilinear``) or BlockTucker (``bilinears.0``, ...) of the public code of BLOCK.

        The fillers of absent modalities are ours and keep their initial values.

        Args:
            state: its parameters; the sizes of the chunks are read from them.
            names: names of the two modalities.
            options: what they do not tell: ``normalize``.
        """
        prefixes = {"bilinear.": "cores.0."}
        sizes = []
        if "bilinear.weight" in state:
            sizes = [len(state["bilinear.bias"])]
        while f"bilinears.{len(sizes)}.bias" in state:
            prefixes[f"bilinears.{len(sizes)}."] = f"cores.{len(sizes)}."
            sizes.append(len(state[f"bilinears.{len(sizes)}.bias"]))
        dims = published_widths(state, names)
        outputs = state["linear_out.weight"].shape[0]
        module = cls(dims, outputs, hidden=sum(sizes), chunks=tuple(sizes), **options)
        fillers = {key: value.detach() for key, value in module.state_dict().items() if key.startswith("fillers.")}
        prefixes |= {f"linear{m}.": f"project.{m}." for m in range(len(names))}
        prefixes |= {"linear_out.": "out.", "fillers.": "fillers."}
        load_renamed(module, {**state, **fillers}, prefixes)
        return module
