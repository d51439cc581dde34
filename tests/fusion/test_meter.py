"""Co-attention and merged attention of METER against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.fusion.references import real_tokens, reference
from weft.errors import UserError
from weft.fusion.bert import BertAttention, BertLayer
from weft.fusion.co_attention import CoAttention
from weft.fusion.merged_attention import MergedAttention
from weft.tokens import Tokens


def norm(x: Tensor, of: torch.nn.LayerNorm) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-12).sqrt() * of.weight + of.bias


def linear(x: Tensor, of: torch.nn.Linear) -> Tensor:
    return x @ of.weight.T + (0 if of.bias is None else of.bias)


def attend(part: BertAttention, x: Tensor, y: Tensor) -> Tensor:
    if not len(y):
        return norm(x, part.output.LayerNorm)
    q, k, v = linear(x, part.self.query), linear(y, part.self.key), linear(y, part.self.value)
    size, rows = x.shape[1] // part.heads, []
    for query in q:
        heads = []
        for h in range(part.heads):
            cut = slice(h * size, (h + 1) * size)
            scores = torch.stack([query[cut] @ key[cut] for key in k]) / math.sqrt(size)
            weight = scores.exp() / scores.exp().sum()
            heads.append(sum(w * value[cut] for w, value in zip(weight, v, strict=True)))
        rows.append(torch.cat(heads))
    return norm(x + linear(torch.stack(rows), part.output.dense), part.output.LayerNorm)


def run(layer: BertLayer, x: Tensor, y: Tensor | None = None) -> Tensor:
    x = attend(layer.attention, x, x)
    if y is not None:
        x = attend(layer.crossattention, x, y)
    inner = linear(x, layer.intermediate["dense"])
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    return norm(x + linear(inner, layer.output.dense), layer.output.LayerNorm)


@reference("co-attention")
def co_attention(module: CoAttention, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        real = [real_tokens(inputs[name], row) for name in module.names]
        x, y = (linear(v, p) for v, p in zip(real, module.project, strict=True))
        for first, second in module.layers:
            x, y = (run(first, x, y) if len(x) else x, run(second, y, x) if len(y) else y)
        means = [s.mean(0) for s in (x, y) if len(s)]
        vectors.append(sum(means) / len(means))
    return torch.stack(vectors)


@reference("merged-attention")
def merged_attention(module: MergedAttention, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        real = [real_tokens(inputs[name], row) for name in module.names]
        h = torch.cat([linear(v, p) for v, p in zip(real, module.project, strict=True)])
        for layer in module.layers:
            h = run(layer, h)
        means = [s.mean(0) for s in h.split([len(v) for v in real]) if len(s)]
        vectors.append(sum(means) / len(means))
    return torch.stack(vectors)


def test_training_on_a_single_token_is_refused_with_the_way_out() -> None:
    inputs = {n: Tokens(torch.randn(2, t, 4), torch.ones(2, t, dtype=torch.bool)) for n, t in (("a", 1), ("b", 3))}
    with pytest.raises(UserError, match=r"'a'.*\n.*\n.*merged-attention"):
        CoAttention({"a": 4, "b": 4}, 8)(inputs)


@pytest.mark.parametrize("cls", [CoAttention, MergedAttention])
def test_layers_and_heads_are_checked(cls: type[CoAttention | MergedAttention]) -> None:
    with pytest.raises(UserError, match="layers"):
        cls({"a": 2, "b": 2}, 8, layers=0)
    with pytest.raises(UserError, match="heads"):
        cls({"a": 2, "b": 2}, 8, heads=3)
