"""Shapley values against the definition by orders, known games, and their axioms."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from weft.compare.contributions import Value, draw_orders, exact_shapley, sampled_shapley, subsets


def random_game(names: str, seed: int = 0) -> Value:
    rng = np.random.default_rng(seed)
    values: dict[frozenset[str], float] = {frozenset(): 0.0}

    def value(part: frozenset[str]) -> float:
        return values.setdefault(part, float(rng.normal()))

    return value


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
def test_exact_values_are_the_mean_over_all_orders(names: str) -> None:
    value = random_game(names)
    orders = list(permutations(names))
    reference = dict.fromkeys(names, 0.0)
    for order in orders:
        before: frozenset[str] = frozenset()
        for name in order:
            reference[name] += (value(before | {name}) - value(before)) / len(orders)
            before = before | {name}
    exact = exact_shapley(list(names), value)
    assert exact == pytest.approx(reference)
    assert sampled_shapley(orders, value) == pytest.approx(reference)
    assert sum(exact.values()) == pytest.approx(value(frozenset(names)) - value(frozenset()))


def test_known_games() -> None:
    synergy = exact_shapley(["a", "b"], lambda part: 0.5 if part == {"a", "b"} else 0.0)
    assert synergy == {"a": 0.25, "b": 0.25}
    redundant = exact_shapley(["a", "b"], lambda part: 0.4 if part else 0.0)
    assert redundant == pytest.approx({"a": 0.2, "b": 0.2})
    unique = exact_shapley(["a", "b", "c"], lambda part: 0.3 if "c" in part else 0.0)
    assert unique == pytest.approx({"a": 0.0, "b": 0.0, "c": 0.3})


def test_sampled_orders_are_antithetic_and_need_only_the_listed_subsets() -> None:
    names = list("abcdef")
    orders = draw_orders(names)
    assert all(later == earlier[::-1] for earlier, later in zip(orders[::2], orders[1::2], strict=True))
    listed = {frozenset(part) for part in subsets(names)} | {frozenset()}
    asked: set[frozenset[str]] = set()

    def value(part: frozenset[str]) -> float:
        asked.add(part)
        return float(len(part) ** 2)

    found = sampled_shapley(orders, value)
    assert asked <= listed
    assert len(listed) < 2**6
    assert sum(found.values()) == pytest.approx(36.0)
    assert {frozenset(names) - {name} for name in names} <= listed


def test_all_subsets_up_to_four() -> None:
    assert subsets(["x", "y", "z"]) == [("x",), ("y",), ("z",), ("x", "y"), ("x", "z"), ("y", "z"), ("x", "y", "z")]
    assert len(subsets(list("abcd"))) == 15
