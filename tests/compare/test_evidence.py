"""What the table says of scores made by hand: corrections, groups, seeds, and who is chosen by which rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from weft.compare.evidence import Evidence
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.compare.signal import even_folds
from weft.compare.statistics import holm
from weft.tasks.metrics import CLASSES, Metric

SHARE = Metric(lambda scores: float(scores.mean()), True, lambda scores: scores)


class ByHand(Evidence):
    """Evidence from scores ``{method: (S, N)}`` and figures on dev ``{method: (S,)}``; the modality of a single comes
    after a colon in its name."""

    def __init__(self, scores: dict[str, Any], dev: dict[str, Any] | None = None, group: Any = None) -> None:
        self.values = {name: np.atleast_2d(np.asarray(v, dtype=np.float64)) for name, v in scores.items()}
        self.setup: Any = SimpleNamespace(config=SimpleNamespace(resamples=999))
        self.task: Any = SimpleNamespace(metric=SHARE)
        self.sign, self.primary, self.by_rows, self.errors = 1.0, "share", True, {}
        self.rows = np.arange(next(iter(self.values.values())).shape[1])
        self.group = None if group is None else np.asarray(group)
        self.methods = [method(name) for name in self.values]
        self.results = {}
        for one in self.methods:
            test = self.values[one.name].mean(axis=1)
            figures = test if dev is None else np.asarray(dev[one.name])
            pairs = zip(figures, test, strict=True)
            self.results[one.name] = [[(Job(one, s, 0), found(*pair))] for s, pair in enumerate(pairs)]
        self._bootstrap = self._redraw()


def method(name: str) -> Method:
    return Method(name, "network", (name.split(":")[1],) if ":" in name else ("a", "b"))


def found(dev: float, test: float) -> dict[str, Any]:
    figures = {"dev": {"share": dev}, "test": {"share": test}}
    return {**figures, "seconds": 1.0, "trials": [{}], "latency": 0.0, "settings": {}}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def test_p_values_of_the_table_are_corrected_for_all_methods_of_the_table(rng: np.random.Generator) -> None:
    single = rng.random(60)
    better = {name: single + rng.normal(shift, 0.4, 60) for name, shift in (("x", 0.12), ("y", 0.1), ("z", 0.02))}
    rows = [row for row in ByHand({"single:a": single, **better}).table("single:a") if row.role == "fusion"]
    p, adjusted = (np.array([getattr(row, key) for row in rows]) for key in ("p", "p_holm"))
    np.testing.assert_allclose(adjusted, holm(p))
    assert (adjusted > p).any()


def test_copies_of_the_rows_in_their_groups_are_no_new_evidence(rng: np.random.Generator) -> None:
    a, b, copies = rng.random(9) + 0.2, rng.random(9), np.repeat(np.arange(9), 10)
    once = ByHand({"a": a, "b": b}).compare("a", "b")
    tenfold = ByHand({"a": a[copies], "b": b[copies]}, group=copies).compare("a", "b")
    assert tenfold.p == once.p
    assert tenfold.p > ByHand({"a": a[copies], "b": b[copies]}).compare("a", "b").p
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_the_interval_covers_the_seeds_of_both_methods() -> None:
    """The rows are all alike and so are the seeds of both: their draws are not, so the interval has a width."""
    seeds = np.array([0.5, 0.7, 0.6])[:, None] * np.ones(20)
    gain = ByHand({"a": seeds, "b": seeds}).compare("a", "b")
    assert gain.gain == 0
    assert gain.low < -0.05
    assert gain.high > 0.05


def test_methods_and_seeds_are_chosen_by_the_dev_rows() -> None:
    test = {"x": np.full((3, 20), 0.9), "y": np.full((3, 20), 0.4)}
    evidence = ByHand(test, dev={"x": [0.5, 0.5, 0.5], "y": [0.6, 0.8, 0.7]})
    assert evidence.best(["x", "y"]) == "y"
    assert evidence.best_job("y").seed == 1
    assert [row.method for row in evidence.table(None)] == ["x", "y"], "the table is by test"


def test_even_folds_share_out_classes_values_and_groups() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(503) < 0.2).astype(int)
    fold = even_folds(y, None)
    assert np.ptp(np.bincount(fold)) <= 1
    assert np.ptp([y[fold == k].sum() for k in range(5)]) <= 2  # a short block, and one of both classes
    values = rng.normal(size=500)
    means = [values[even_folds(values, None) == k].mean() for k in range(5)]
    assert np.ptp(means) < 0.05 < np.ptp([values[k::5].mean() for k in range(5)])
    group = np.repeat(np.arange(60), 7)
    fold = even_folds(rng.integers(0, 2, 420), group)
    assert all(len(set(fold[group == g].tolist())) == 1 for g in range(60))
    assert np.bincount(fold[::7]).tolist() == [12] * 5


def by_auc(truth: np.ndarray, scores: dict[str, np.ndarray], resamples: int = 999) -> Evidence:
    """Evidence of one seed from scores ``{method: (N,)}`` of the second of two classes, judged by AUC."""
    evidence = ByHand(dict.fromkeys(scores, truth))
    evidence.by_rows, evidence._tested, evidence._fold_of = False, {}, np.zeros(len(truth), dtype=int)
    evidence.setup = SimpleNamespace(config=SimpleNamespace(resamples=resamples))  # type: ignore[assignment]
    evidence.task = SimpleNamespace(metric=CLASSES["auc"], outputs=2)
    evidence.truth = [truth]
    evidence.answers = {
        name: [[((z > 0).astype(int), np.stack([-np.logaddexp(0, z), -np.logaddexp(0, -z)], axis=1))]]
        for name, z in scores.items()
    }
    return evidence


def test_the_scale_of_scores_is_no_part_of_a_test_of_their_order(rng: np.random.Generator) -> None:
    """AUC does not see a monotone change of one method's scores, so neither does its paired test."""
    truth = rng.integers(2, size=200)
    good, poor = (truth + rng.normal(scale=s, size=200) for s in (1.0, 1.6))
    once, other = (by_auc(truth, {"a": good / k - 3, "b": poor}).p_value("a", "b") for k in (1.0, 20.0))
    assert once == other < 0.05


def test_p_values_of_two_scales_are_uniform_where_neither_is_better() -> None:
    """Of 300 such draws .05 lie below .05 and .18 below .2; exchanging the scores themselves, .003 and .017."""
    found = []
    for trial in range(200):
        rng = np.random.default_rng(trial)
        truth = rng.integers(2, size=80)
        common = truth + rng.normal(size=80)
        a, b = (common + rng.normal(scale=0.7, size=80) for _ in range(2))
        found.append(by_auc(truth, {"a": a, "b": b / 6 - 1}, resamples=99).p_value("a", "b"))
    assert 0.45 < np.mean(found) < 0.57
    assert 0.14 < np.mean(np.array(found) <= 0.2) < 0.27
