"""Multi-source attention against plain loops, for every combination; the sentinel, absent sources, wrong options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contract.fusion_checks import CHECKS, OF_OPTIONS, TIGHT
from tests.contract.sampling import build, sample, widths
from tests.fusion.references import real_tokens, reference
from weft.errors import UserError
from weft.fusion.multi_source_additive import FlatAttention, HierarchicalAttention
from weft.fusion.multi_source_attention import MultiSourceAttention
from weft.fusion.multi_source_heads import CrossLayer, HeadAttention
from weft.tokens import Tokens

ADDITIVE = [
    {"combination": c, "shared": shared, "sentinel": sentinel}
    for c in ("flat", "hierarchical")
    for shared in (False, True)
    for sentinel in (False, True)
]
MULTI_HEAD = [
    {"attention": "multi-head", "combination": c, "heads": 2} for c in ("serial", "parallel", "flat", "hierarchical")
]


def linear(layer: Any, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Identity):
        return x
    return layer.weight @ x if layer.bias is None else layer.weight @ x + layer.bias


def soft(scores: list[Tensor]) -> list[Tensor]:
    raised = [torch.exp(s) for s in scores]
    return [r / sum(raised) for r in raised]


def sentinel(module: FlatAttention | HierarchicalAttention, s: Tensor) -> Tensor:
    return s / (1 + torch.exp(-linear(module.sentinel.gate, s)))


def flat(module: FlatAttention, s: Tensor, sources: list[Tensor]) -> Tensor:
    q = linear(module.query, s)
    every = [*sources, sentinel(module, s)[None]] if module.sentinel else sources
    scores, values = [], []
    for k, source in enumerate(every):
        for h in source:
            key = linear(module.keys[k], h)
            scores.append(module.score @ torch.tanh(q + key) + module.score_bias[k])
            values.append(key if module.values is None else linear(module.values[k], h))
    return sum(a * v for a, v in zip(soft(scores), values, strict=True))


def hierarchical(module: HierarchicalAttention, s: Tensor, sources: list[Tensor]) -> Tensor:
    contexts = {}
    for k, (source, inner) in enumerate(zip(sources, module.within, strict=True)):
        if len(source):
            scores = [inner.score @ torch.tanh(linear(inner.key, h) + inner.query.weight @ s) for h in source]
            contexts[k] = sum(a * h for a, h in zip(soft(scores), source, strict=True))
    if module.sentinel:
        contexts[len(sources)] = sentinel(module, s)
    q = linear(module.query, s)
    keys = {k: linear(module.keys[k], c) for k, c in contexts.items()}
    shares = soft([module.score @ torch.tanh(q + key) + module.score_bias[k] for k, key in keys.items()])
    values = [keys[k] if module.values is None else linear(module.values[k], c) for k, c in contexts.items()]
    return sum(b * v for b, v in zip(shares, values, strict=True))


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.sum() / len(x)
    return centred / torch.sqrt((centred**2).sum() / len(x) + 1e-6) * layer.weight + layer.bias


def attend(module: HeadAttention, query: Tensor, source: Tensor) -> Tensor:
    """One query ``(D,)`` in one source ``(n, D)``."""
    if not len(source):
        return torch.zeros_like(query)
    size = len(query) // module.heads
    received = []
    for head in range(module.heads):
        part = slice(head * size, (head + 1) * size)
        q = linear(module.query, query)[part]
        scores = [q @ linear(module.key, h)[part] / math.sqrt(size) for h in source]
        received.append(sum(a * linear(module.value, h)[part] for a, h in zip(soft(scores), source, strict=True)))
    return linear(module.out, torch.cat(received))


def sublayer(module: CrossLayer, query: Tensor, sources: list[Tensor]) -> Tensor:
    if module.combination == "serial":
        for layer, attention, source in zip(module.norms, module.attentions, sources, strict=True):
            query = query + attend(attention, norm(layer, query), source)
        return query
    n = norm(module.norms[0], query)
    if module.combination == "flat":
        return query + attend(module.attentions[0], n, torch.cat(sources))
    received = [attend(a, n, source) for a, source in zip(module.attentions, sources, strict=True)]
    if module.combination == "parallel":
        return query + sum(received)
    return query + attend(module.outer, n, torch.stack([c for c, s in zip(received, sources, strict=True) if len(s)]))


@reference("multi-source-attention")
def multi_source_attention(module: MultiSourceAttention, inputs: dict[str, Tokens]) -> Tensor:
    run = {FlatAttention: flat, HierarchicalAttention: hierarchical, CrossLayer: sublayer}[type(module.combine)]
    vectors = []
    for row in range(len(inputs[module.names[0]].mask)):
        sources = [real_tokens(inputs[name], row) for name in module.names]
        if isinstance(module.combine, CrossLayer):
            none = torch.zeros(0, module.dim, dtype=torch.float64)
            sources = [
                torch.stack([linear(p, h) for h in source]) if len(source) else none
                for p, source in zip(module.project, sources, strict=True)
            ]
        vectors.append(run(module.combine, module.query, sources))
    return torch.stack(vectors)


@pytest.mark.parametrize("options", [*ADDITIVE, *MULTI_HEAD], ids=str)
def test_every_form_equals_the_loops(options: dict[str, Any]) -> None:
    dims = widths(MultiSourceAttention)
    module, inputs = build(MultiSourceAttention, dims, **options), sample(MultiSourceAttention, dims)
    assert_close(module(inputs).vector, multi_source_attention(module, inputs), **TIGHT)


@pytest.mark.parametrize("options", [*ADDITIVE, *MULTI_HEAD], ids=str)
@pytest.mark.parametrize("check", OF_OPTIONS)
def test_every_form_keeps_the_contract(options: dict[str, Any], check: str) -> None:
    class Form(MultiSourceAttention):
        def __init__(self, dims: dict[str, int], dim: int = 256) -> None:
            super().__init__(dims, dim, **options)

    CHECKS[check](Form)


@pytest.mark.parametrize("combination", ["flat", "hierarchical"])
def test_the_shares_are_those_of_the_positions(combination: str) -> None:
    dims = widths(MultiSourceAttention)
    module, inputs = build(MultiSourceAttention, dims, combination=combination), sample(MultiSourceAttention, dims)
    fused = module(inputs)
    assert_close(fused.weights.sum(dim=1), torch.ones(len(fused.weights), dtype=torch.float64))
    blend = sum(fused.weights[:, k : k + 1] * part for k, part in enumerate(fused.per_modality.values()))
    assert_close(fused.vector, blend)


def test_the_sentinel_takes_a_share() -> None:
    dims = widths(MultiSourceAttention)
    module, inputs = build(MultiSourceAttention, dims, sentinel=True), sample(MultiSourceAttention, dims)
    assert bool((module(inputs).weights.sum(dim=1) < 1).all())


def test_large_scores_under_the_mask_do_not_underflow() -> None:
    """The original normalises over padding first; a padding score of 100 leaves nothing of the real ones."""
    dims = {"a": 4, "b": 4}
    module = build(MultiSourceAttention, dims, combination="flat")
    with torch.no_grad():
        module.combine.score.fill_(50.0)
    inputs = sample(MultiSourceAttention, dims, absent=False)
    assert_close(module(inputs).weights.sum(dim=1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combination": "serial"}, "attention='multi-head'"),
        ({"attention": "multi-head", "shared": True}, "shared=True"),
        ({"attention": "multi-head", "sentinel": True}, "sentinel=True"),
        ({"attention": "multi-head", "heads": 3}, "heads=3, dim=16"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiSourceAttention({"a": 4, "b": 4}, 16, **options)


def test_training_on_one_token_is_refused_where_it_has_no_choice() -> None:
    inputs = {
        name: Tokens(torch.randn(2, length, 4), torch.ones(2, length, dtype=torch.bool))
        for name, length in (("a", 3), ("b", 1))
    }
    with pytest.raises(UserError, match=r"'b'.*\n.*\n.*combination='flat'"):
        MultiSourceAttention({"a": 4, "b": 4}, 8)(inputs)
    assert MultiSourceAttention({"a": 4, "b": 4}, 8, combination="flat")(inputs).vector.isfinite().all()


def test_other_variables_are_refused() -> None:
    with pytest.raises(UserError, match="gamma"):
        CrossLayer.from_official({"weight": torch.zeros(1)}, "parallel", [2, 2])


def test_one_published_head_has_no_projections() -> None:
    """The second attention of this published layer has one head and no variables."""
    kernels = {
        f"decoder/enc_{k}/{name}_proj/kernel": torch.randn(4, 4, dtype=torch.float64)
        for k in range(2)
        for name in ("query", "keys", "vals", "output")
    }
    norms = {f"decoder/LayerNorm/{name}": torch.randn(4, dtype=torch.float64) for name in ("gamma", "beta")}
    module = CrossLayer.from_official({**kernels, **norms}, "hierarchical", [2, 2])
    queries, *sources = (torch.randn(1, n, 4, dtype=torch.float64) for n in (3, 5, 2))
    out, _ = module(queries, [Tokens(s, torch.ones(1, s.shape[1], dtype=torch.bool)) for s in sources])
    assert not list(module.outer.parameters())
    for position in range(3):
        assert_close(out[0, position], sublayer(module, queries[0, position], [s[0] for s in sources]))
