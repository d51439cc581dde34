"""The decomposition against the known answers, and against a grid over the one free parameter of 2 x 2 x 2 tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from weft.errors import UserError
from weft.ops.information import decompose, mutual_information


def table(rule) -> np.ndarray:  # type: ignore[no-untyped-def]
    joint = np.zeros((2, 2, 2))
    for a, b in itertools.product((0, 1), repeat=2):
        joint[a, b, rule(a, b)] += 0.25
    return joint


def noisy_copies(wrong: float = 0.2) -> np.ndarray:
    joint = np.zeros((2, 2, 2))
    for y, a, b in itertools.product((0, 1), repeat=3):
        joint[a, b, y] = 0.5 * (wrong if a != y else 1 - wrong) * (wrong if b != y else 1 - wrong)
    return joint


SAME = np.zeros((2, 2, 2))
SAME[0, 0, 0] = SAME[1, 1, 1] = 0.5


@pytest.mark.parametrize(
    ("joint", "expected"),
    [
        (table(lambda a, b: a & b), (0.3113, 0, 0, 0.5)),
        (table(lambda a, b: a ^ b), (0, 0, 0, 1)),
        (table(lambda a, b: a), (0, 1, 0, 0)),
        (SAME, (1, 0, 0, 0)),
        (noisy_copies(), (0.2781, 0, 0, 0.1825)),
    ],
)
def test_known_answers(joint: np.ndarray, expected: tuple[float, ...]) -> None:
    found = decompose(joint)
    assert tuple(float(term) for term in found) == pytest.approx(expected, abs=2e-4)
    assert float(found.total) == pytest.approx(float(mutual_information(joint.reshape(4, 2))))


def test_equal_to_a_grid_over_the_free_parameters() -> None:
    """Of a 2 x 2 x 2 table with its pair marginals, one number per y is free: the least I_Q over a grid of both."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        p = rng.dirichlet(np.ones(8)).reshape(2, 2, 2)
        first, second = p.sum(axis=1), p.sum(axis=0)
        least = np.inf
        grids = [np.linspace(max(0, first[0, y] + second[0, y] - p[..., y].sum()), min(first[0, y], second[0, y]), 161)
                 for y in (0, 1)]  # fmt: skip
        for corner in itertools.product(*grids):
            q = np.empty((2, 2, 2))
            for y, a in enumerate(corner):
                q[..., y] = [[a, first[0, y] - a], [second[0, y] - a, first[1, y] - second[0, y] + a]]
            least = min(least, float(mutual_information(np.maximum(q, 0).reshape(4, 2))))
        found = decompose(p)
        assert float(found.total - found.synergy) == pytest.approx(least, abs=2e-4)
        assert min(float(term) for term in found) > -1e-6


def test_many_tables_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(3, (5, 4, 3, 2)).astype(float)
    together = decompose(counts, tolerance=1e-9)
    for k in range(5):
        alone = decompose(counts[k], tolerance=1e-9)
        np.testing.assert_allclose([t[k] for t in together], [float(t) for t in alone], atol=1e-5)
    with pytest.raises(UserError, match="not negative"):
        decompose(-counts)


def test_cells_that_fade_away_leave_the_terms_finite() -> None:
    """Cells that are almost empty, such as the iteration leaves where marginals force a zero, count nothing."""
    joint = np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 1e-6], [0.0, 0.0, 1e-320]])
    assert float(mutual_information(joint)) == pytest.approx(1.0, abs=1e-4)
    assert float(mutual_information(joint.T)) == pytest.approx(1.0, abs=1e-4)
