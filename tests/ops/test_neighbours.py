"""Mutual nearest neighbours against loops."""

from __future__ import annotations

from math import ceil

import pytest
import torch

from weft.errors import UserError
from weft.ops import neighbours
from weft.ops.neighbours import mutual_knn

X, Y = (torch.randn(40, d, generator=torch.Generator().manual_seed(d)) for d in (5, 3))


@pytest.mark.parametrize("k", [None, 1, 10])
def test_equals_the_loops(k, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    many = k or ceil(2 * 40 ** (1 / 3))

    def near(v: torch.Tensor, i: int) -> set[int]:
        cosine = {j: float(torch.cosine_similarity(v[i], v[j], dim=0)) for j in range(40) if j != i}
        return set(sorted(cosine, key=lambda j: -cosine[j])[:many])

    expected = sum(len(near(X, i) & near(Y, i)) / many for i in range(40)) / 40
    assert mutual_knn(X, Y, k) == pytest.approx(expected)


def test_a_rotation_agrees_and_noise_is_at_chance():
    q = torch.linalg.qr(torch.randn(5, 5))[0]
    assert mutual_knn(X, 3 * X @ q) == 1.0
    a, b = torch.randn(600, 8), torch.randn(600, 8)
    assert mutual_knn(a, b, 17) == pytest.approx(17 / 599, abs=0.01)


def test_what_cannot_be_asked_is_refused():
    for x, y, k in ((X, Y[:5], 2), (X, Y, 40), (X[:2], Y[:2], None)):
        with pytest.raises(UserError, match="mutual neighbours"):
            mutual_knn(x, y, k)
