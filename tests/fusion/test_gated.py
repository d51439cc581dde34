"""The gated multimodal unit against loops, in every mode, and its bimodal form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.references import pooled, reference
from weft.errors import UserError
from weft.fusion.gated import GatedFusion
from weft.tokens import Tokens

DIMS = widths(GatedFusion)


@reference("gated")
def gated(module: GatedFusion, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        values = [pooled(inputs[name], row) for name in module.names]
        there = [v is not None for v in values]
        raw = [
            torch.zeros(d, dtype=torch.float64) if v is None else v
            for v, d in zip(values, module.dims.values(), strict=True)
        ]
        hidden = [linear.weight @ v for linear, v in zip(module.project, raw, strict=True)]
        seen = torch.cat(raw if module.gate_input == "raw" else hidden)
        unit = []
        for d in range(module.dim):
            scores = [g.weight[d] @ seen for g in module.gates]
            if module.gate == "sigmoid":
                z = [1 / (1 + torch.exp(-s)) for s in scores]
            else:
                total = sum(torch.exp(s) for s, p in zip(scores, there, strict=True) if p)
                z = [torch.exp(s) / total for s in scores]
            unit.append(sum(z[m] * torch.tanh(hidden[m][d]) for m in range(len(z)) if there[m]))
        vectors.append(torch.stack(unit))
    return torch.stack(vectors)


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gate_input", ["raw", "projected"])
def test_every_mode_equals_the_loops(gate_input: str, gate: str) -> None:
    module, inputs = build(GatedFusion, DIMS, gate_input=gate_input, gate=gate), sample(GatedFusion, DIMS)
    fused = module(inputs)
    assert_close(fused.vector, gated(module, inputs))
    if gate == "softmax":
        assert_close(fused.weights.sum(dim=1), torch.ones(len(fused.weights), dtype=torch.float64))


def test_two_softmax_gates_are_the_bimodal_unit_of_the_paper() -> None:
    dims = widths(GatedFusion, 2)
    module, inputs = build(GatedFusion, dims, gate="softmax"), sample(GatedFusion, dims, absent=False)
    x = [torch.stack([pooled(t, row) for row in range(len(t.mask))]) for t in inputs.values()]
    weight = module.gates[0].weight - module.gates[1].weight
    z = torch.sigmoid(torch.cat(x, dim=1) @ weight.T)
    h = [torch.tanh(v @ p.weight.T) for v, p in zip(x, module.project, strict=True)]
    assert_close(module(inputs).vector, z * h[0] + (1 - z) * h[1])


def test_softmax_over_one_modality_is_refused() -> None:
    with pytest.raises(UserError, match="two modalities"):
        GatedFusion({"only": 3}, gate="softmax")
