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

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion.base import Fusion, fusions
from weft.tokens import Fused, Tokens, concatenate, present

Combination = Literal["flat", "hierarchical", "serial", "parallel"]
EPS = 1e-6
"""Of the LayerNorms, as published."""
PARTS_OF_NORM = {"weight": "gamma", "bias": "beta"}
"""Of a LayerNorm, ours and the published names."""


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
        heads: int = 4,
        dropout: float = 0.0,
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
        matrices = _numbered(state, "/logits_projections/proj_matrix_")
        query, width = state["attention_multi/dense/kernel"].shape
        shared = not _numbered(state, "/context_projections/proj_matrix_")
        module = cls([len(m) for m in matrices], query, width, shared=shared, sentinel_input=_sentinel_input(state))
        renamed = _common(state, "sentinel_logit", "sentinel_logit/vector_ctx_proj", module)
        biases = _numbered(state, "/attn_bias_")
        if module.sentinel is not None:
            biases.append(_one(state, "sentinel_logit/vector_bias"))
        renamed["score_bias"] = torch.cat(biases)
        for ours, theirs in (("keys", "logits"), ("values", "context")):
            for kind, theirs_kind in (("weight", "matrix"), ("bias", "bias")):
                for k, value in enumerate(_numbered(state, f"/{theirs}_projections/proj_{theirs_kind}_")):
                    renamed[f"{ours}.{k}.{kind}"] = value.T if kind == "weight" else value
        _load(module, renamed)
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
        keys = [_one(state, f"att{k}/attn_key_projection") for k in range(count)]
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
        biases = [_one(state, f"att{k}_logit/vector_bias") for k in range(count)]
        if module.sentinel is not None:
            biases.append(_one(state, "sentinel_logit/vector_bias"))
        renamed["score_bias"] = torch.cat(biases)
        for k in range(count):
            renamed |= {
                f"within.{k}.key.weight": keys[k].T,
                f"within.{k}.key.bias": _one(state, f"att{k}/attn_projection_bias"),
                f"within.{k}.query.weight": _one(state, f"att{k}/Attention/attn_query_projection").T,
                f"within.{k}.score": _one(state, f"att{k}/attn_similarity_v"),
                **_dense(state, f"att{k}_logit/vector_projection", f"keys.{k}"),
                **({} if shared else _dense(state, f"proj_attn_att{k}", f"values.{k}")),
            }
        _load(module, renamed)
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


class CrossLayer(nn.Module):
    """The cross-attention sublayer of a multi-source transformer decoder.

    Args:
        dim: ``D``.
        heads: for each source.
        combination: see the module.
        outer_heads: of the second attention of "hierarchical".
        dropout: on attention weights and on what is received.
    """

    def __init__(
        self,
        dim: int,
        heads: Sequence[int],
        combination: Combination,
        outer_heads: int = 1,
        dropout: float = 0.0,
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
        module = cls(len(_one(state, f"{norm}/gamma")), heads, combination, outer_heads)
        renamed: dict[str, Tensor] = {}
        for k in range(len(module.norms)):
            name = f"/enc_{k}/LayerNorm" if combination == "serial" else "/LayerNorm"
            renamed |= {f"norms.{k}.{ours}": _one(state, f"{name}/{t}") for ours, t in PARTS_OF_NORM.items()}
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
                renamed[f"{ours}.{kind}.weight"] = _one(state, f"{theirs}/{their_kind}_proj/kernel").T
        _load(module, renamed)
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
        if heads < 1 or dim % heads:
            raise UserError(
                "the number of heads divides the width", f"heads={heads}, dim={dim}", "choose heads among the divisors"
            )
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


def _refuse_one_token(inputs: Mapping[str, Tokens]) -> None:
    for name, tokens in inputs.items():
        if tokens.mask.shape[1] == 1:
            raise UserError(
                f"multi-source-attention cannot learn what to read in {name!r}: the weight of one token is always 1",
                f"token counts { {n: t.mask.shape[1] for n, t in inputs.items()} }",
                f"keep the token sequence of {name!r} (no pooling), or use combination='flat'",
            )


def _one(state: Mapping[str, Tensor], suffix: str) -> Tensor:
    """The variable whose name ends like this."""
    found = [value for key, value in state.items() if f"/{key}".endswith(f"/{suffix.removeprefix('/')}")]
    if len(found) != 1:
        raise UserError(
            "not the variables of a published multi-source attention",
            f"{len(found)} names end in {suffix!r}, of {len(state)}",
            "pass the variables of one attention, under the names of its graph",
        )
    return found[0]


def _numbered(state: Mapping[str, Tensor], infix: str) -> list[Tensor]:
    """The variables ``...{infix}0``, ``...{infix}1`` and so on."""
    found = {int(key.rsplit("_", 1)[1]): value for key, value in state.items() if infix in key}
    return [found[k] for k in sorted(found)]


def _dense(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """A dense layer, renamed."""
    return {f"{ours}.weight": _one(state, f"{theirs}/kernel").T, f"{ours}.bias": _one(state, f"{theirs}/bias")}


def _sentinel_input(state: Mapping[str, Tensor]) -> int | None:
    found = [value for key, value in state.items() if key.endswith("/sentinel/dense/kernel")]
    return len(found[0]) if found else None


def _common(state: Mapping[str, Tensor], logit: str, value: str, module: _Additive) -> dict[str, Tensor]:
    """The parameters that flat and hierarchical attention share; ``logit`` and ``value``: layers of the sentinel."""
    renamed = {**_dense(state, "attention_multi/dense", "query"), "score": _one(state, "attn_v").flatten()}
    if module.sentinel is not None:
        last = len(module.keys) - 1
        renamed |= _dense(state, "sentinel/dense", "sentinel.gate")
        renamed |= _dense(state, f"{logit}/vector_projection", f"keys.{last}")
        if module.values is not None:
            renamed |= _dense(state, value, f"values.{last}")
    return renamed


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load parameters; the module takes their dtype."""
    module.to(next(iter(state.values())).dtype).load_state_dict(dict(state))
