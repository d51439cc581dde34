"""FiLM: token by token, and the start at the unmodulated features."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.fusion.products import affine
from tests.fusion.references import pooled, real_tokens, reference
from weft.fusion.film import FiLM
from weft.tokens import Tokens, as_tokens, mean_pool


@reference("film")
def film(module: FiLM, inputs: dict[str, Tokens]) -> Tensor:
    first, *others = module.names
    out = []
    for row in range(len(inputs[first].mask)):
        modulation, start = module.modulate.bias.clone(), 0
        for name in others:
            condition = pooled(inputs[name], row)
            if condition is not None:
                for i, c in enumerate(condition):
                    modulation = modulation + c * module.modulate.weight[:, start + i]
            start += module.dims[name]
        scale, shift = modulation[: module.dim], modulation[module.dim :]
        steered = []
        for token in real_tokens(inputs[first], row):
            x = affine(module.project, token)
            centred = x - x.mean()
            x = centred / (centred.square().mean() + 1e-5).sqrt()
            steered.append(((1 + scale) * x + shift).clamp(min=0))
        out.append(torch.stack(steered or [shift.clamp(min=0)]).mean(dim=0))
    return torch.stack(out)


def inputs_of(module: FiLM) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = {n: torch.randn(2, 3, d, generator=generator) for n, d in module.dims.items()}
    return {n: Tokens(v, mask) for n, v in values.items()}


def test_starts_without_modulation() -> None:
    module = FiLM({"a": 4, "b": 5}, 6)
    inputs = inputs_of(module)
    other = {**inputs, "b": Tokens(inputs["b"].values + 1, inputs["b"].mask)}
    fused = module(inputs)
    torch.testing.assert_close(fused.vector, module(other).vector, rtol=0, atol=0)
    torch.testing.assert_close(fused.vector, fused.per_modality["a"])


def test_keeps_the_sequence() -> None:
    module = FiLM({"a": 4, "b": 5}, 6)
    torch.nn.init.normal_(module.modulate.weight)
    inputs = inputs_of(module)
    fused = module(inputs)
    assert fused.tokens is not None
    assert torch.equal(fused.tokens.mask, inputs["a"].mask)
    torch.testing.assert_close(mean_pool(fused.tokens), fused.vector)


def test_conditions_add_up_as_their_concatenation() -> None:
    module = FiLM({"a": 4, "b": 5, "c": 2}, 6).double()
    joined = FiLM({"a": 4, "bc": 7}, 6).double()
    torch.nn.init.normal_(module.modulate.weight)
    joined.load_state_dict(module.state_dict())
    h = {n: torch.randn(3, d, dtype=torch.float64) for n, d in module.dims.items()}
    both = torch.cat([h["b"], h["c"]], dim=1)
    torch.testing.assert_close(
        module({n: as_tokens(v) for n, v in h.items()}).vector,
        joined({"a": as_tokens(h["a"]), "bc": as_tokens(both)}).vector,
    )
