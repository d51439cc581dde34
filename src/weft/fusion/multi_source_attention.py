r"""Multi-source attention: one query reads several sequences, by additive or multi-head attention, in four ways.

Sources :math:`h^k` ``(B, T_k, D_k)``, a query s ``(B, S)``, attention width A. Additive attention (2017):

.. math::
    q &= s W_q + b_q, \qquad K^k = h^k U^k + u^k && (B, A),\ (B, T_k, A) \\
    \textbf{flat:} \quad e^k_j &= v \cdot \tanh(q + K^k_j) + c^k, \quad \alpha = \mathrm{softmax}
        \text{ over all positions of all sources} \\
    c &= \textstyle\sum_k \sum_j \alpha^k_j V^k_j, \quad V^k = h^k P^k + p^k \text{ (or } K^k \text{, shared)} && (B, A)
    \\ \textbf{hierarchical:} \quad c^k &= \textstyle\sum_j \alpha^k_j h^k_j, \quad
        \alpha^k = \mathrm{softmax}_j(v^k \cdot \tanh(h^k_j U'^k + s W'^k + b^k)) && (B, D_k) \\
    E^k &= c^k U^k + u^k, \quad \beta = \mathrm{softmax}_k(v \cdot \tanh(q + E^k) + c^k), \quad
        c = \textstyle\sum_k \beta^k V^k && (B, A)

A sentinel :math:`\psi = \sigma([s', y] G + b_g) \odot s` is one source more, of one position, that is always there: the
query may look at nothing. Flat attention is computed as attention within each source, the sources weighted by the
softmax of their log-sum-exp: the same numbers, and the share of each source for free.

Multi-head attention :math:`\mathrm{Att}` (2018), all sources of width D, n = LN(Q), Q ``(B, T_q, D)``:

.. math::
    \textbf{serial:} \quad & X \leftarrow X + \mathrm{Att}_k(\mathrm{LN}_k(X), h^k) \text{ for every k, from } X = Q \\
    \textbf{parallel:} \quad & X = Q + \textstyle\sum_k \mathrm{Att}_k(n, h^k) \\
    \textbf{flat:} \quad & X = Q + \mathrm{Att}(n, [h^1; \dots; h^N]) \\
    \textbf{hierarchical:} \quad & c_k = \mathrm{Att}_k(n, h^k), \quad X = Q + \mathrm{Att}(n, \{c_1, \dots, c_N\})
        \text{ for every query position alone}

As a fusion the query is learned, and the vector is the context (additive) or X (multi-head, sources projected to D).
Padding and absent sources get weight 0 (the original normalises over padding first, which underflows when its scores
are large, and gives a source without positions a share of the hierarchical weights). Equal otherwise. The scalar biases
of the attention within one source cancel in its softmax and are left out.

Cost: additive, for each source ``2 (D_k A + A) + 1``, and ``A D_k + D_k^2 + 2 D_k`` if hierarchical; multi-head ``4
D^2`` for each attention. Time and memory are linear in the lengths.

When not to use it: interactions between sources (each is read by itself; ``cross-attention`` or ``mult``); modalities
of one token, except flat (training is refused). Flat: a long source gets weight by its number of positions alone.

Source: Libovicky and Helcl, "Attention Strategies for Multi-Source Sequence-to-Sequence Learning", ACL 2017, arXiv
1704.06567; Libovicky, Helcl, Marecek, "Input Combination Strategies for Multi-Source Transformer Decoder", WMT 2018,
arXiv 1811.04716. They recommend hierarchical, separate projections, no sentinel. The learned query is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from weft.errors import UserError
from weft.fusion.base import Fusion, fusions
from weft.fusion.multi_source_additive import Combined, FlatAttention, HierarchicalAttention
from weft.fusion.multi_source_heads import Combination, CrossLayer
from weft.registry import Count, Dropout
from weft.tokens import Fused, Tokens


@fusions.register("multi-source-attention")
class MultiSourceAttention(Fusion):
    """A learned query reads all modalities.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`; ``dim`` is S, A and D.
        combination: "flat", "hierarchical", or, with multi-head attention, also "serial" and "parallel".
        attention: "additive" (2017) or "multi-head" (2018).
        shared: additive: the projection of the scores is that of the values, too.
        sentinel: additive: the query may look at nothing.
        heads: multi-head: their number; divides ``dim``.
        dropout: multi-head: on the attention weights and on what is received, in [0, 1].

    Raises:
        UserError: options that do not go together; heads do not divide ``dim``; from ``forward`` in training, a
            modality of one token where attention within it has nothing to choose from.

    ``weights`` of the result are the shares of the modalities (additive).
    """

    arity = (2, None)
    wants = "tokens"
    absent = "native"
    paper = (
        "Libovicky, Helcl, Attention Strategies for Multi-Source Sequence-to-Sequence Learning, ACL 2017, arXiv "
        "1704.06567; Libovicky, Helcl, Marecek, Input Combination Strategies, WMT 2018, arXiv 1811.04716"
    )

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        combination: Combination = "hierarchical",
        attention: Literal["additive", "multi-head"] = "additive",
        shared: bool = False,
        sentinel: bool = False,
        heads: Count = 4,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        self.combination = combination
        self.query = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        widths = list(self.dims.values())
        if attention == "multi-head":
            if shared or sentinel:
                raise UserError(
                    "multi-source-attention: shared projections and the sentinel belong to additive attention",
                    f"attention='multi-head', shared={shared}, sentinel={sentinel}",
                    "leave them out, or use attention='additive'",
                )
            self.project = nn.ModuleList(nn.Identity() if d == dim else nn.Linear(d, dim) for d in widths)
            self.combine: nn.Module = CrossLayer(dim, [heads] * len(widths), combination, heads, dropout)
        elif combination in ("serial", "parallel"):
            raise UserError(
                f"multi-source-attention: {combination!r} belongs to multi-head attention",
                f"combination={combination!r}, attention='additive'",
                "use attention='multi-head', or combination 'flat' or 'hierarchical'",
            )
        else:
            kind = FlatAttention if combination == "flat" else HierarchicalAttention
            self.combine = kind(widths, dim, dim, shared=shared, sentinel_input=0 if sentinel else None)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        if self.training and self.combination != "flat":
            _refuse_one_token(inputs)
        sources = list(inputs.values())
        rows = sources[0].mask.shape[0]
        query = self.query.expand(rows, -1)
        if isinstance(self.combine, CrossLayer):
            sources = [Tokens(p(t.values), t.mask) for p, t in zip(self.project, sources, strict=True)]
            out, alone = self.combine(query.unsqueeze(1), sources)
            parts = dict(zip(self.names, (a[:, 0] for a in alone), strict=True))
            return Fused(out[:, 0], None, parts, None)
        read: Combined = self.combine(query, sources)
        parts = dict(zip(self.names, read.alone, strict=True))
        return Fused(read.context, None, parts, read.weights[:, : len(sources)])


def _refuse_one_token(inputs: Mapping[str, Tokens]) -> None:
    for name, tokens in inputs.items():
        if tokens.mask.shape[1] == 1:
            raise UserError(
                f"multi-source-attention cannot learn what to read in {name!r}: the weight of one token is always 1",
                f"token counts { {n: t.mask.shape[1] for n, t in inputs.items()} }",
                f"keep the token sequence of {name!r} (no pooling), or use combination='flat'",
            )
