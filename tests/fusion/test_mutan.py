"""MUTAN: a sum over ranks, the rank first, against the core tensor it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.fusion.products import Row, affine, each_row, pnorm, product_of
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion.mutan import LowRankCore, Mutan
from weft.tokens import Tokens, as_tokens


def merge(core: LowRankCore, projected: list[Tensor | None]) -> Tensor:
    """``z[t] = sum_k prod_m p_m[k h + t]`` over those present."""
    parts = [affine(f, x) for f, x in zip(core.factors, projected, strict=True) if x is not None]
    width = len(parts[0]) // core.rank
    return torch.stack(
        [
            torch.stack([product_of([p[k * width + t] for p in parts]) for k in range(core.rank)]).sum()
            for t in range(width)
        ]
    )


def project(projections: nn.ModuleList, row: Row) -> Row:
    """Every present modality through its projection."""
    return [None if v is None else affine(p, v) for p, v in zip(projections, row, strict=True)]


@reference("mutan")
def mutan(module: Mutan, inputs: dict[str, Tokens]) -> Tensor:
    return each_row(module, inputs, lambda row: affine(module.out, merge(module.core, project(module.project, row))))


def test_normalize() -> None:
    module = Mutan({"a": 3, "b": 4}, 5, hidden=6, rank=2, normalize=True).double()
    h = {n: torch.randn(3, d, dtype=torch.float64) for n, d in module.dims.items()}
    found = module({n: as_tokens(v) for n, v in h.items()}).vector
    for row, y in enumerate(found):
        z = merge(module.core, project(module.project, [v[row] for v in h.values()]))
        torch.testing.assert_close(y, affine(module.out, pnorm(z)))


def test_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UserError, match="rank=7, width 6"):
        Mutan({"a": 3, "b": 4}, 5, hidden=6, rank=7)
    with pytest.raises(UserError, match="rank=0"):
        Mutan({"a": 3, "b": 4}, 5, rank=0)
