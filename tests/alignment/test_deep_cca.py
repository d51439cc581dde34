"""The loss of Deep CCA as an objective; its networks find a relation that linear CCA cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.alignment import create_aligner, create_objective
from weft.alignment.closed_form import ClosedForm
from weft.errors import UserError
from weft.ops.correlation import Moments, cca
from weft.tokens import Tokens, as_tokens

EVERY = torch.ones(40, dtype=torch.bool)


def pair(rows: int = 40, width: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(rows, width, generator=g, dtype=torch.float64)
    return a, a.roll(1, dims=1) + 0.5 * torch.randn(rows, width, generator=g, dtype=torch.float64)


def test_the_loss_is_minus_the_sum_of_the_correlations() -> None:
    a, b = pair()
    correlations = cca(Moments.of(torch.cat([a, b], dim=1)).covariance, (3, 3), 3).correlations
    assert_close(create_objective("deep-cca")(a, b, EVERY), -correlations.sum())


def test_linear_maps_do_not_change_the_loss() -> None:
    a, b = pair()
    mix = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
    objective = create_objective("deep-cca", shrinkage=1e-9)
    assert_close(objective(a @ mix + 5, b, EVERY), objective(a, b, EVERY), rtol=1e-6, atol=0)
    assert_close(create_objective("deep-cca")(100 * a, b, EVERY), create_objective("deep-cca")(a, b, EVERY))


def test_small_batches_are_refused_in_training_alone() -> None:
    a, b = pair(3)
    objective, valid = create_objective("deep-cca"), torch.ones(3, dtype=torch.bool)
    with pytest.raises(UserError, match="larger batches"):
        objective(a, b, valid)
    assert bool(objective.eval()(a, b, valid).isfinite())


def test_collapsed_or_broken_embeddings_are_refused() -> None:
    a, b = pair()
    with pytest.raises(UserError, match="singular"):
        create_objective("deep-cca")(torch.ones_like(a), b, EVERY)
    with pytest.raises(UserError, match="NaN"):
        create_objective("deep-cca")(a.log(), b, EVERY)
    with pytest.raises(UserError, match="shrinkage"):
        create_objective("deep-cca", shrinkage=0.0)


def bent(rows: int, seed: int) -> dict[str, Tokens]:
    """The second view holds the absolute values of the first: no linear map finds them."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 2, generator=g)
    return {"a": as_tokens(hidden), "b": as_tokens(hidden.abs() + 0.05 * torch.randn(rows, 2, generator=g))}


def held_out(aligner: ClosedForm) -> float:
    """Sum of the correlations of paired canonical variables on new rows."""
    with torch.no_grad():
        a, b = (aligner.embed(name, tokens) for name, tokens in bent(500, 1).items())
    return sum(float(torch.corrcoef(torch.stack([a[:, k], b[:, k]]))[0, 1]) for k in range(2))


def test_networks_find_what_linear_cca_cannot() -> None:
    train = bent(600, 0)
    linear = create_aligner("cca", {"a": 2, "b": 2}, 2)
    linear.fit_closed_form([train])
    torch.manual_seed(0)
    deep, objective = create_aligner("deep-cca", {"a": 2, "b": 2}, 2, hidden=32), create_objective("deep-cca")
    optimizer = torch.optim.AdamW(deep.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        z = deep.train()(train)
        objective(z["a"], z["b"], torch.ones(600, dtype=torch.bool)).backward()
        optimizer.step()
    deep.eval().fit_closed_form([train])
    assert held_out(linear) < 0.4
    assert held_out(deep) > 1.2
