"""MFB and MFH against their formulas; the public code's parameter names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, affine, each_row, pnorm, product_of
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion.mfb import FactorizedBilinear, FactorizedHighOrder
from weft.tokens import Tokens, as_tokens


def groups(e: Tensor, factor: int) -> Tensor:
    """Sums of consecutive groups."""
    return torch.stack([e[j * factor : (j + 1) * factor].sum() for j in range(len(e) // factor)])


@reference("mfb")
@reference("mfh")
def mfb(module: FactorizedBilinear, inputs: dict[str, Tokens]) -> Tensor:
    def one(row: Row) -> Tensor:
        pooled, e = [], torch.ones(1, dtype=torch.float64)
        for block in module.products:
            there = [(p, v) for p, v in zip(block.project, row, strict=True) if v is not None]
            e = e * product_of([affine(p, v) for p, v in there])
            pooled.append(pnorm(groups(e, module.factor)))
        return affine(module.out, torch.cat(pooled))

    return each_row(module, inputs, one)


@pytest.mark.parametrize("activation", ["relu", "none"])
def test_public_names_of_mfh(activation: str) -> None:
    """No normalisation, relu or none around; the second product is multiplied by the first one before pooling."""
    h, f, o = 3, 2, 4
    shapes = {f"linear{m}_{b}": (h * f, d) for m, d in enumerate((5, 6)) for b in (0, 1)} | {"linear_out": (o, 2 * h)}
    state = {f"{k}.weight": torch.randn(s, dtype=torch.float64) for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0], dtype=torch.float64) for k, s in shapes.items()}
    module = FactorizedHighOrder.from_official(
        state, activation=activation, output_activation=activation, normalize=False
    )
    assert (module.factor, module.dim, list(module.dims.values())) == (f, o, [5, 6])

    def act(x: Tensor) -> Tensor:
        return x.clamp(min=0) if activation == "relu" else x

    def linear(key: str, x: Tensor) -> Tensor:
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    x, y = torch.randn(5, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    e1 = act(linear("linear0_0", x)) * act(linear("linear1_0", y))
    e2 = act(linear("linear0_1", x)) * act(linear("linear1_1", y)) * e1
    expected = act(linear("linear_out", torch.cat([groups(e1, f), groups(e2, f)])))
    found = module({"first": as_tokens(x[None]), "second": as_tokens(y[None])}).vector[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_factor_is_positive() -> None:
    with pytest.raises(UserError, match="factor=0"):
        FactorizedBilinear({"a": 3, "b": 4}, factor=0)
