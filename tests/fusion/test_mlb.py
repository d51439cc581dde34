"""MLB and its control, linear-sum, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, affine, each_row, pnorm, product_of
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion.linear_sum import LinearSum
from weft.fusion.mlb import LowRankBilinear
from weft.tokens import Tokens, as_tokens


@reference("mlb")
def mlb(module: LowRankBilinear, inputs: dict[str, Tokens]) -> Tensor:
    def one(row: Row) -> Tensor:
        there = [(p, v) for p, v in zip(module.project, row, strict=True) if v is not None]
        return affine(module.out, product_of([torch.tanh(affine(p, v)) for p, v in there]))

    return each_row(module, inputs, one)


@reference("linear-sum")
def linear_sum(module: LinearSum, inputs: dict[str, Tokens]) -> Tensor:
    def one(row: Row) -> Tensor:
        there = [(p, v) for p, v in zip(module.project, row, strict=True) if v is not None]
        total = torch.stack([affine(p, v).clamp(min=0) for p, v in there]).sum(dim=0)
        return affine(module.out, total)

    return each_row(module, inputs, one)


@pytest.mark.parametrize("normalize", [False, True])
def test_options(normalize: bool) -> None:
    module = LowRankBilinear(
        {"a": 3, "b": 4}, 5, hidden=6, activation="relu", output_activation="relu", normalize=normalize
    ).double()
    h = {n: torch.randn(2, d, dtype=torch.float64) for n, d in module.dims.items()}
    found = module({n: as_tokens(v) for n, v in h.items()}).vector
    for row, y in enumerate(found):
        z = product_of([affine(p, v[row]).clamp(min=0) for p, v in zip(module.project, h.values(), strict=True)])
        z = pnorm(z) if normalize else z
        torch.testing.assert_close(y, affine(module.out, z).clamp(min=0))


def test_hidden_is_positive() -> None:
    with pytest.raises(UserError, match="hidden=0"):
        LowRankBilinear({"a": 3, "b": 4}, hidden=0)
    with pytest.raises(UserError, match="hidden=0"):
        LinearSum({"a": 3, "b": 4}, hidden=0)
