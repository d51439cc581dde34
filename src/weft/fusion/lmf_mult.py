r"""LMF-MulT, after Sahay et al.: crossmodal transformers against one low-rank fused signal, linear in the modalities.

With :math:`X_m = V_m W_m` ``(B, T_m, d)``, :math:`\bar X_m` its real steps averaged to ``T_f`` steps, encoders as in
``mult``:

.. math::
    F_t &= \mathrm{LMF}(\bar X_{1,t}, \dots, \bar X_{M,t}) && (B, T_f, d), \text{ rank r} \\
    F &= \mathrm{Conv}_3(\mathrm{LN}(F)) && \text{over time, zeros beyond the last real step}

"modalities" (LMF-MulT), the fused signal enriches every modality:

.. math::
    H_m = \mathrm{CrossEncoder}_m(X_m \leftarrow F), \qquad
    z_m = \mathrm{SelfEncoder}_m(H_m)\ \text{at the last real step} \quad (B, d)

"fused" (Fusion-Based-CM-Attn-MulT), the modalities enrich the fused signal:

.. math::
    H_m = \mathrm{CrossEncoder}_m(F \leftarrow X_m), \qquad [z_1; \dots; z_M] = \mathrm{SelfEncoder}([H_1; \dots; H_M])
    \ \text{at the last real step} \quad (B, M d)

and the head of ``mult`` on :math:`z = [z_1; \dots; z_M]`. The fused signal has as many steps as the shortest modality
that is there, at most ``steps``: aligned sequences of no more than ``steps`` tokens are fused step by step, longer or
unaligned ones by bins of equal share of each modality's real steps. An absent modality enters the product as
``[1, 0]``; its :math:`z_m` is 0, or it sends nothing.

Cost: with :math:`P(E, L) = L (12 E^2 + 13 E) + 2 E` weights of an encoder, L' = max(L, 3) and C = M d: ``M P(d, L)``
and ``M P(d, L')`` ("modalities") or ``P(C, L')`` ("fused"), fusion ``r d M (d + 1) + r + d``, convolution ``3 d^2 + 3
d`` with its norm, and the head. Time ``T_m T_f`` per modality and layer.

When not to use it: where pairs of modalities interact step by step (``mult``); pooled vectors (training on one token is
refused); few rows.

Source: Sahay, Okur, Kumar, Nachman, "Low Rank Fusion based Transformers for Multimodal Sequences", Challenge-HML 2020,
arXiv 2007.02038. There is no official code: the grid, the LayerNorm, the kernel size and the rank are ours, and the
published sizes are not reproduced. The fusion is that of ``lmf``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.base import Fusion, fusions
from weft.fusion.low_rank import LowRankFusion
from weft.fusion.mult import (
    MEMORY_LAYERS,
    ResidualHead,
    SequenceEncoder,
    embed,
    projection,
    refuse_one_token,
    step_numbers,
)
from weft.ops.bilinear import check_positive
from weft.registry import Count, Dropout
from weft.tokens import Fused, Tokens, as_tokens, present, when_read

KERNEL = 3
"""Steps the convolution over the fused signal sees."""


@fusions.register("lmf-mult")
class LowRankMulT(Fusion):
    """Crossmodal transformers between every modality and their low-rank fusion.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        enriches: what is enriched, "modalities" (LMF-MulT) or "fused" (Fusion-Based-CM-Attn-MulT).
        width: ``d``, the common width of the sequences, at least 4.
        layers: ``L``, at least 1.
        cross_heads, self_heads: attention heads of the crossmodal and self-attention encoders; they divide the width.
        rank: ``r`` of the fusion.
        steps: most steps of the fused signal, at least 2.
        dropout, embed_dropout, attention_dropout, output_dropout: see :class:`~weft.fusion.mult.MulT`.

    Raises:
        UserError: heads do not divide the width, too few steps; from ``forward`` in training, one token only.

    ``per_modality`` of the result is what the last layer makes of :math:`z_m` alone, zeros where m is absent.
    """

    arity = (2, None)
    wants = "tokens"
    absent = "native"
    paper = (
        "after Sahay et al., Low Rank Fusion based Transformers for Multimodal Sequences, Challenge-HML 2020, arXiv "
        "2007.02038"
    )

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        enriches: Literal["modalities", "fused"] = "modalities",
        width: Count = 30,
        layers: int = 2,
        cross_heads: Count = 5,
        self_heads: Count = 5,
        rank: int = 4,
        steps: int = 64,
        dropout: Dropout = 0.1,
        embed_dropout: Dropout = 0.25,
        attention_dropout: Dropout = 0.0,
        output_dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        check_positive("lmf-mult", layers=layers, rank=rank)
        if steps < 2:
            raise UserError(
                "lmf-mult: a fused signal of one step leaves the attention nothing to choose from",
                f"steps={steps}",
                "choose 2 or more, or use 'lmf', which fuses pooled vectors",
            )
        self.enriches, self.steps = enriches, steps
        drops, count = (dropout, embed_dropout, attention_dropout), len(self.dims)
        self.project = nn.ModuleList(projection(d, width) for d in self.dims.values())
        self.fusion = LowRankFusion(dict.fromkeys(self.names, width), width, rank=rank)
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, KERNEL, padding="same")
        self.cross = nn.ModuleList(SequenceEncoder(width, cross_heads, layers, *drops) for _ in self.dims)
        memories, memory_width = (1, count * width) if enriches == "fused" else (count, width)
        self.memory = nn.ModuleList(
            SequenceEncoder(memory_width, self_heads, max(layers, MEMORY_LAYERS), *drops) for _ in range(memories)
        )
        self.head = ResidualHead(count * width, dim, output_dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        if self.training:
            refuse_one_token("lmf-mult", inputs)
        streams = [Tokens(p(t.values), t.mask) for p, t in zip(self.project, inputs.values(), strict=True)]
        signal = _embedded(self._fused_signal(streams))
        streams = [_embedded(x) for x in streams]
        there = [present(x).unsqueeze(1) for x in streams]
        if self.enriches == "fused":
            received = [cross(signal, x) for cross, x in zip(self.cross, streams, strict=True)]
            joined = _embedded(Tokens(torch.cat(received, dim=-1), signal.mask))
            summaries = list(self.memory[0](joined, last=True)[:, 0].chunk(len(streams), dim=-1))
        else:
            received = [cross(x, signal) for cross, x in zip(self.cross, streams, strict=True)]
            enriched = [_embedded(Tokens(h, x.mask)) for h, x in zip(received, streams, strict=True)]
            last = [memory(h, last=True)[:, 0] for memory, h in zip(self.memory, enriched, strict=True)]
            summaries = [torch.where(t, z, 0.0) for t, z in zip(there, last, strict=True)]

        def alone() -> list[Tensor]:
            return [torch.where(t, p, 0.0) for t, p in zip(there, self.head.parts(summaries), strict=True)]

        return Fused(self.head(torch.cat(summaries, dim=1)), None, when_read(self.names, alone), None)

    def _fused_signal(self, streams: list[Tokens]) -> Tokens:
        """``F``, ``(B, T_f, d)``."""
        counts = torch.stack([x.mask.sum(dim=1) for x in streams], dim=1)
        longest = max(x.mask.shape[1] for x in streams)
        real = torch.where(counts > 0, counts, longest).amin(dim=1).clamp(max=self.steps)
        mask = torch.arange(min(longest, self.steps), device=real.device) < real.unsqueeze(1)
        grid = {
            name: as_tokens(resample(x, mask).flatten(0, 1), (mask & present(x).unsqueeze(1)).flatten())
            for name, x in zip(self.names, streams, strict=True)
        }
        fused = self.norm(self.fusion(grid).vector).unflatten(0, mask.shape)
        fused = torch.where(mask.unsqueeze(-1), fused, 0.0)
        return Tokens(self.convolution(fused.mT).mT, mask)


def resample(x: Tokens, grid: Tensor) -> Tensor:
    """Real steps averaged to fewer: bin t of n covers ``[t N / n, (t + 1) N / n)`` of N real steps, rounded outwards.

    Args:
        x: ``(B, T, d)``.
        grid: ``(B, T_f)`` bool, the n real steps of the result, at its beginning.

    Returns:
        ``(B, T_f, d)``; zeros in rows without any real step. Values beyond ``grid`` mean nothing.
    """
    bins, n = torch.arange(grid.shape[1], device=grid.device), grid.sum(dim=1, keepdim=True)
    total = x.mask.sum(dim=1, keepdim=True)
    first, stop = bins * total // n, ((bins + 1) * total + n - 1) // n
    step = (step_numbers(x.mask) - 1).unsqueeze(1)
    covers = (step >= first.unsqueeze(2)) & (step < stop.unsqueeze(2)) & x.mask.unsqueeze(1)
    weights = covers.to(x.values.dtype)
    return weights @ x.values / weights.sum(dim=2, keepdim=True).clamp(min=1)


def _embedded(x: Tokens) -> Tokens:
    """With positions, as the encoders take it."""
    return Tokens(embed(x.values, step_numbers(x.mask)), x.mask)
