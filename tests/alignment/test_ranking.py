"""The ranking loss and ConVIRT's weighted InfoNCE against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from weft.alignment import create_objective
from weft.errors import UserError

G = torch.Generator().manual_seed(0)
A, B = (torch.nn.functional.normalize(torch.randn(7, 3, generator=G, dtype=torch.float64), dim=1) for _ in range(2))
EVERY = torch.ones(7, dtype=torch.bool)


def score(i: int, j: int, similarity: str) -> float:
    if similarity == "cosine":
        return sum(float(x * y) for x, y in zip(A[i], B[j], strict=True))
    return -math.sqrt(sum(max(0.0, float(y - x)) ** 2 for x, y in zip(A[i], B[j], strict=True)))


@pytest.mark.parametrize("hardest", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "order"])
def test_ranking_loss_is_the_published_sum(similarity: str, hardest: bool) -> None:
    total = 0.0
    for i in range(7):
        texts = [max(0.0, 0.3 + score(i, j, similarity) - score(i, i, similarity)) for j in range(7) if j != i]
        images = [max(0.0, 0.3 + score(j, i, similarity) - score(i, i, similarity)) for j in range(7) if j != i]
        total += max(texts) + max(images) if hardest else sum(texts) + sum(images)
    found = create_objective("ranking", margin=0.3, hardest=hardest, similarity=similarity)(A, B, EVERY)
    assert found.item() == pytest.approx(total, abs=1e-12)


def test_order_similarity_has_a_gradient_where_it_is_zero() -> None:
    a, b = (torch.ones(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    create_objective("ranking", similarity="order")(a, b, EVERY[:3]).backward()
    assert bool(a.grad.isfinite().all())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "weight": 0.2}, {"weight": 1.0}, {"weight": 0.0}])
def test_convirt_weighs_the_directions(options: dict[str, float]) -> None:
    tau, weight = options.get("temperature", 0.1), options.get("weight", 0.75)
    total = 0.0
    for i in range(7):
        forward = [math.exp(float(A[i] @ B[j]) / tau) for j in range(7)]
        backward = [math.exp(float(A[j] @ B[i]) / tau) for j in range(7)]
        total -= weight * math.log(forward[i] / sum(forward)) + (1 - weight) * math.log(backward[i] / sum(backward))
    objective = create_objective("convirt", **options)
    assert objective(A, B, EVERY).item() == pytest.approx(total / 7, abs=1e-12)
    assert not list(objective.parameters())


def test_convirt_of_equal_weights_is_infonce() -> None:
    infonce = create_objective("infonce", temperature=0.1).double()
    assert_close(create_objective("convirt", weight=0.5)(A, B, EVERY), infonce(A, B, EVERY), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ranking", {"margin": 0.0}, "margin"),
        ("ranking", {"margin": math.nan}, "margin"),
        ("ranking", {"similarity": "euclid"}, "similarity"),
        ("convirt", {"temperature": 0.0}, "temperature"),
        ("convirt", {"weight": 1.5}, "weight"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_objective(name, **options)


def test_one_pair_has_nothing_to_be_ranked_against() -> None:
    with pytest.raises(UserError, match="2 valid pairs"):
        create_objective("ranking")(A[:1], B[:1], EVERY[:1])
