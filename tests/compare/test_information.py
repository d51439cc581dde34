"""Synergy on sets with known answers: there where only both together tell, explained by late fusion where it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.compare.cases import generated
from weft.compare import information
from weft.compare.information import inspect_target, measure_pair
from weft.errors import UserError
from weft.store import MemoryFeatures


def test_independent_copies_have_the_synergy_of_their_null() -> None:
    """Two copies of a coin, each wrong with .2: synergy .18 bit, and late fusion explains all of it."""
    rng, inside, values = np.random.default_rng(0), 0, []
    for trial in range(5):
        y = rng.integers(0, 2, 500)
        a, b = (np.where(rng.random(500) < 0.2, 1 - y, y) for _ in range(2))
        found = measure_pair("a", "b", a, b, y, draws=30, seed=trial)
        values.append(found.synergy - found.late)
        inside += not found.joint_may_help
    assert abs(np.mean(values)) < 0.02
    assert inside >= 3
    assert found.synergy == pytest.approx(0.1825, abs=0.06)
    assert found.redundant == pytest.approx(0.278, abs=0.08)


def test_xor_argues_for_joint_fusion() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (2, 400))
    found = measure_pair("a", "b", a, b, a ^ b, draws=30)
    assert found.synergy > 0.95
    assert found.joint_may_help
    assert "joint fusion may gain" in found.sentence
    assert all(value < 0.02 for value in found.bias.values())


def test_nothing_is_found_where_the_target_is_independent() -> None:
    """With nine cells each and 300 rows every term is bias, and the permuted target shows the same."""
    rng, above = np.random.default_rng(2), 0
    for trial in range(5):
        x1, x2, y = rng.integers(0, 9, 300), rng.integers(0, 9, 300), rng.integers(0, 2, 300)
        found = measure_pair("a", "b", x1, x2, y, draws=30, seed=trial)
        assert found.synergy == pytest.approx(found.bias["synergy"], abs=0.08)
        above += found.joint_may_help
    assert above <= 2


def test_features_of_redundant_modalities() -> None:
    (found,) = inspect_target(generated("redundant", rows=400))
    assert found.redundant > max(found.unique_first, found.unique_second)
    assert not found.joint_may_help
    assert found.to_dict()["sentence"].startswith("a and b: synergy")


def test_features_that_say_nothing_alone() -> None:
    """XOR of two signs hidden in eight columns each: nearly a bit, all of it synergy, and joint fusion needed."""
    (found,) = inspect_target(generated("xor", rows=500))
    assert found.synergy > 0.6
    assert found.synergy - found.late > 0.5
    assert found.joint_may_help
    assert max(found.redundant, found.unique_first, found.unique_second) < 0.05


def test_a_product_of_values_is_seen_and_a_sum_is_not_taken_for_one() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 400, 3)).astype(np.float32)
    for value, joint in ((a[:, 1] * b[:, 2], True), (a[:, 1] + b[:, 2] + 2 * rng.normal(size=400), False)):
        features = MemoryFeatures([str(i) for i in range(400)], {"a": a, "b": b}, {"y": value}, task="regression")
        (found,) = inspect_target(features)
        assert found.joint_may_help is joint


def test_late_fusion_explains_views_that_are_independent_given_the_class() -> None:
    """At the level of 5 %: of eight columns, sides chosen by other rows, so nothing is seen by chance."""
    flagged, above = 0, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 300)
        values = {name: rng.normal(size=(300, 8)) + 0.7 * (y[:, None] - 0.5) for name in "ab"}
        features = MemoryFeatures([str(i) for i in range(300)], values, {"y": y})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(information, "measure_pair", partial(measure_pair, draws=25))
            (found,) = inspect_target(features)
        flagged += found.joint_may_help
        above.append(found.synergy - found.late)
    assert flagged <= 2
    assert abs(np.mean(above)) < 0.02


def test_regression_groups_and_absence() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 300, 2)).astype(np.float32)
    value = a[:, 0] + b[:, 0]
    a[:20] = np.nan
    features = MemoryFeatures(
        [str(i) for i in range(300)], {"a": a, "b": b}, {"y": value}, task="regression", group=np.arange(300) // 3
    )
    (found,) = inspect_target(features, "y")
    assert found.rows == 280
    assert found.unique_first + found.unique_second + found.synergy > found.redundant
    with pytest.raises(UserError, match="no such target"):
        inspect_target(features, "z")
