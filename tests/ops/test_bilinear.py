"""The products' shared maths: signed square root, masked product, sketches, refusal."""

from __future__ import annotations

import pytest
import torch

from weft.errors import UserError
from weft.ops import bilinear
from weft.ops.bilinear import (
    activation_of,
    check_positive,
    multilinear,
    power_normalize,
    product,
    refuse_oversized,
    signed_sqrt,
)


def test_signed_sqrt() -> None:
    z = torch.tensor([-4.0, 0.0, 9.0], requires_grad=True)
    signed_sqrt(z).sum().backward()
    torch.testing.assert_close(signed_sqrt(z.detach()), torch.tensor([-2.0, 0.0, 3.0]))
    torch.testing.assert_close(z.grad, torch.tensor([0.25, 0.0, 1 / 6]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_signed_sqrt_has_a_bounded_slope_in_half_precision(dtype: torch.dtype) -> None:
    z = torch.tensor([1e-7, -6e-8, 1e-3, 0.0], dtype=dtype, requires_grad=True)
    signed_sqrt(z).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() < 20


def test_power_normalize_has_unit_length_and_keeps_zero() -> None:
    z = power_normalize(torch.stack([torch.randn(7), torch.zeros(7)]))
    torch.testing.assert_close(z.norm(dim=1), torch.tensor([1.0, 0.0]))


def test_gradcheck_of_power_normalize() -> None:
    z = torch.tensor([[0.5, -0.3, 1.2], [-2.0, 0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(power_normalize, [z])


def test_a_long_product_is_taken_in_float32() -> None:
    """300^3 overflows float16 on the way to 300^3 / 1000."""
    big, small = torch.full((1, 1), 300.0, dtype=torch.float16), torch.full((1, 1), 1e-3, dtype=torch.float16)
    joint = product([big, big, big, small])
    assert joint.dtype == torch.float16
    assert float(joint) == pytest.approx(27000, rel=0.01)


def test_refusals() -> None:
    refuse_oversized("tfn", 10, 10, "smaller")
    with pytest.raises(UserError, match="11 weights"):
        refuse_oversized("tfn", 11, 10, "smaller")
    with torch.device("meta"):
        refuse_oversized("tfn", 11, 10, "smaller")
    with pytest.raises(UserError, match="'swish'"):
        activation_of("swish")
    with pytest.raises(UserError, match="rank=-1"):
        check_positive("lmf", width=3, rank=-1)


@pytest.mark.parametrize("values", [1, 2**17])
def test_a_contraction_that_keeps_its_factors_has_the_gradients_of_the_sum(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every piece of rows, and of the gradients themselves."""
    monkeypatch.setattr(bilinear, "VALUES", values)
    weight, x, y = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 3, 4), (7, 3), (7, 4))
    )
    torch.testing.assert_close(multilinear(weight, [x, y]), torch.einsum("pij,bi,bj->bp", weight, x, y))
    assert torch.autograd.gradcheck(lambda *a: multilinear(a[0], a[1:]), (weight, x, y))
    assert torch.autograd.gradgradcheck(lambda *a: multilinear(a[0], a[1:]), (weight, x, y))


def test_a_contraction_of_frozen_weights_and_of_half_precision() -> None:
    weight, x, y = torch.randn(6, 3, 5), torch.randn(4, 3, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    exact = torch.autograd.grad(multilinear(weight, [x, y]).sum(), [x, y])
    halves = [v.detach().bfloat16().requires_grad_() for v in (x, y)]
    found = torch.autograd.grad(multilinear(weight.bfloat16(), halves).sum(), halves)
    for half, full in zip(found, exact, strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)
