"""Word-region alignment: the exact plan in the limit, marginals, padding, gradients."""

from __future__ import annotations

import ot
import pytest
import torch
from torch.testing import assert_close

from weft.errors import UserError
from weft.ops.ipot import cosine_cost, ipot, transport_distance
from weft.tokens import Tokens

RNG = torch.Generator().manual_seed(0)
X_MASK = torch.arange(6) < torch.tensor([[6], [3], [5]])
Y_MASK = torch.arange(7) < torch.tensor([[7], [6], [1]])
X = Tokens(torch.randn(3, 6, 4, generator=RNG, dtype=torch.float64), X_MASK)
Y = Tokens(torch.randn(3, 7, 4, generator=RNG, dtype=torch.float64), Y_MASK)


def test_the_limit_is_the_exact_plan():
    cost = cosine_cost(X, Y)
    plan = ipot(cost, X_MASK, Y_MASK, beta=0.05, iterations=2000)
    for b in range(3):
        m, n = int(X_MASK[b].sum()), int(Y_MASK[b].sum())
        exact = torch.from_numpy(ot.emd([], [], cost[b, :m, :n].contiguous().numpy()))
        assert_close(plan[b, :n, :m].mT, exact, atol=1e-6, rtol=0)
        assert plan[b].sum().item() == pytest.approx(1)


def test_marginals_and_padding():
    plan = ipot(cosine_cost(X, Y), X_MASK, Y_MASK)
    assert_close(plan.sum(dim=1), X_MASK / X_MASK.sum(dim=1, keepdim=True).double())
    assert not plan.mT[~X_MASK].any()
    assert not plan[~Y_MASK].any()


def test_padding_changes_no_distance_and_gets_no_gradient():
    values = X.values.clone().requires_grad_()
    distance = transport_distance(Tokens(values, X_MASK), Y)
    for b in range(3):
        m, n = int(X_MASK[b].sum()), int(Y_MASK[b].sum())
        alone = transport_distance(
            Tokens(X.values[b : b + 1, :m], X_MASK[b : b + 1, :m]),
            Tokens(Y.values[b : b + 1, :n], Y_MASK[b : b + 1, :n]),
        )
        assert_close(distance[b : b + 1], alone)
    distance.sum().backward()
    assert values.grad is not None
    assert not values.grad[~X_MASK].any()
    assert values.grad[X_MASK].abs().sum() > 0


def test_half_precision_is_computed_in_single():
    half = [Tokens(t.values.to(torch.bfloat16), t.mask) for t in (X, Y)]
    single = [Tokens(t.values.float(), t.mask) for t in half]
    assert_close(transport_distance(*half), transport_distance(*single), atol=0, rtol=0)


def test_wrong_settings_and_empty_rows_are_refused():
    cost = cosine_cost(X, Y)
    for beta, iterations in ((0.0, 10), (float("nan"), 10), (0.5, 0)):
        with pytest.raises(UserError, match="IPOT"):
            ipot(cost, X_MASK, Y_MASK, beta=beta, iterations=iterations)
    with pytest.raises(UserError, match="row 0"):
        ipot(cost, X_MASK & False, Y_MASK)
