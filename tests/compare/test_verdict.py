"""The verdict on sets whose answer is known, and its words in the cases without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from tests.compare.cases import generated, quick, small
from weft.compare import compare
from weft.compare.evidence import Evidence, Gain
from weft.compare.signal import Signal, measure_signal, out_of_fold
from weft.compare.verdict import Verdict, decide, shows_gain
from weft.models import load_model
from weft.store import MemoryFeatures
from weft.tasks.base import create_task


@pytest.mark.slow
def test_xor_needs_fusion(tmp_path: Path) -> None:
    """Either modality is at chance; the winner is above 95 % and can be loaded."""
    features = generated("xor", rows=1000)
    config = quick(
        seeds=5, fusions=["tfn", "concat"], train={"epochs": 40, "lr": 1e-2, "patience": 15, "batch_size": 64}
    )
    found = compare(features, config, tmp_path, progress=False)
    assert found.verdict.outcome == "helps", found.sentence
    best = found.verdict.fusion
    assert found.sentence.startswith(f"Fusion helps: {best} of a and b reaches accuracy 0.9")
    row = next(row for row in found.rows if row.method == best)
    assert row.test is not None
    assert row.test > 0.95
    assert row.seeds == len(row.spread) == 5
    assert all(abs(row.test - 0.5) < 0.12 for row in found.rows if row.role == "single" and row.test is not None)
    assert row.p_holm is not None
    assert row.p_holm < 0.05
    singles = [row.test for row in found.rows if row.role == "single" and row.test is not None]
    assert found.verdict.lead == pytest.approx(row.test - max(singles))
    assert f"better by {found.verdict.lead:.3f} than the best single modality" in found.sentence
    hidden = row.missing["a"]
    assert hidden is not None
    assert hidden["hidden"] < 0.7
    assert found.contributions is not None
    worth = found.contributions
    assert sum(worth.shapley.values()) == pytest.approx(worth.full - worth.chance)
    assert min(worth.leave_one_out.values()) > 0.3
    assert min(worth.shapley.values()) > 0.15
    assert found.best is not None
    model = load_model(found.best)
    assert model.evaluate(features, np.arange(len(features)))["accuracy"] > 0.95


@pytest.mark.slow
def test_redundant_modalities_do_not_reward_fusion(tmp_path: Path) -> None:
    found = compare(generated("redundant"), quick(seeds=5), tmp_path, progress=False)
    assert found.verdict.outcome == "does not help"
    assert found.sentence.startswith("Fusion is not shown to help: ")
    assert found.verdict.carrier in ("a", "b")
    assert found.best is not None
    assert load_model(found.best).names == found.verdict.said[str(found.verdict.winner)].modalities


@pytest.mark.slow
@pytest.mark.parametrize("which", ["a", "c"])
def test_the_one_informative_modality_is_named(which: str, tmp_path: Path) -> None:
    features = generated("unique", which=which)
    found = compare(features, quick(seeds=5, fusions=["concat"]), tmp_path, progress=False)
    assert found.verdict.outcome == "does not help"
    assert found.verdict.carrier == which
    assert f"{which} alone" in found.sentence
    assert found.contributions is not None
    assert max(found.contributions.shapley, key=found.contributions.shapley.__getitem__) == which


def test_noise_predicts_nothing(tmp_path: Path) -> None:
    found = compare(generated("noise", rows=300), quick(seeds=1, fusions=["concat"]), tmp_path, progress=False)
    assert found.verdict.outcome == "nothing shown"
    assert found.sentence.startswith("No modality is shown to predict the target")
    assert "would have been seen in 80 of 100 such tests" in found.sentence
    assert found.verdict.carrier is None


def test_one_modality_has_nothing_to_fuse(tmp_path: Path) -> None:
    features = generated("redundant", rows=300).subset(["b"])
    found = compare(features, quick(seeds=1), tmp_path, progress=False)
    assert found.verdict.outcome == "one modality"
    assert found.sentence.startswith("There is only one modality, b, so there is nothing to fuse")
    assert {row.role for row in found.rows} == {"single", "chance"}
    assert found.contributions is None
    assert found.best is not None
    assert load_model(found.best).names == ("b",)


def test_no_fusion_finished(tmp_path: Path) -> None:
    """The budget ends before the networks: what there is is kept, the rest is stated, no fusion is claimed to help."""
    found = compare(small(), quick(budget=0), tmp_path, progress=False)
    assert found.verdict.outcome not in ("helps", "averaging")
    assert found.not_run
    assert any("budget" in note for note in found.notes)
    assert "not run" in {row.status for row in found.rows}
    broken = quick(fusions=["tfn"], options={"tfn": {"no_such_option": 1}}, seeds=1)
    failed = compare(small(), broken, tmp_path, progress=False)
    assert failed.verdict.outcome == "no fusion finished"
    assert failed.sentence.startswith("No fusion network finished. Without one, the best method on several, ")
    row = next(row for row in failed.rows if row.method == "tfn")
    assert row.status == "failed"
    assert row.error is not None
    assert "no_such_option" in row.error


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (Gain(0.1, 0.02, 0.2, 0.01), True),
        (Gain(0.1, -0.01, 0.2, 0.01), False),  # the interval, with its seeds, does not exclude zero
        (Gain(0.1, 0.02, 0.2, 0.06), False),  # the test is not significant
        (Gain(-0.1, -0.2, -0.02, 0.01), False),  # significantly worse
    ],
)
def test_the_rule(gain: Gain, expected: bool) -> None:
    assert shows_gain(gain) is expected


class Told:
    """What a comparison found, put down by hand: singles, a fusion, a classical model, ensembles, and their gains."""

    sign, primary = 1.0, "accuracy"
    task = SimpleNamespace(reason="as asked")
    setup = SimpleNamespace(features=SimpleNamespace(dims={"a": 1, "b": 1}), splits=[None])
    everywhere: Signal | None = None

    def __init__(
        self, test: dict[str, float], gains: dict[tuple[str, str], Gain], dev: dict[str, float] | None = None
    ) -> None:
        self.figures, self.gains, self.dev = test, gains, dev or {}
        self.rows = np.arange(9)
        settings = {"settings": {"weights": {"a": 0.5, "b": 0.5}}}
        self.results = {name: [[(None, settings)]] for name in test}
        self.methods = [self.method(name) for name in test]

    def method(self, name: str) -> SimpleNamespace:
        role = {"a": "single", "b": "single", "linear": "classical"}.get(name, name if " " in name else "fusion")
        role = name if name == "chance" else "ensemble" if name == "ensemble" else role
        family = "linear" if name == "linear" else "ensemble" if name.startswith("ensemble") else "network"
        modalities = (name,) if role == "single" else ("a", "b")
        return SimpleNamespace(name=name, role=role, modalities=modalities, family=family, random=family == "network")

    def done(self, role: str) -> list[str]:
        return [m.name for m in self.methods if m.role == role]

    def best(self, names: list[str]) -> str | None:
        """On dev, where ``a`` is ahead of ``b`` and all else unless said otherwise."""
        return max(names, key=lambda name: (self.dev.get(name, 0.0), -names.index(name)), default=None)

    def test(self, name: str) -> np.ndarray:
        return np.array([self.figures[name]])

    def figure(self, name: str) -> tuple[float, float, float]:
        return self.figures[name], self.figures[name] - 0.1, self.figures[name] + 0.1

    def compare(self, first: str, second: str) -> Gain:
        return self.gains.get((first, second), UNSURE)

    def signal(self, name: str) -> Signal:
        strong = self.figures[name] > 0.55
        return Signal(name, "auc", self.figures[name], 0.5, 0.002 if strong else 0.4, 9, 0.7)

    def signal_everywhere(self) -> Signal | None:
        return self.everywhere

    def suspect(self) -> str | None:
        return None


SURE, UNSURE = Gain(0.3, 0.2, 0.4, 0.001), Gain(0.01, -0.05, 0.07, 0.6)


def told(test: dict[str, float], gains: dict[tuple[str, str], Gain], dev: dict[str, float] | None = None) -> Verdict:
    return decide(cast(Evidence, Told(test, gains, dev)))


def test_fusion_has_to_beat_the_single_modality_that_is_best_on_test_too() -> None:
    """Dev chose ``a``; on test ``b`` is as good as the fusion: a clear gain over ``a`` is no evidence."""
    figures = {"concat": 0.8, "a": 0.5, "b": 0.79}
    found = told(figures, {("concat", "a"): SURE}, {"a": 0.9})
    assert found.outcome == "does not help"
    assert found.carrier == found.single == "b"
    assert found.sentence.startswith("Fusion is not shown to help: no gain over b alone;")
    assert "0.800 on 9 test rows against 0.790 by b (gain +0.010, p = 0.6," in found.sentence
    found = told({**figures, "b": 0.6}, {("concat", "a"): SURE, ("concat", "b"): Gain(0.2, 0.1, 0.3, 0.01)}, {"a": 0.9})
    assert found.outcome == "helps"
    assert found.lead == 0.2
    words = (
        "better by 0.200 than the best single modality (b: 0.600) and by 0.300 than the one chosen on dev (a: 0.500;"
    )
    assert words in found.sentence
    assert "p = 0.01, 95 % CI [+0.100, +0.300], 1 seed." in found.sentence


def test_dev_chooses_and_test_judges() -> None:
    """Two fusions and two singles where dev and test disagree: those of dev are compared, the rival is of test."""
    figures = {"concat": 0.6, "tfn": 0.9, "a": 0.5, "b": 0.58}
    found = told(figures, {}, {"concat": 0.8, "tfn": 0.1, "a": 0.7, "b": 0.2})
    assert (found.fusion, found.single, found.rival) == ("concat", "a", "b")
    assert found.winner == "concat"


def test_three_ways_are_corrected_for() -> None:
    """p = .03 is enough where one way is asked, and not where three are."""
    alone = Gain(0.1, 0.01, 0.2, 0.03)
    figures = {"concat": 0.8, "a": 0.6, "b": 0.5}
    assert told(figures, {("concat", "a"): alone}).outcome == "helps"
    more = {**figures, "linear": 0.6, "ensemble of singles": 0.6}
    assert told(more, {("concat", "a"): alone}).outcome == "does not help"


def test_who_earned_it() -> None:
    """Only the average of single modalities is better than one: averaging earned it; where a fusion is, fusion did."""
    figures = {"concat": 0.7, "a": 0.65, "b": 0.6, "ensemble of singles": 0.8, "ensemble": 0.82}
    averaged = {("ensemble of singles", "a"): SURE}
    found = told(figures, averaged, {"ensemble": 1.0})
    assert found.outcome == "averaging"
    assert found.sentence.startswith("Averaging helps, fusing is not shown to: the mean of single-modality models of a")
    assert found.sentence.endswith("Use the ensemble of 2 models, best on dev (accuracy 0.820 on test).")
    both = told(figures, {**averaged, ("concat", "a"): SURE})
    assert both.outcome == "helps"
    assert "not shown to be better than averaging models of single modalities (0.800)" in both.sentence
    together = told({"concat": 0.6, "a": 0.6, "b": 0.5, "linear": 0.9}, {("linear", "a"): SURE}, {"linear": 1.0})
    assert together.outcome == "together"
    assert "Use a linear model on a and b, best on dev" in together.sentence


def test_modalities_are_said_once() -> None:
    """A method of a subset is named by it, ``linear on a+b``; the sentence says which modalities in its own words."""
    found = told({"concat": 0.6, "a": 0.6, "b": 0.5, "linear": 0.9}, {("linear", "a"): SURE}, {"linear": 1.0})
    name = "linear on a+b"
    said = {**found.said, name: replace(found.said["linear"], name=name)}
    sentence = replace(found, earned=name, winner=name, classical=name, said=said).sentence
    assert "without a fusion network: linear on a and b reaches" in sentence
    assert name not in sentence


def test_no_power_is_said_where_both_score_the_same_on_every_row() -> None:
    found = told({"concat": 0.52, "a": 0.52, "b": 0.5}, {})
    same = replace(found, over_rival=None, gain=Gain(0.0, 0.0, 0.0, 1.0))
    assert same.smallest is None
    assert "A gain of" not in same.sentence
    assert "Both score the same on every test row." in same.sentence


def test_what_is_not_shown_is_said_with_power() -> None:
    figures = {"concat": 0.52, "a": 0.51, "b": 0.5}
    found = told(figures, {})
    assert found.outcome == "nothing shown"
    assert found.sentence.startswith("No modality is shown to predict the target (a: auc 0.510, p = 0.4; 0.700 would")
    assert "no modality predicts" not in found.sentence
    assert UNSURE.smallest == pytest.approx(2.8016 * 0.12 / 3.91993, rel=1e-3)
    assert f"A gain of {UNSURE.smallest:.3f} would have been seen in 80 of 100" in found.sentence
    weak = Told(figures, {})
    weak.everywhere = Signal("b", "auc", 0.57, 0.5, 0.004, 900, 0.55)
    found = decide(cast(Evidence, weak))
    assert found.outcome == "weak signal"
    assert "over all 900 rows, out of fold, b reaches auc 0.570 where chance is 0.500 (p = 0.004)" in found.sentence


def test_the_winner_says_what_to_leave_out() -> None:
    found = told({"concat": 0.6, "a": 0.7, "b": 0.5}, {}, {"a": 1.0})
    assert found.winner == "a"
    assert found.leave_out == ("b",)
    assert found.sentence.startswith("Fusion is not shown to help: a alone is enough;")
    assert found.sentence.endswith("Use a alone, best on dev; leave out b.")


def test_where_nothing_is_shown_nothing_is_to_be_left_out_and_the_winner_is_doubted() -> None:
    found = told({"concat": 0.52, "a": 0.51, "b": 0.5, "chance": 0.5}, {}, {"a": 1.0})
    assert (found.outcome, found.winner, found.leave_out) == ("nothing shown", "a", ("b",))
    assert "leave out" not in found.sentence
    ending = "Use a alone, best on dev; on the test rows it is not told apart from chance (auc 0.510, p = 0.4)."
    assert found.sentence.endswith(ending)


def test_an_ensemble_not_told_apart_from_chance_is_said_to_be() -> None:
    figures = {"concat": 0.52, "a": 0.51, "b": 0.5, "ensemble": 0.53, "chance": 0.5}
    found = told(figures, {}, {"ensemble": 1.0})
    assert found.winner == "ensemble"
    assert "on the test rows it is not told apart from chance (auc 0.530" in found.sentence
    sure = told(figures, {("ensemble", "chance"): SURE}, {"ensemble": 1.0})
    assert "not told apart from chance" not in sure.sentence
    assert "chance" not in told({**figures, "ensemble": 0.8}, {}, {"ensemble": 1.0}).sentence.partition("Use ")[2]


def test_facts_are_json_without_words() -> None:
    facts = told({"concat": 0.6, "a": 0.7, "b": 0.5}, {}).to_dict()
    assert "sentence" not in facts
    assert json.loads(json.dumps(facts))["said"]["a"]["value"] == 0.7


def test_the_signal_test_sees_an_area_where_accuracy_is_blind() -> None:
    """At 82 to 18 every prediction is the majority, so accuracy is that of chance; the ranks carry the target."""
    rng = np.random.default_rng(0)
    y = np.array([0] * 164 + [1] * 36)
    lean = 0.8 * y + rng.normal(size=200)
    outputs = np.stack([np.full(200, 5.0), lean], axis=1)
    task = create_task("classification", y, metric="accuracy")
    found = measure_signal(task, "a", [(*task.judged(outputs, y), None)])
    assert task.metrics(outputs, y)["accuracy"] == 0.82
    assert found.metric == "auc"
    assert found.p < 0.01
    assert found.chance == pytest.approx(0.5, abs=0.02)
    assert 0.55 < found.smallest < 0.68
    noise = measure_signal(task, "a", [(*task.judged(rng.normal(size=(200, 2)), y), None)])
    assert noise.p > 0.05


def test_copies_of_rows_are_no_evidence_of_a_signal() -> None:
    """Ten copies of each of 20 rows: with groups p is about what it is without the copies."""
    rng = np.random.default_rng(1)
    y, z = np.arange(20) % 2, rng.normal(size=(20, 2))
    task = create_task("classification", y)
    alone = measure_signal(task, "a", [(*task.judged(z, y), None)])
    many, group = (np.repeat(v, 10, axis=0) for v in (y, np.arange(20)))
    copied = measure_signal(task, "a", [(*task.judged(np.repeat(z, 10, axis=0), many), group)])
    blind = measure_signal(task, "a", [(*task.judged(np.repeat(z, 10, axis=0), many), None)])
    assert copied.p == pytest.approx(alone.p, abs=0.08)
    assert abs(blind.smallest - 0.5) < 0.5 * abs(copied.smallest - 0.5)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel", "survival", "ordinal"])
def test_a_weak_signal_is_found_over_all_rows(task: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 5))
    lean = 0.4 * x[:, 0] + rng.normal(size=400)
    target = {
        "classification": np.where(lean > 1, "yes", "no"),
        "regression": lean,
        "multilabel": np.stack([lean > 0, rng.random(400) > 0.5], axis=1).astype(int),
        "survival": np.stack([np.exp(-lean), np.ones(400)], axis=1),
        "ordinal": np.digitize(lean, [-1, 0, 1]),
    }[task]
    fitted = create_task(task, target)
    outputs = out_of_fold(fitted, x, target, None)
    assert outputs is not None
    assert measure_signal(fitted, "x", [(*fitted.judged(outputs, target), None)]).p < 0.01
    blind = out_of_fold(fitted, rng.normal(size=(400, 5)), target, np.arange(400) // 4)
    assert blind is not None
    assert measure_signal(fitted, "x", [(*fitted.judged(blind, target), np.arange(400) // 4)]).p > 0.01


def test_a_classical_gain_is_not_called_a_single_modality(tmp_path: Path) -> None:
    """Networks trained for one tiny step cannot fuse, but a linear model on both can: the sentence says so."""
    train = {"epochs": 1, "lr": 1e-6, "batch_size": 512}
    config = quick(seeds=1, fusions=["concat"], train=train)
    found = compare(small(rows=600), config, tmp_path, progress=False)
    assert found.verdict.outcome == "together"
    assert found.sentence.startswith("The modalities together help, without a fusion network: linear on a and b")


def test_nothing_is_never_said_where_the_area_over_all_rows_is_above_a_half(tmp_path: Path) -> None:
    """Weak views of a class of one row in five, against a logistic regression out of fold and the Mann-Whitney test."""
    seen, outcomes = 0, []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y = (rng.random(700) < 0.2).astype(int)
        values = {"a": 0.28 * y[:, None] + rng.normal(size=(700, 3)), "b": rng.normal(size=(700, 3))}
        features = MemoryFeatures([f"r{i}" for i in range(700)], values, {"y": y})
        train = {"epochs": 2, "lr": 1e-2, "batch_size": 128}
        config = quick(seeds=1, fusions=["concat"], subsets=False, without=["*boosting*"], resamples=199, train=train)
        for names in (["a", "b"], ["a"]):
            part = features.subset(names)
            found = compare(part, config, tmp_path / f"{seed}{len(names)}", progress=False)
            folds = StratifiedKFold(5, shuffle=True, random_state=seed)
            p = cross_val_predict(LogisticRegression(C=0.1), values["a"], y, cv=folds, method="predict_proba")[:, 1]
            significant = mannwhitneyu(p[y == 1], p[y == 0], alternative="greater").pvalue < 0.005
            silent = found.verdict.outcome == "nothing shown" or "not shown to be better" in found.sentence
            assert not (significant and silent), found.sentence
            seen += significant
            outcomes.append(found.sentence)
    assert seen >= 4
    assert any("over all 700 rows, out of fold, a reaches auc" in sentence for sentence in outcomes)


def test_few_rows_of_wide_features_are_reduced_to_as_many_as_a_fold_has() -> None:
    """60 rows of 300 columns: no fold has more than 48 rows to learn axes from."""
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b"], 30)
    x = rng.normal(size=(60, 300))
    x[:, :40] += 2.0 * (y == "a")[:, None]
    task = create_task("classification", y)
    outputs = out_of_fold(task, x, y, None)
    assert outputs is not None
    assert task.metrics(outputs, y)["accuracy"] > 0.9
