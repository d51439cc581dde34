"""iAFF against plain loops; its size; the port's wiring."""

from __future__ import annotations

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
