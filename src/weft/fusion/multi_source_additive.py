"""Additive attention of one query to several sequences, flat and hierarchical (2017).

Equations and source: :mod:`weft.fusion.multi_source_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from weft.fusion.multi_source_state import dense, load, numbered, one
from weft.tokens import Tokens, present


class Combined(NamedTuple):
    """What a query reads.

    Attributes:
        context: ``(B, A)``.
        weights: ``(B, N)``, the share of each source, or ``(B, N + 1)`` with that of the sentinel.
        alone: the ``N`` sources' own contexts ``(B, A)``.
        within: attention within each source, ``(B, T_k)`` each, one in sum.
    """

    context: Tensor
    weights: Tensor
    alone: list[Tensor]
    within: list[Tensor]


class Sentinel(nn.Module):
    """``psi = sigmoid([s', y] G + b_g) * s``; without further inputs the gate reads the query itself.

    Args:
        query: ``S``.
        seen: width of ``[s', y]``; 0: the gate reads s.
    """

    def __init__(self, query: int, seen: int) -> None:
        super().__init__()
        self.gate = nn.Linear(seen or query, query)

    def forward(self, query: Tensor, seen: Tensor | None = None) -> Tensor:
        return self.gate(query if seen is None else seen).sigmoid() * query


class _Additive(nn.Module):
    """What flat and hierarchical additive attention share.

    Args:
        widths: ``D_k`` of each source.
        query: ``S``.
        width: ``A``.
        shared: values are the projections of the scores.
        sentinel_input: width of ``[s', y]`` for a sentinel; 0: it reads the query; None: no sentinel.
    """

    def __init__(
        self, widths: Sequence[int], query: int, width: int, *, shared: bool = False, sentinel_input: int | None = None
    ) -> None:
        super().__init__()
        self.sentinel = None if sentinel_input is None else Sentinel(query, sentinel_input)
        every = [*widths] if self.sentinel is None else [*widths, query]
        self.query = nn.Linear(query, width)
        self.keys = nn.ModuleList(_small(nn.Linear(d, width)) for d in every)
        self.values = None if shared else nn.ModuleList(_small(nn.Linear(d, width)) for d in every)
        self.score = nn.Parameter(torch.empty(width).normal_(std=0.001))
        self.score_bias = nn.Parameter(torch.zeros(len(every)))

    def _score(self, k: int, query: Tensor, keys: Tensor) -> Tensor:
        """``e^k``, ``(B, T)``, of projected queries ``(B, A)`` and keys ``(B, T, A)``."""
        return torch.tanh(query.unsqueeze(1) + keys) @ self.score + self.score_bias[k]

    def _combine(
        self, query: Tensor, scores: Sequence[Tensor], contexts: Sequence[Tensor], there: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The context ``(B, A)`` and the shares ``(B, N)``; absent sources are left out."""
        mask = torch.stack(list(there), dim=1)
        shares = masked_softmax(torch.stack(list(scores), dim=1), mask)
        return torch.einsum("bn,bna->ba", shares, torch.stack(list(contexts), dim=1)), shares

    def _value(self, k: int, pooled: Tensor, keys: Tensor) -> Tensor:
        """``V^k`` of a pooled source, whose pooled keys are known."""
        return keys if self.values is None else self.values[k](pooled)

    def _with_sentinel(self, query: Tensor, seen: Tensor | None) -> Tensor | None:
        return None if self.sentinel is None else self.sentinel(query, seen)


class FlatAttention(_Additive):
    """One distribution over all positions of all sources. Arguments: ``widths``, ``query``, ``width``, ``shared``,
    ``sentinel_input``, the widths :math:`D_k`, S and A, and that of what the sentinel's gate reads."""

    def forward(self, query: Tensor, sources: Sequence[Tokens], seen: Tensor | None = None) -> Combined:
        """Read the sources.

        Args:
            query: ``(B, S)``.
            sources: ``(B, T_k, D_k)`` each.
            seen: ``(B, sentinel_input)``, what the sentinel's gate reads beside the query.
        """
        psi = self._with_sentinel(query, seen)
        q, every = self.query(query), list(sources)
        if psi is not None:
            every.append(Tokens(psi.unsqueeze(1), torch.ones_like(psi[:, :1], dtype=torch.bool)))
        totals, within, contexts = [], [], []
        for k, (values, mask) in enumerate(every):
            keys = self.keys[k](values)
            scores = self._score(k, q, keys).masked_fill(~mask, torch.finfo(values.dtype).min)
            totals.append(scores.logsumexp(dim=1))
            within.append(torch.where(mask, scores.softmax(dim=1), 0.0))
            contexts.append(self._value(k, pool(within[k], values), pool(within[k], keys)))
        there = [present(x) for x in every]
        context, shares = self._combine(q, totals, contexts, there)
        alone = [torch.where(t.unsqueeze(1), c, 0.0) for t, c in zip(there, contexts, strict=True)]
        return Combined(context, shares, alone[: len(sources)], within[: len(sources)])

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> Self:
        """The published attention, from the variables of its graph (kernels are ``(in, out)``)."""
        matrices = numbered(state, "/logits_projections/proj_matrix_")
        query, width = state["attention_multi/dense/kernel"].shape
        shared = not numbered(state, "/context_projections/proj_matrix_")
        module = cls([len(m) for m in matrices], query, width, shared=shared, sentinel_input=_sentinel_input(state))
        renamed = _common(state, "sentinel_logit", "sentinel_logit/vector_ctx_proj", module)
        biases = numbered(state, "/attn_bias_")
        if module.sentinel is not None:
            biases.append(one(state, "sentinel_logit/vector_bias"))
        renamed["score_bias"] = torch.cat(biases)
        for ours, theirs in (("keys", "logits"), ("values", "context")):
            for kind, theirs_kind in (("weight", "matrix"), ("bias", "bias")):
                for k, value in enumerate(numbered(state, f"/{theirs}_projections/proj_{theirs_kind}_")):
                    renamed[f"{ours}.{k}.{kind}"] = value.T if kind == "weight" else value
        load(module, renamed)
        return module


class HierarchicalAttention(_Additive):
    """Attention within each source, then over the sources. Arguments as for :class:`FlatAttention`, and ``inner``, the
    widths A' within the sources (by default :math:`D_k`)."""

    def __init__(
        self,
        widths: Sequence[int],
        query: int,
        width: int,
        *,
        shared: bool = False,
        sentinel_input: int | None = None,
        inner: Sequence[int] | None = None,
    ) -> None:
        super().__init__(widths, query, width, shared=shared, sentinel_input=sentinel_input)
        self.within = nn.ModuleList(SourceAttention(d, query, a) for d, a in zip(widths, inner or widths, strict=True))

    def forward(self, query: Tensor, sources: Sequence[Tokens], seen: Tensor | None = None) -> Combined:
        """Read the sources; arguments as for :class:`FlatAttention`. ``alone`` of the result are the :math:`V^k`."""
        within = [attend(query, x) for attend, x in zip(self.within, sources, strict=True)]
        pooled = [pool(w, x.values) for w, x in zip(within, sources, strict=True)]
        there = [present(x) for x in sources]
        psi = self._with_sentinel(query, seen)
        if psi is not None:
            pooled.append(psi)
            there.append(torch.ones_like(there[0]))
        q = self.query(query)
        keys = [key(c) for key, c in zip(self.keys, pooled, strict=True)]
        scores = [self._score(k, q, e.unsqueeze(1))[:, 0] for k, e in enumerate(keys)]
        contexts = [self._value(k, c, e) for k, (c, e) in enumerate(zip(pooled, keys, strict=True))]
        context, shares = self._combine(q, scores, contexts, there)
        alone = [torch.where(t.unsqueeze(1), c, 0.0) for t, c in zip(there, contexts, strict=True)]
        return Combined(context, shares, alone[: len(sources)], within)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> Self:
        """The published attention, from the variables of its graph (kernels are ``(in, out)``)."""
        count = len({key.split("/")[0] for key in state if key.endswith("/attn_key_projection")})
        keys = [one(state, f"att{k}/attn_key_projection") for k in range(count)]
        query, width = state["attention_multi/dense/kernel"].shape
        shared = not any("/proj_attn_" in key for key in state)
        module = cls(
            [len(u) for u in keys],
            query,
            width,
            shared=shared,
            sentinel_input=_sentinel_input(state),
            inner=[u.shape[1] for u in keys],
        )
        renamed = _common(state, "sentinel_logit", "proj_sentinel", module)
        biases = [one(state, f"att{k}_logit/vector_bias") for k in range(count)]
        if module.sentinel is not None:
            biases.append(one(state, "sentinel_logit/vector_bias"))
        renamed["score_bias"] = torch.cat(biases)
        for k in range(count):
            renamed |= {
                f"within.{k}.key.weight": keys[k].T,
                f"within.{k}.key.bias": one(state, f"att{k}/attn_projection_bias"),
                f"within.{k}.query.weight": one(state, f"att{k}/Attention/attn_query_projection").T,
                f"within.{k}.score": one(state, f"att{k}/attn_similarity_v"),
                **dense(state, f"att{k}_logit/vector_projection", f"keys.{k}"),
                **({} if shared else dense(state, f"proj_attn_att{k}", f"values.{k}")),
            }
        load(module, renamed)
        return module


class SourceAttention(nn.Module):
    """Additive attention of a query ``(B, S)`` within one source ``(B, T, D)``.

    Args:
        width: ``D``.
        query: ``S``.
        inner: ``A'``.
    """

    def __init__(self, width: int, query: int, inner: int) -> None:
        super().__init__()
        self.key = _small(nn.Linear(width, inner))
        self.query = _small(nn.Linear(query, inner, bias=False))
        self.score = nn.Parameter(torch.empty(inner).normal_(std=0.001))

    def forward(self, query: Tensor, source: Tokens) -> Tensor:
        """The weights ``(B, T)``: one in sum, 0 at padding and in rows without the source."""
        keys = self.key(source.values) + self.query(query).unsqueeze(1)
        return masked_softmax(torch.tanh(keys) @ self.score, source.mask)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of ``(B, n)`` over the real entries; zeros elsewhere, and in rows without any."""
    return torch.where(mask, scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1), 0.0)


def pool(weights: Tensor, values: Tensor) -> Tensor:
    """``sum_j w_j x_j``: ``(B, T)`` and ``(B, T, D)`` to ``(B, D)``."""
    return torch.einsum("bt,btd->bd", weights, values)


def _small(linear: nn.Linear) -> nn.Linear:
    nn.init.normal_(linear.weight, std=0.001)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def _sentinel_input(state: Mapping[str, Tensor]) -> int | None:
    found = [value for key, value in state.items() if key.endswith("/sentinel/dense/kernel")]
    return len(found[0]) if found else None


def _common(state: Mapping[str, Tensor], logit: str, value: str, module: _Additive) -> dict[str, Tensor]:
    """The parameters that flat and hierarchical attention share; ``logit`` and ``value``: layers of the sentinel."""
    renamed = {**dense(state, "attention_multi/dense", "query"), "score": one(state, "attn_v").flatten()}
    if module.sentinel is not None:
        last = len(module.keys) - 1
        renamed |= dense(state, "sentinel/dense", "sentinel.gate")
        renamed |= dense(state, f"{logit}/vector_projection", f"keys.{last}")
        if module.values is not None:
            renamed |= dense(state, value, f"values.{last}")
    return renamed
