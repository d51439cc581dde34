"""Transport plans: marginals, a closed form for two items, what does not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from weft.errors import UserError
from weft.ops.sinkhorn import sinkhorn

K = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(-1, 1)


def test_rows_and_columns_have_equal_weights():
    plan = sinkhorn(K, 0.2, 300).exp()
    assert_close(plan.sum(dim=1), torch.full((6,), 1 / 6, dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(plan.sum(dim=0), torch.full((9,), 1 / 9, dtype=torch.float64), atol=1e-6, rtol=0)


def test_two_items_have_a_closed_form():
    x, y, epsilon = 0.7, 0.2, 0.3
    plan = sinkhorn(torch.tensor([[x, y], [y, x]], dtype=torch.float64), epsilon).exp()
    assert float(plan[0, 0]) == pytest.approx(0.5 / (1 + math.exp(-(x - y) / epsilon)))


def test_it_is_the_plan_with_the_least_cost_and_most_entropy():
    plan = sinkhorn(K, 0.5, 500).exp()

    def objective(p: torch.Tensor) -> float:
        return float(-(p * K).sum() + 0.5 * (p * p.log()).sum())

    for seed in range(5):
        move = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        move = move - move.mean(dim=0) - move.mean(dim=1, keepdim=True) + move.mean()
        assert objective(plan + 1e-3 * plan.min() * move) > objective(plan)


def test_constants_of_rows_and_columns_change_nothing():
    plan = sinkhorn(K, 0.2, 500)
    for moved in (K + 3.0, K + torch.arange(6.0, dtype=torch.float64)[:, None] / 5, K - torch.linspace(0, 1, 9)):
        assert_close(sinkhorn(moved.double(), 0.2, 500), plan, atol=1e-6, rtol=0)
    assert_close(sinkhorn(K.T, 0.2, 500).T, plan, atol=1e-6, rtol=0)


def test_wrong_settings_are_refused():
    for epsilon, iterations in ((0.0, 10), (float("nan"), 10), (0.1, 0)):
        with pytest.raises(UserError, match="Sinkhorn"):
            sinkhorn(K, epsilon, iterations)
