"""Multiplicative interactions: the three forms as sums over indices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, each_row, or_zeros
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion.interactions import MultiplicativeInteractions
from weft.tokens import Tokens, as_tokens


@reference("multiplicative-interactions")
def interactions(module: MultiplicativeInteractions, inputs: dict[str, Tokens]) -> Tensor:
    """The matrix form from its blocks: U, V, c and W, and for three inputs the matrix that meets the third."""
    order = module.product.order
    weight = module.product.weight.permute(*(order.index(m) + 1 for m in range(len(order))), 0)

    def pair(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        y = w[0, 0].clone()
        for n in range(len(a)):
            y = y + a[n] * w[n + 1, 0]
            for m in range(len(b)):
                y = y + a[n] * b[m] * w[n + 1, m + 1]
        for m in range(len(b)):
            y = y + b[m] * w[0, m + 1]
        return y

    def one(row: Row) -> Tensor:
        a, b, *third = or_zeros(module, row)
        if not third:
            return pair(a, b, weight)
        generated = pair(a, b, weight)
        return generated[0] + third[0] @ generated[1:]

    return each_row(module, inputs, one)


def vectors(module: MultiplicativeInteractions) -> dict[str, Tensor]:
    return {n: torch.randn(3, d, dtype=torch.float64) for n, d in module.dims.items()}


@pytest.mark.parametrize("form", ["vector", "scalar"])
@pytest.mark.parametrize("dim", [4, 7])
def test_generated_scales_and_shifts(form: str, dim: int) -> None:
    width = 4 if form == "vector" else 1
    state = {
        "W": torch.randn(5, width, dtype=torch.float64).squeeze(1),
        "U": torch.randn(5, width, dtype=torch.float64).squeeze(1),
        "V": torch.randn(width, dtype=torch.float64),
        "b": torch.randn(width, dtype=torch.float64),
    }
    official = MultiplicativeInteractions.from_official(state, ("a", "b"), form=form, width=4)
    module = MultiplicativeInteractions({"a": 5, "b": 4}, dim, form=form).double()
    module.load_state_dict(official.state_dict(), strict=dim == 4)
    h = vectors(module)
    w, u = (state[k].reshape(5, width) for k in "WU")
    expected = []
    for a, b in zip(h["a"], h["b"], strict=True):
        y = [
            (sum(a[n] * w[n, m % width] for n in range(5)) + state["V"][m % width]) * b[m]
            + sum(a[n] * u[n, m % width] for n in range(5))
            + state["b"][m % width]
            for m in range(4)
        ]
        expected.append(torch.stack(y))
    found = module({n: as_tokens(v) for n, v in h.items()}).vector
    torch.testing.assert_close(found, module.out(torch.stack(expected)))
    assert found.shape == (3, dim)


@pytest.mark.parametrize("form", ["vector", "scalar"])
def test_absent_is_zero(form: str) -> None:
    module = MultiplicativeInteractions({"a": 5, "b": 4}, 6, form=form).double()
    h = vectors(module)
    gone = torch.tensor([False] * 3)
    for name in h:
        absent = {n: as_tokens(v, gone if n == name else ~gone) for n, v in h.items()}
        zero = {n: as_tokens(torch.zeros_like(v) if n == name else v) for n, v in h.items()}
        torch.testing.assert_close(module(absent).vector, module(zero).vector)


def test_vector_form_takes_two() -> None:
    with pytest.raises(UserError, match="exactly 2"):
        MultiplicativeInteractions({"a": 2, "b": 2, "c": 2}, form="vector")


def test_scalar_form_needs_the_width() -> None:
    state = {k: torch.zeros(3 if k in "WU" else 1) for k in ("W", "U", "V", "b")}
    with pytest.raises(UserError, match="width=None"):
        MultiplicativeInteractions.from_official(state, form="scalar")
