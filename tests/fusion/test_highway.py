"""Highway fusion against its formula, both gates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, affine, each_row, or_zeros
from tests.fusion.references import reference
from weft.fusion.highway import Highway
from weft.tokens import Tokens, as_tokens


def layer(module: Highway, vectors: list[Tensor], gate: str) -> Tensor:
    x = affine(module.project, vectors[0] if gate == "others" else torch.cat(vectors))
    t = 1 / (1 + torch.exp(-affine(module.gate, torch.cat(vectors[1:]) if gate == "others" else x)))
    return t * affine(module.transform, x).clamp(min=0) + (1 - t) * x


@reference("highway")
def highway(module: Highway, inputs: dict[str, Tokens]) -> Tensor:
    def one(row: Row) -> Tensor:
        return layer(module, or_zeros(module, row), "others")

    return each_row(module, inputs, one)


@pytest.mark.parametrize("gate", ["others", "self"])
def test_both_gates(gate: str) -> None:
    module = Highway({"a": 3, "b": 4, "c": 5}, 6, gate=gate).double()
    h = {n: torch.randn(2, d, dtype=torch.float64) for n, d in module.dims.items()}
    found = module({n: as_tokens(v) for n, v in h.items()}).vector
    expected = torch.stack([layer(module, [v[row] for v in h.values()], gate) for row in range(2)])
    torch.testing.assert_close(found, expected)


def test_starts_near_the_identity() -> None:
    module = Highway({"a": 3, "b": 4}, 6, gate_bias=-30.0)
    x = torch.randn(2, 3)
    found = module({"a": as_tokens(x), "b": as_tokens(torch.randn(2, 4))}).vector
    torch.testing.assert_close(found, module.project(x))
