"""LMF: loops over ranks and outputs, equality with the tensor it stands for, and registered factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, each_row, or_zeros
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion.low_rank import LowRankFusion
from weft.fusion.tensor import TensorFusion
from weft.tokens import Tokens, as_tokens


@reference("lmf")
def lmf(module: LowRankFusion, inputs: dict[str, Tokens]) -> Tensor:
    def one(row: Row) -> Tensor:
        y = module.bias.clone()
        for k in range(module.rank):
            product = torch.ones(module.dim, dtype=torch.float64)
            for factor, h in zip(module.factors, or_zeros(module, row), strict=True):
                column = factor[:, k * module.dim : (k + 1) * module.dim]
                product = product * (column[0] + sum(h[i] * column[i + 1] for i in range(len(h))))
            y = y + module.rank_weights[k] * product
        return y

    return each_row(module, inputs, one)


def test_equal_to_the_tensor_it_stands_for() -> None:
    dims = {"a": 3, "b": 4, "c": 5}
    low = LowRankFusion(dims, 2, rank=3).double()
    full = TensorFusion(dims, 2).double()
    f = [factor.view(-1, 3, 2) for factor in low.factors]
    weight = torch.einsum("iko,jko,lko,k->oijl", *f, low.rank_weights)
    full.product.load_row_major(weight.flatten(1))
    inputs = {n: as_tokens(torch.randn(5, d, dtype=torch.float64)) for n, d in dims.items()}
    torch.testing.assert_close(low(inputs).vector, full(inputs).vector, rtol=1e-12, atol=1e-12)


def test_factors_are_registered() -> None:
    """A public re-implementation keeps them in a Python list: they neither train, move nor save."""
    module = LowRankFusion({"a": 3, "b": 4}, 5, rank=2)
    assert sum(p.numel() for p in module.parameters()) == 2 * 5 * (4 + 5) + 2 + 5
    assert {"factors.0", "factors.1"} <= set(module.state_dict())


def test_the_rank_stays_inside_the_product() -> None:
    """A product of sums over the rank is another model."""
    module = LowRankFusion({"a": 3, "b": 4}, 5, rank=2).double()
    h = {n: torch.randn(2, d, dtype=torch.float64) for n, d in module.dims.items()}
    sums = [(f[0] + v @ f[1:]).unflatten(1, (2, 5)).sum(dim=1) for f, v in zip(module.factors, h.values(), strict=True)]
    wrong = sums[0] * sums[1] + module.bias
    assert not torch.allclose(module({n: as_tokens(v) for n, v in h.items()}).vector, wrong, atol=0.01)


def test_rank_is_positive() -> None:
    with pytest.raises(UserError, match="rank=0"):
        LowRankFusion({"a": 3, "b": 4}, rank=0)
