"""iAFF against plain loops; its size; the port's wiring."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.references import reference
from tests.fusion.test_aff import blend, logits, real_positions
from weft.fusion.iaff import IterativeAttentionalFusion
from weft.tokens import Tokens


@reference("iaff")
def iaff(module: IterativeAttentionalFusion, inputs: dict[str, Tokens]) -> Tensor:
    count, vectors = len(module.names), []
    for row in range(len(inputs[module.names[0]].mask)):
        positions = real_positions(module, inputs, row)
        first = logits(module.first, [sum(v.values()) for v in positions])
        between = [blend(f, v, count) for f, v in zip(first, positions, strict=True)]
        second = logits(module.second, between, module.first.pooled if module.port else None)
        fused = [module.scale * blend(f, v, count) for f, v in zip(second, positions, strict=True)]
        vectors.append(sum(fused) / len(fused))
    return torch.stack(vectors)


def test_the_port_lends_the_first_global_branch() -> None:
    dims = widths(IterativeAttentionalFusion)
    module, inputs = build(IterativeAttentionalFusion, dims, port=True), sample(IterativeAttentionalFusion, dims)
    assert_close(module(inputs).vector, iaff(module, inputs))
    own = build(IterativeAttentionalFusion, dims)
    assert not torch.allclose(own(inputs).vector, module(inputs).vector, atol=1e-3)


def test_the_unused_branch_of_the_port_is_not_trained() -> None:
    module = IterativeAttentionalFusion({"x": 8, "y": 8}, 8, port=True)
    assert {n.split(".")[1] for n, p in module.named_parameters() if not p.requires_grad} == {"pooled"}
    assert not any(p.requires_grad for p in module.second.pooled.parameters())


def test_size_is_the_published_one() -> None:
    """Four branches of 2 C C' + 3 C' + 3 C weights."""
    assert IterativeAttentionalFusion.cost({"x": 8, "y": 8}, 8, reduction=4).parameters == 4 * (2 * 16 + 6 + 24)


def test_loading_weights_says_that_the_port_differs() -> None:
    shapes = {
        f"{branch}{stage}.{number}": shape
        for stage in ("", "2")
        for branch, numbers in (("local_att", (0, 1, 3, 4)), ("global_att", (1, 2, 4, 5)))
        for number, shape in zip(numbers, ((4, 8, 1, 1), (4,), (8, 4, 1, 1), (8,)), strict=True)
    }
    state = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        norms = {"bias", "running_mean", "running_var"} if len(shape) == 1 else {"bias"}
        state |= {f"{name}.{part}": torch.rand(shape[0]) for part in norms}
    with pytest.warns(UserWarning, match="port=True"):
        assert not IterativeAttentionalFusion.from_official(state).port
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert IterativeAttentionalFusion.from_official(state, port=True).port
