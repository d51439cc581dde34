"""The multiplicative joint representation against loops."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.contract.sampling import build, sample, widths
from tests.fusion.references import pooled, reference
from weft.fusion.multiplicative import MultiplicativeFusion
from weft.tokens import Tokens


@reference("multiplicative")
def multiplicative(module: MultiplicativeFusion, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        product = torch.ones(module.dim, dtype=torch.float64)
        for name, linear in zip(module.names, module.project, strict=True):
            value = pooled(inputs[name], row)
            if value is not None:
                product = product * torch.tanh(linear.weight @ value + linear.bias)
        vectors.append(product)
    return torch.stack(vectors)


def test_a_modality_alone_is_its_own_factor() -> None:
    dims = widths(MultiplicativeFusion)
    module, inputs = build(MultiplicativeFusion, dims), sample(MultiplicativeFusion, dims)
    there = torch.stack([t.mask.any(dim=1) for t in inputs.values()], dim=1)
    fused = module(inputs)
    for row in (there.sum(dim=1) == 1).nonzero().flatten().tolist():
        name = module.names[int(there[row].nonzero())]
        assert torch.equal(fused.vector[row], fused.per_modality[name][row])
