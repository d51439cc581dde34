"""Raw patches against loops over steps."""

from __future__ import annotations

import numpy as np
import pytest

from weft.encoders import create_encoder
from weft.errors import UserError


@pytest.mark.parametrize(("steps", "patch"), [(12, 4), (13, 4), (3, 5), (7, 1)])
def test_equal_a_loop_over_steps(steps: int, patch: int) -> None:
    rng = np.random.default_rng(steps)
    training = [rng.normal(3, 2, size=(n, 2)) for n in (5, 9, steps)]
    encoder = create_encoder("raw-patches", "series", patch=patch)
    encoder.fit(training)
    series = rng.normal(size=(steps, 2))
    everything = np.concatenate(training)
    expected = []
    for end in range(steps, 0, -patch):
        token = []
        for step in range(end - patch, end):
            token += list((series[max(step, 0)] - everything.mean(axis=0)) / everything.std(axis=0))
        expected.insert(0, token + list((series[-1] - everything.mean(axis=0)) / everything.std(axis=0)))
    found = encoder.encode([series])[0]
    assert found == pytest.approx(np.array(expected), rel=1e-5, abs=1e-6)
    assert found.shape == (-(-steps // patch), encoder.width)
    again = create_encoder("raw-patches", "series", patch=patch)
    again.load_state(encoder.state())
    assert np.array_equal(again.encode([series])[0], found)


def test_bad_input() -> None:
    encoder = create_encoder("raw-patches", "series")
    with pytest.raises(UserError, match="not fitted"):
        encoder.encode([np.zeros((3, 1))])
    with pytest.raises(UserError, match="training rows"):
        encoder.fit([])
    encoder.fit([np.arange(8.0)])
    with pytest.raises(UserError, match="2 channels, expected 1"):
        encoder.encode([np.zeros((3, 2))])
    with pytest.raises(UserError, match="steps 1"):
        encoder.encode([np.array([0.0, np.nan])])
