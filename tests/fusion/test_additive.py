"""The additive joint representation against loops, in every mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.references import pooled, reference
from weft.errors import UserError
from weft.fusion.additive import AdditiveFusion
from weft.fusion.concat import Concat
from weft.tokens import Tokens

DIMS = widths(AdditiveFusion)


@reference("additive")
def additive(module: AdditiveFusion, inputs: dict[str, Tokens]) -> Tensor:
    count = len(module.names)
    base = {"sum": [1.0] * count, "mean": [1.0 / count] * count}.get(module.combine)
    if base is None:
        exponentials = [float(torch.exp(t)) for t in module.theta.detach()]
        base = [e / sum(exponentials) for e in exponentials]
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        values = [pooled(inputs[name], row) for name in module.names]
        share = sum(w for w, v in zip(base, values, strict=True) if v is not None)
        factor = sum(base) / share if module.rescale else 1.0
        total = module.bias
        for weight, value, linear in zip(base, values, module.project, strict=True):
            if value is not None:
                total = total + factor * weight * (linear.weight @ value)
        vectors.append(total.clamp(min=0))
    return torch.stack(vectors)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("combine", ["sum", "mean", "weighted"])
def test_every_mode_equals_the_loops(combine: str, rescale: bool) -> None:
    module = build(AdditiveFusion, DIMS, combine=combine, rescale=rescale)
    inputs = sample(AdditiveFusion, DIMS)
    fused = module(inputs)
    assert_close(fused.vector, additive(module, inputs))
    there = torch.stack([t.mask.any(dim=1) for t in inputs.values()], dim=1)
    assert torch.equal(fused.weights > 0, there)
    if rescale and combine != "sum":
        assert_close(fused.weights.sum(dim=1), torch.ones(len(there), dtype=torch.float64))


def test_sum_of_projections_is_concatenation() -> None:
    module, other = build(AdditiveFusion, DIMS, rescale=False), build(Concat, DIMS)
    with torch.no_grad():
        other.project.weight.copy_(torch.cat([p.weight for p in module.project], dim=1))
        other.project.bias.copy_(module.bias)
    inputs = sample(AdditiveFusion, DIMS)
    assert_close(module(inputs).vector, other(inputs).vector)


def test_learned_weights_move() -> None:
    module = build(AdditiveFusion, DIMS, combine="weighted")
    module(sample(AdditiveFusion, DIMS)).vector.sum().backward()
    assert module.theta.grad.abs().min() > 0


def test_weights_of_one_modality_are_refused() -> None:
    with pytest.raises(UserError, match="two modalities"):
        AdditiveFusion({"only": 3}, combine="weighted")
