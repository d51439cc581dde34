"""Cross-attention against loops; a single key; a row without the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.loops import layer_norm, run_block
from tests.fusion.references import real_tokens, reference
from weft.errors import UserError
from weft.fusion.cross_attention import CrossAttentionFusion
from weft.tokens import Tokens


@reference("cross-attention")
def cross_attention(module: CrossAttentionFusion, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        real = [real_tokens(inputs[name], row) for name in module.names]
        there = [m for m, x in enumerate(real) if len(x)]
        streams = {m: real[m] @ module.project[m].weight.T + module.project[m].bias for m in there}
        for layer in module.layers:
            normed = {m: layer_norm(streams[m], layer.norms[m].weight, layer.norms[m].bias) for m in there}
            none = torch.zeros(0, module.dim, dtype=torch.float64)
            streams = {
                m: run_block(layer.blocks[m], streams[m], torch.cat([none, *(normed[n] for n in there if n != m)]))
                for m in there
            }
        pooled = [
            sum(layer_norm(streams[m], module.norms[m].weight, module.norms[m].bias)) / len(streams[m]) for m in there
        ]
        vectors.append(sum(pooled) / len(pooled))
    return torch.stack(vectors)


def test_two_layers_equal_the_loops() -> None:
    dims = widths(CrossAttentionFusion, 2)
    module = build(CrossAttentionFusion, dims, layers=2, heads=2)
    inputs = sample(CrossAttentionFusion, dims)
    assert_close(module(inputs).vector, cross_attention(module, inputs))


@pytest.mark.parametrize("lengths", [(1, 1), (1, 4)])
def test_training_on_a_single_key_is_refused_with_the_way_out(lengths: tuple[int, int]) -> None:
    dims = {"text": 3, "image": 5}
    inputs = {
        name: Tokens(torch.randn(2, length, width), torch.ones(2, length, dtype=torch.bool))
        for (name, width), length in zip(dims.items(), lengths, strict=True)
    }
    module = CrossAttentionFusion(dims, 8)
    with pytest.raises(UserError, match=r"one key.*\n.*\n.*gated"):
        module(inputs)
    assert module.eval()(inputs).vector.isfinite().all()


def test_one_key_in_a_row_is_no_error_and_the_query_trains() -> None:
    dims = {"text": 3, "image": 5}
    mask = torch.ones(3, 4, dtype=torch.bool)
    short = mask.clone()
    short[0, 1:] = False
    module = CrossAttentionFusion(dims, 8)
    module({"text": Tokens(torch.randn(3, 4, 3), mask), "image": Tokens(torch.randn(3, 4, 5), short)}).vector[
        1
    ].square().sum().backward()
    assert module.layers[0].blocks[0].attention.query.weight.grad.abs().max() > 0


def test_a_row_without_the_others_passes_the_attention_unchanged() -> None:
    dims = widths(CrossAttentionFusion)
    module, inputs = build(CrossAttentionFusion, dims), sample(CrossAttentionFusion, dims)
    there = torch.stack([t.mask.any(dim=1) for t in inputs.values()], dim=1)
    before = module(inputs).vector
    with torch.no_grad():
        for block in module.layers[0].blocks:
            block.attention.out.bias.add_(1.0)
    changed = (module(inputs).vector != before).any(dim=1)
    assert torch.equal(changed, there.sum(dim=1) > 1)


def test_layers_and_heads_are_checked() -> None:
    with pytest.raises(UserError, match="layers"):
        CrossAttentionFusion({"a": 2, "b": 2}, 8, layers=0)
    with pytest.raises(UserError, match="heads"):
        CrossAttentionFusion({"a": 2, "b": 2}, 8, heads=3)
