"""Multi-head attention of queries to several sequences: serial, parallel, flat, hierarchical (2018).

Equations and source: :mod:`weft.fusion.multi_source_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.fusion.attention import check_heads
from weft.fusion.multi_source_state import load, one
from weft.tokens import Tokens, concatenate, present

Combination = Literal["flat", "hierarchical", "serial", "parallel"]
EPS = 1e-6
"""Of the LayerNorms, as published."""
PARTS_OF_NORM = {"weight": "gamma", "bias": "beta"}
"""Of a LayerNorm, ours and the published names."""


class CrossLayer(nn.Module):
    """The cross-attention sublayer of a multi-source transformer decoder.

    Args:
        dim: ``D``.
        heads: for each source.
        combination: "flat", "hierarchical", "serial" or "parallel".
        outer_heads: of the second attention of "hierarchical".
        dropout: on attention weights and on what is received.
    """

    def __init__(
        self, dim: int, heads: Sequence[int], combination: Combination, outer_heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.combination = combination
        attentions = heads[:1] if combination == "flat" else heads
        self.attentions = nn.ModuleList(HeadAttention(dim, h, dropout) for h in attentions)
        norms = len(heads) if combination == "serial" else 1
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=EPS) for _ in range(norms))
        self.outer = HeadAttention(dim, outer_heads, dropout) if combination == "hierarchical" else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, sources: Sequence[Tokens]) -> tuple[Tensor, list[Tensor]]:
        """Read the sources.

        Args:
            queries: ``(B, T_q, D)``.
            sources: ``(B, T_k, D)`` each.

        Returns:
            ``(B, T_q, D)``, the residual included, and what each source alone sends, ``(B, T_q, D)`` each.
        """
        if self.combination == "serial":
            x, alone = queries, []
            for norm, attention, source in zip(self.norms, self.attentions, sources, strict=True):
                alone.append(self.dropout(attention(norm(x), source)))
                x = x + alone[-1]
            return x, alone
        n = self.norms[0](queries)
        if self.combination == "flat":
            (attention,) = self.attentions
            received = self.dropout(attention(n, concatenate(sources)))
            return queries + received, [attention(n, source) for source in sources]
        alone = [self.dropout(a(n, source)) for a, source in zip(self.attentions, sources, strict=True)]
        if self.outer is None:
            return queries + torch.stack(alone).sum(dim=0), alone
        contexts = torch.stack(alone, dim=2).flatten(0, 1)
        there = torch.stack([present(x) for x in sources], dim=1).repeat_interleave(queries.shape[1], dim=0)
        second = self.outer(n.flatten(0, 1).unsqueeze(1), Tokens(contexts, there))
        return queries + self.dropout(second.view_as(queries)), alone

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], combination: Combination, heads: Sequence[int], outer_heads: int = 1
    ) -> Self:
        """The published sublayer, from the variables of its graph.

        Args:
            state: ``.../enc_0/query_proj/kernel``, ``.../LayerNorm/gamma`` and so on, kernels ``(in, out)``. An
                attention with one head has none of them there, and computes without projections.
            combination: which of the four.
            heads: for each source; "flat" has one attention, of the first's heads.
            outer_heads: of the second attention of "hierarchical".
        """
        norm = "/enc_0/LayerNorm" if combination == "serial" else "/LayerNorm"
        module = cls(len(one(state, f"{norm}/gamma")), heads, combination, outer_heads)
        renamed: dict[str, Tensor] = {}
        for k in range(len(module.norms)):
            name = f"/enc_{k}/LayerNorm" if combination == "serial" else "/LayerNorm"
            renamed |= {f"norms.{k}.{ours}": one(state, f"{name}/{t}") for ours, t in PARTS_OF_NORM.items()}
        single = combination == "flat"
        names = {f"attentions.{k}": "" if single else f"/enc_{k}" for k in range(len(module.attentions))}
        if module.outer is not None:
            names["outer"] = "/enc_hier"
        for ours, theirs in names.items():
            attention: HeadAttention = module.get_submodule(ours)  # type: ignore[assignment]
            if not any(key.endswith(f"{theirs}/query_proj/kernel") for key in state):
                attention.drop_projections()
                continue
            for kind, their_kind in (("query", "query"), ("key", "keys"), ("value", "vals"), ("out", "output")):
                renamed[f"{ours}.{kind}.weight"] = one(state, f"{theirs}/{their_kind}_proj/kernel").T
        load(module, renamed)
        return module


class HeadAttention(nn.Module):
    """Multi-head attention of ``(B, T_q, D)`` within one source, without biases.

    Args:
        dim: ``D``.
        heads: their number; divides ``dim``.
        dropout: on the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (self._linear(dim) for _ in range(4))

    @staticmethod
    def _linear(dim: int) -> nn.Module:
        linear = nn.Linear(dim, dim, bias=False)
        nn.init.xavier_uniform_(linear.weight)
        return linear

    def drop_projections(self) -> None:
        """Attend with the bare queries, keys and values, as the published code does with one head."""
        self.query = self.key = self.value = self.out = nn.Identity()

    def forward(self, queries: Tensor, source: Tokens) -> Tensor:
        """``(B, T_q, D)``; zeros in the rows without the source."""
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p, x in ((self.query, queries), (self.key, source.values), (self.value, source.values))
        )
        there = present(source)[:, None, None]
        allowed = (source.mask.unsqueeze(1) | ~there).unsqueeze(1)
        p = self.dropout if self.training else 0.0
        received = F.scaled_dot_product_attention(q, k, v, allowed, dropout_p=p)
        return torch.where(there, self.out(received.transpose(1, 2).flatten(2)), 0.0)
