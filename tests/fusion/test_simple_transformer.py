"""The small transformer against loops; one modality present is that token's own path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.loops import layer_norm, run_block
from tests.fusion.references import pooled, reference
from weft.errors import UserError
from weft.fusion.simple_transformer import SimpleTransformer
from weft.tokens import Tokens


@reference("simple-transformer")
def simple_transformer(module: SimpleTransformer, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        means = [pooled(inputs[name], row) for name in module.names]
        x = torch.stack([v @ p.weight.T + p.bias for v, p in zip(means, module.project, strict=True) if v is not None])
        for block in module.blocks:
            x = run_block(block, x, None)
        vectors.append(sum(layer_norm(x, module.norm.weight, module.norm.bias)) / len(x))
    return torch.stack(vectors)


def test_other_sizes_equal_the_loops() -> None:
    dims = widths(SimpleTransformer, 3)
    module = build(SimpleTransformer, dims, layers=3, heads=2)
    inputs = sample(SimpleTransformer, dims)
    assert_close(module(inputs).vector, simple_transformer(module, inputs))


def test_one_modality_alone_is_its_own_path() -> None:
    """Linear map, then the blocks over that token alone: the attention of one token is its value."""
    dims = widths(SimpleTransformer, 2)
    module = build(SimpleTransformer, dims).eval()
    inputs = sample(SimpleTransformer, dims, absent=False)
    hidden = inputs | {"m1": Tokens(inputs["m1"].values, torch.zeros_like(inputs["m1"].mask))}
    v = torch.stack([pooled(inputs["m0"], row) for row in range(len(inputs["m0"].mask))])
    x = v @ module.project[0].weight.T + module.project[0].bias
    for block in module.blocks:
        normed = block.norm_attention(x)
        value = block.attention.key_value(normed).chunk(2, dim=-1)[1]
        x = x + block.attention.out(value)
        x = x + block.mlp(block.norm_mlp(x))
    assert_close(module(hidden).vector, module.norm(x))


def test_refuses_no_layer() -> None:
    with pytest.raises(UserError, match="positive"):
        SimpleTransformer({"a": 2, "b": 2}, 8, layers=0)
