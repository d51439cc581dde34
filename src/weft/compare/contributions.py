r"""What each modality contributes: leave-one-out and Shapley values of the model retrained on subsets.

``v(S)`` is the primary metric on test (negated where lower is better) of the model trained on the modalities ``S``
alone, ``v(\{\})`` that of chance. With ``M`` modalities,

.. math::
   \phi_m = \sum_{S \not\ni m} \frac{|S|!\,(M - |S| - 1)!}{M!} \big(v(S \cup m) - v(S)\big), \qquad
   \ell_m = v(\text{all}) - v(\text{all} \setminus m)

so ``sum(phi) = v(all) - v({})``. Redundant modalities share their worth in ``phi`` and show ``l = 0``; a modality that
works only together with another has ``phi > v({m}) - v({})``. Exact for ``M <= 4`` (``2^M - 1`` trainings), else the
mean over random orders and their reverses, with ``10 M`` subsets or so. Shapley 1953, A value for n-person games;
antithetic orders: Mitchell et al. 2022, Sampling permutations for Shapley value estimation (JMLR).

One seed, first fold: these describe, they test nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np

from weft.compare.evidence import Evidence
from weft.compare.jobs import Setup
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.fusion import fusions

EXACT = 4
ORDERS = 10
Value = Callable[[frozenset[str]], float]


@dataclass(frozen=True)
class Contributions:
    """What each modality is worth to the model, in the primary metric; positive is better.

    Attributes:
        model: name of the method that was retrained on subsets.
        exact: whether all subsets were trained, or a sample of orders.
        chance, full: ``v({})`` and ``v(all)``, as the metric itself.
        shapley, leave_one_out: ``{modality: value}``.
    """

    model: str
    exact: bool
    chance: float
    full: float
    shapley: dict[str, float]
    leave_one_out: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def exact_shapley(names: Sequence[str], value: Value) -> dict[str, float]:
    """Shapley values from all ``2^M`` values."""
    count, found = len(names), dict.fromkeys(names, 0.0)
    for name in names:
        others = [other for other in names if other != name]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for subset in combinations(others, size):
                found[name] += weight * (value(frozenset({*subset, name})) - value(frozenset(subset)))
    return found


def draw_orders(names: Sequence[str], orders: int = ORDERS, seed: int = 0) -> list[tuple[str, ...]]:
    """``orders`` random orders of the names, every second one the reverse of the one before."""
    rng = np.random.default_rng(seed)
    drawn = [tuple(names[i] for i in rng.permutation(len(names))) for _ in range((orders + 1) // 2)]
    return [order for forward in drawn for order in (forward, forward[::-1])][:orders]


def sampled_shapley(orders: Sequence[Sequence[str]], value: Value) -> dict[str, float]:
    """Mean gain of each name when it joins those before it, over the given orders."""
    found = dict.fromkeys(orders[0], 0.0)
    for order in orders:
        for place, name in enumerate(order):
            gain = value(frozenset(order[: place + 1])) - value(frozenset(order[:place]))
            found[name] += gain / len(orders)
    return found


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The non-empty subsets whose values are needed, each in the order of the names, small ones first."""
    if len(names) <= EXACT:
        needed = {frozenset(part) for size in range(1, len(names) + 1) for part in combinations(names, size)}
    else:
        needed = {frozenset(order[:k]) for order in draw_orders(names) for k in range(1, len(names) + 1)}
        needed |= {frozenset(names) - {name} for name in names}
    ordered = [tuple(name for name in names if name in part) for part in needed]
    return sorted(ordered, key=lambda part: (len(part), [names.index(name) for name in part]))


def subset_jobs(setup: Setup, evidence: Evidence, fusion: str) -> tuple[str, dict[frozenset[str], Job]]:
    """The model that is retrained, and its jobs: the best fusion if it takes any number of modalities, else concat."""
    names = list(setup.features.dims)
    method = next(m for m in evidence.methods if m.name == fusion)
    job = evidence.results[fusion][0][0][0]
    settings = next(result for j, result in evidence.results[fusion][0] if j == job)["settings"]
    if method.decision != "late" and fusions.get(method.fusion).arity != (1, None):
        method = Method("concat", "network", tuple(names))
        settings = method.trials(setup.config)[0]
    jobs = {}
    for part in subsets(names):
        alone = replace(method, name=f"{method.name} on {'+'.join(part)}", modalities=part)
        jobs[frozenset(part)] = Job(alone, job.seed, 0, settings)
    return method.name, jobs


def measure(
    setup: Setup, evidence: Evidence, model: str, results: dict[frozenset[str], dict[str, Any]]
) -> Contributions | None:
    """Contributions from the results of the subset jobs; None if any of them failed, or chance did."""
    names, sign = list(setup.features.dims), evidence.sign
    if "chance" not in evidence.results or any(result["status"] != "done" for result in results.values()):
        return None
    values = {part: sign * _primary(result, evidence.primary) for part, result in results.items()}
    values[frozenset()] = sign * _primary(evidence.results["chance"][0][0][1], evidence.primary)
    exact, whole = len(names) <= EXACT, frozenset(names)
    found = (
        exact_shapley(names, values.__getitem__) if exact else sampled_shapley(draw_orders(names), values.__getitem__)
    )
    return Contributions(
        model,
        exact,
        chance=sign * values[frozenset()],
        full=sign * values[whole],
        shapley=found,
        leave_one_out={name: values[whole] - values[whole - {name}] for name in names},
    )


def _primary(result: dict[str, Any], primary: str) -> float:
    value = result["test"][primary]
    return float("nan") if value is None else float(value)
