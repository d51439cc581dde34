"""STRUCTURE against explicit loops over neighbours, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.alignment import create_regulariser
from weft.alignment.structure import neighbourhood_divergence
from weft.errors import UserError
from weft.tokens import Tokens, as_tokens

ROWS = 7


def vectors(width: int, seed: int) -> Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(x: Tensor, temperature: float, level: int) -> list[list[float]]:
    """Probabilities of ``level`` steps among neighbours."""
    unit = [row / math.sqrt(float(row @ row)) for row in x]
    mean = sum(unit) / len(unit)
    centred = [row - mean for row in unit]
    step = []
    for a in centred:
        weights = [math.exp(float(a @ b) / temperature) for b in centred]
        step.append([w / sum(weights) for w in weights])
    now = [[float(i == j) for j in range(len(x))] for i in range(len(x))]
    for _ in range(level):
        now = [[sum(now[i][k] * step[k][j] for k in range(len(x))) for j in range(len(x))] for i in range(len(x))]
    return now


def loops(x: Tensor, z: Tensor, levels: int, temperature: float, divergence: str) -> float:
    total = 0.0
    for level in range(1, levels + 1):
        p, q = chain(x, temperature, level), chain(z, temperature, level)
        for i in range(len(x)):
            for a, b in zip(p[i], q[i], strict=True):
                m = (a + b) / 2
                js = (a * math.log(a / m) + b * math.log(b / m)) / 2
                ag = (m * math.log(m / a) + m * math.log(m / b)) / 2
                total += (js if divergence == "js" else ag) / len(x) / level / levels
    return total


@pytest.mark.parametrize("divergence", ["js", "ag"])
@pytest.mark.parametrize("levels", [1, 3])
def test_equals_the_loops(divergence, levels):
    x, z = vectors(5, 0), vectors(3, 1)
    found = neighbourhood_divergence(x, z, levels, 0.4, divergence)
    assert float(found) == pytest.approx(loops(x, z, levels, 0.4, divergence), rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda z: neighbourhood_divergence(x, z, levels, 0.4, divergence), z.requires_grad_()
    )


def test_an_orthogonal_map_keeps_every_neighbourhood():
    x = vectors(4, 0)
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q[:4]
    for divergence in ("js", "ag"):
        assert float(neighbourhood_divergence(x, 3 * x @ q, 3, 0.05, divergence)) == pytest.approx(0, abs=1e-9)


def test_js_is_bounded_and_rows_have_no_order():
    x, z = vectors(5, 0), vectors(3, 1)
    for temperature in (1e-3, 0.05, 1.0):
        assert 0 <= float(neighbourhood_divergence(x, z, 1, temperature)) <= math.log(2)
    order = torch.randperm(ROWS)
    assert_close(neighbourhood_divergence(x[order], z[order]), neighbourhood_divergence(x, z))
    assert float(neighbourhood_divergence(x[:1], z[:1])) == 0
    assert bool(neighbourhood_divergence(x.float(), 1e-4 * z.float(), 2, 1e-3, "ag").isfinite())


def test_absent_rows_leave_no_trace_and_the_weight_rises():
    x, z = vectors(5, 0), vectors(3, 1)
    mask = torch.ones(ROWS, 1, dtype=torch.bool)
    mask[2] = False
    there = mask[:, 0]
    structure = create_regulariser("structure", weight=3.0, rise=4)
    filled = {"a": Tokens(x.masked_fill(~mask, 1e4)[:, None], mask), "b": as_tokens(vectors(5, 2))}
    for step in (1, 2, 3, 4, 5, 6):
        found = structure(filled, {"a": z.masked_fill(~mask, 0.0), "b": z}, None)
        parts = neighbourhood_divergence(x[there], z[there]), neighbourhood_divergence(vectors(5, 2), z)
        assert_close(found, 3.0 * min(step / 4, 1) * (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"levels": 0}, {"temperature": 0.0}, {"rise": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="structure"):
        create_regulariser("structure", **options)
