"""Attention bottlenecks against loops; information passes through the bottlenecks only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.loops import layer_norm, run_block
from tests.fusion.references import real_tokens, reference
from weft.errors import UserError
from weft.fusion.bottleneck import BottleneckFusion
from weft.tokens import Tokens


@reference("bottleneck")
def bottleneck(module: BottleneckFusion, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        real = [real_tokens(inputs[name], row) for name in module.names]
        there = [m for m, x in enumerate(real) if len(x)]
        streams = {m: real[m] @ module.project[m].weight.T + module.project[m].bias for m in there}
        shared = module.bottlenecks
        for layer in module.layers:
            written = []
            for m in there:
                joint = run_block(layer.blocks[m], torch.cat([streams[m], shared]), None)
                streams[m] = joint[: len(streams[m])]
                written.append(joint[len(streams[m]) :])
            shared = sum(written) / len(written)
        pooled = [
            sum(layer_norm(streams[m], module.norms[m].weight, module.norms[m].bias)) / len(streams[m]) for m in there
        ]
        vectors.append(sum(pooled) / len(pooled))
    return torch.stack(vectors)


def test_other_sizes_equal_the_loops() -> None:
    dims = widths(BottleneckFusion, 2)
    module = build(BottleneckFusion, dims, bottlenecks=2, layers=3, heads=2)
    inputs = sample(BottleneckFusion, dims)
    assert_close(module(inputs).vector, bottleneck(module, inputs))


def test_modalities_meet_in_the_bottlenecks_only() -> None:
    """The other modality changes this one's representation, and no longer once nobody reads the bottlenecks."""
    dims = widths(BottleneckFusion, 2)
    module = build(BottleneckFusion, dims)
    inputs = sample(BottleneckFusion, dims, absent=False)
    changed = inputs | {"m1": Tokens(inputs["m1"].values + 1, inputs["m1"].mask)}
    assert not torch.equal(module(inputs).per_modality["m0"], module(changed).per_modality["m0"])
    hidden = [layer.blocks[0] for layer in module.layers]
    for block in hidden:
        block.attention.register_forward_pre_hook(
            lambda _, args: (args[0], Tokens(args[1].values, args[1].mask & (torch.arange(args[1].mask.shape[1]) < 4)))
        )
    assert torch.equal(module(inputs).per_modality["m0"], module(changed).per_modality["m0"])


def test_sizes_are_checked() -> None:
    with pytest.raises(UserError, match="bottleneck"):
        BottleneckFusion({"a": 2, "b": 2}, 8, layers=1)
    with pytest.raises(UserError, match="bottleneck"):
        BottleneckFusion({"a": 2, "b": 2}, 8, bottlenecks=0)
