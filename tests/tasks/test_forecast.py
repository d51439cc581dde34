"""Simple forecasts against normal equations, and what they must find."""

from __future__ import annotations

import numpy as np
import pytest

from weft.data import Split
from weft.errors import UserError
from weft.tasks.forecast import STRENGTHS, forecasts

SPLIT = Split(np.arange(60), np.arange(60, 90), np.arange(90, 120))


def series(noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Windows of 5 steps and 2 channels on a drifting level, and a target that a line gives."""
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(120, 5, 2)) + np.linspace(0, 50, 120)[:, None, None]
    target = 2 * windows[:, -1, 1] - windows[:, -3, 1] + noise * rng.normal(size=120)
    return windows, target


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Predictions for all rows by the normal equations of standardised inputs."""
    mean, scale = x[SPLIT.train].mean(axis=0), x[SPLIT.train].std(axis=0)
    z = (x - mean) / scale
    zt, centre = z[SPLIT.train], y[SPLIT.train].mean()
    weights = np.linalg.solve(zt.T @ zt + np.eye(x.shape[1]) / strength, zt.T @ (y[SPLIT.train] - centre))
    return z @ weights + centre


@pytest.mark.parametrize("change", [False, True])
def test_equal_the_normal_equations(change: bool) -> None:
    windows, level = series()
    last = windows[:, -1, 1]
    target = level - last if change else level
    found = {f.name: f for f in forecasts(windows, 1, target, SPLIT, change=change)}
    base = 0.0 if change else last
    assert np.array_equal(found["persistence"].prediction, np.broadcast_to(base, 120))
    for name, x in (
        ("nlinear", (windows - windows[:, -1:])[:, :-1, 1]),
        ("nlinear, all channels", (windows - windows[:, -1:])[:, :-1].reshape(120, -1)),
    ):
        tried = [base + ridge(x, level - last, s) for s in STRENGTHS]
        errors = [((p - target)[SPLIT.dev] ** 2).mean() for p in tried]
        assert found[name].prediction == pytest.approx(tried[int(np.argmin(errors))])
        assert found[name].dev == pytest.approx(min(errors))


def test_the_line_is_found_beyond_the_level_of_the_training_rows() -> None:
    windows, target = series(noise=0.0)
    error = {
        f.name: np.abs(f.prediction - target)[SPLIT.test].mean()
        for f in forecasts(windows, 1, target, SPLIT, change=False)
    }
    assert error["nlinear"] < 1e-2 < error["boosting"] < error["persistence"]


@pytest.mark.parametrize(("channel", "rows"), [(2, 120), (-3, 120), (0, 119)])
def test_bad_input(channel: int, rows: int) -> None:
    windows, target = series()
    with pytest.raises(UserError, match="one target per window"):
        forecasts(windows, channel, target[:rows], SPLIT, change=False)
