"""LMF-MulT against plain loops on unpadded rows; its grid, its size, permutation, and one branch of MulT."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.fusion_checks import CHECKS, OF_OPTIONS, TIGHT
from tests.contract.sampling import build, sample, widths
from tests.fusion.loops import layer_norm
from tests.fusion.references import reference
from tests.fusion.test_mult import encode, projected, run_head
from weft.errors import UserError
from weft.fusion.lmf_mult import LowRankMulT, resample
from weft.tokens import Tokens


def averaged(x: Tensor, bins: int) -> list[Tensor]:
    """Real steps ``(n, d)`` to ``bins`` steps."""
    out = []
    for t in range(bins):
        part = x[math.floor(t * len(x) / bins) : math.ceil((t + 1) * len(x) / bins)]
        out.append(sum(part) / len(part))
    return out


def fused_signal(module: LowRankMulT, x: list[Tensor]) -> Tensor:
    bins = min(module.steps, *(len(v) for v in x if len(v)))
    width = len(module.norm.weight)
    steps = []
    for t in range(bins):
        total = module.fusion.bias
        for k in range(module.fusion.rank):
            product = module.fusion.rank_weights[k]
            for v, factor in zip(x, module.fusion.factors, strict=True):
                column = factor[:, k * width : (k + 1) * width]
                product = product * (column[0] + averaged(v, bins)[t] @ column[1:] if len(v) else column[0])
            total = total + product
        steps.append(total)
    normed = layer_norm(torch.stack(steps), module.norm.weight, module.norm.bias)
    padded = torch.cat([torch.zeros(1, width).double(), normed, torch.zeros(1, width).double()])
    kernel = module.convolution.weight
    return torch.stack(
        [sum(kernel[:, :, i] @ padded[t + i] for i in range(3)) + module.convolution.bias for t in range(bins)]
    )


@reference("lmf-mult")
def lmf_mult(module: LowRankMulT, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(inputs[module.names[0]].mask)):
        x = projected(module, inputs, row)
        signal = fused_signal(module, x)
        if module.enriches == "fused":
            received = [encode(cross, signal, v) for cross, v in zip(module.cross, x, strict=True)]
            z = encode(module.memory[0], torch.cat(received, dim=1))[-1]
        else:
            none = torch.zeros(signal.shape[1], dtype=torch.float64)
            z = torch.cat(
                [
                    encode(memory, encode(cross, v, signal))[-1] if len(v) else none
                    for cross, memory, v in zip(module.cross, module.memory, x, strict=True)
                ]
            )
        vectors.append(run_head(module.head, z))
    return torch.stack(vectors)


@pytest.mark.parametrize("options", [{"enriches": "fused"}, {"steps": 2, "cross_heads": 1}, {"rank": 1, "layers": 1}])
def test_options_equal_the_loops(options: dict[str, Any]) -> None:
    dims = widths(LowRankMulT)
    module, inputs = build(LowRankMulT, dims, **options), sample(LowRankMulT, dims)
    assert_close(module(inputs).vector, lmf_mult(module, inputs), **TIGHT)


@pytest.mark.parametrize("check", OF_OPTIONS)
def test_enriching_the_fused_signal_keeps_the_contract(check: str) -> None:
    class Enriched(LowRankMulT):
        def __init__(self, dims: dict[str, int], dim: int = 256) -> None:
            super().__init__(dims, dim, enriches="fused", layers=1)

    CHECKS[check](Enriched)


def test_aligned_sequences_are_fused_step_by_step() -> None:
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    grid = torch.arange(5) < mask.sum(dim=1, keepdim=True)
    found = resample(Tokens(x, mask), grid)
    assert torch.equal(found[0], x[0])
    assert torch.equal(found[1, :3], x[1, mask[1]])


def test_bins_cover_equal_shares() -> None:
    x = torch.arange(7, dtype=torch.float64).view(1, 7, 1)
    grid = torch.tensor([[True, True, True, False]])
    found = resample(Tokens(x, torch.ones(1, 7, dtype=torch.bool)), grid)
    assert found[0, :3, 0].tolist() == [1.0, 3.0, 5.0]  # steps 0-2, 2-4, 4-6


def test_permuting_the_modalities_changes_nothing() -> None:
    dims = {"a": 6, "b": 5, "c": 9}
    module, inputs = build(LowRankMulT, dims), sample(LowRankMulT, dims)
    order = ["c", "a", "b"]
    other = build(LowRankMulT, {n: dims[n] for n in order})
    place = [list(dims).index(n) for n in order]
    for lists in ("project", "cross", "memory"):
        for new, old in enumerate(place):
            getattr(other, lists)[new].load_state_dict(getattr(module, lists)[old].state_dict())
    blocks = torch.cat([torch.arange(30) + 30 * old for old in place])
    with torch.no_grad():
        for new, old in enumerate(place):
            other.fusion.factors[new].copy_(module.fusion.factors[old])
        for name in ("rank_weights", "bias"):
            getattr(other.fusion, name).copy_(getattr(module.fusion, name))
        for linear in ("proj1", "proj2"):
            getattr(other.head, linear).weight.copy_(getattr(module.head, linear).weight[blocks][:, blocks])
            getattr(other.head, linear).bias.copy_(getattr(module.head, linear).bias[blocks])
        other.head.out_layer.weight.copy_(module.head.out_layer.weight[:, blocks])
        other.head.out_layer.bias.copy_(module.head.out_layer.bias)
    for name in ("norm", "convolution"):
        getattr(other, name).load_state_dict(getattr(module, name).state_dict())
    assert_close(other(inputs).vector, module(inputs).vector, **TIGHT)


@pytest.mark.parametrize(("enriches", "published"), [("modalities", 0.379), ("fused", 0.703)])
def test_sizes_follow_the_formula(enriches: str, published: float) -> None:
    """Spec of LMF-MulT, section 6, in millions; the LayerNorm on F is beside the formula."""
    dims = {"text": 300, "audio": 74, "vision": 35}
    size = LowRankMulT.cost(dims, 1, enriches=enriches, layers=5).parameters - 2 * 30
    assert round(size / 1e6, 3) == published


def test_wrong_options_are_named() -> None:
    for options, found in (({"steps": 1}, "steps=1"), ({"rank": 0}, "rank=0"), ({"cross_heads": 7}, "heads=7")):
        with pytest.raises(UserError, match=found):
            LowRankMulT({"a": 4, "b": 4}, 8, **options)


def test_training_on_one_token_is_refused() -> None:
    inputs = {
        name: Tokens(torch.randn(2, length, 4), torch.ones(2, length, dtype=torch.bool))
        for name, length in (("a", 3), ("b", 1))
    }
    with pytest.raises(UserError, match="'b'"):
        LowRankMulT({"a": 4, "b": 4}, 8)(inputs)
