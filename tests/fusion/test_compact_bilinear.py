"""MCB: the sketch of the outer product with the joint hash, and hashes that travel with the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, each_row, pnorm
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion.compact_bilinear import CompactBilinear
from weft.ops.bilinear import circular_convolution, count_sketch
from weft.tokens import Tokens, as_tokens


@reference("mcb")
def mcb(module: CompactBilinear, inputs: dict[str, Tokens]) -> Tensor:
    size = module.out.in_features

    def one(row: Row) -> Tensor:
        index, value = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
        for sketch, v in zip(module.sketches, row, strict=True):
            if v is not None:
                index = (index[:, None] + sketch.index[None]).flatten()
                value = (value[:, None] * (v * sketch.sign)[None]).flatten()
        z = torch.zeros(size, dtype=torch.float64)
        z.index_add_(0, index % size, value)
        return module.out.weight @ pnorm(z) + module.out.bias

    return each_row(module, inputs, one)


def test_equal_to_the_sketch_of_the_outer_product() -> None:
    x, y = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    h1, h2 = torch.randint(16, (7,)), torch.randint(16, (9,))
    s1, s2 = (torch.randint(2, (n,)) * 2.0 - 1.0 for n in (7, 9))
    there = torch.ones(3, 2, dtype=torch.bool)
    found = circular_convolution([count_sketch(x, h1, s1, 16), count_sketch(y, h2, s2, 16)], there)
    expected = torch.zeros(3, 16, dtype=torch.float64)
    for i in range(7):
        for j in range(9):
            expected[:, (h1[i] + h2[j]) % 16] += s1[i] * s2[j] * x[:, i] * y[:, j]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_the_fft_is_not_blown_up(dtype: torch.dtype) -> None:
    """Entries that no pair hashes to are exactly 0, so that the square root has no noise to amplify."""
    x, y = torch.randn(4, 3, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    sketches = [count_sketch(v, torch.arange(3), torch.ones(3), 1000) for v in (x, y)]
    z = circular_convolution(sketches, torch.ones(4, 2, dtype=torch.bool))
    assert not z[:, 5:].any()
    assert z[:, :5].all()


def test_hashes_are_saved_and_not_trained() -> None:
    module = CompactBilinear({"a": 3, "b": 4}, 5, sketch=32)
    other = CompactBilinear({"a": 3, "b": 4}, 5, sketch=32)
    inputs = {n: as_tokens(torch.randn(2, d)) for n, d in module.dims.items()}
    assert not torch.equal(module(inputs).vector, other(inputs).vector)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(inputs).vector, other(inputs).vector, rtol=0, atol=0)
    assert [n for n, _ in module.named_parameters()] == ["out.weight", "out.bias"]


def test_inner_products_are_kept_on_average() -> None:
    """<sketch(x, y), sketch(x', y')> estimates <x, x'> <y, y'>."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    there = torch.ones(2, 2, dtype=torch.bool)
    estimates = []
    for _ in range(200):
        parts = [
            count_sketch(v, torch.randint(64, (n,)), torch.randint(2, (n,)) * 2.0 - 1.0, 64)
            for v, n in ((x, 6), (y, 5))
        ]
        z = circular_convolution(parts, there)
        estimates.append(float(z[0] @ z[1]))
    exact = float((x[0] @ x[1]) * (y[0] @ y[1]))
    error = torch.tensor(estimates).std() / 200**0.5
    assert abs(sum(estimates) / 200 - exact) < 4 * float(error)


def test_sketch_is_positive() -> None:
    with pytest.raises(UserError, match="sketch=0"):
        CompactBilinear({"a": 3, "b": 4}, sketch=0)
