"""The budget is a limit for everything, the cheap answers come first, and words are checked before anything runs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare.cases import quick, small
from tests.compare.test_compare import FAST
from weft.compare import CompareConfig, compare
from weft.compare.costs import Costs
from weft.compare.jobs import candidates, run_job
from weft.compare.ledger import Job
from weft.compare.methods import Method, plan_methods
from weft.compare.prepare import prepare
from weft.compare.rounds import Rounds
from weft.compare.schedule import Clock
from weft.data import make_splits
from weft.errors import UserError
from weft.models import FusedModel, load_model
from weft.models.boosted import BoostedModel
from weft.models.pooled import PooledInputs
from weft.store import MemoryFeatures
from weft.tasks.base import create_task
from weft.training import fit
from weft.training.loop import OutOfTime


def three(rows: int = 240) -> MemoryFeatures:
    """Two modalities that matter and one of wide noise."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(rows, 4)).astype(np.float32)
    noise = rng.normal(size=(rows, 60)).astype(np.float32)
    y = (a[:, 0] + b[:, 0] > 0).astype(int)
    return MemoryFeatures([f"r{i}" for i in range(rows)], {"a": a, "b": b, "noise": noise}, {"y": y})


def test_the_cheap_answers_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = three()
    config = CompareConfig(fusions=["concat", "gated", "tfn", "simple-transformer"], seeds=2, budget=60)
    rounds = Rounds(prepare(features, config, tmp_path), Clock(None), progress=False)
    order = [(job.method.name, job.seed) for job in rounds.jobs()]
    first = [name for name, _ in order]
    assert first[:2] == ["chance", "linear"]
    assert set(first[2:5]) == {"a (linear)", "b (linear)", "noise (linear)"}
    trees = {"boosting", "a (boosting)", "b (boosting)", "noise (boosting)"}
    assert set(first[5:11]) == {*trees, "concat", "gated"}
    assert first.index("a (boosting)") < first.index("boosting")
    assert first.index("simple-transformer") < first.index("tfn")
    assert all(seed == 0 for _, seed in order[: first.index("simple-transformer")])
    seconds = {"a (boosting)": 2.0, "b (boosting)": 1.0, "boosting": 1.0, "noise (boosting)": 6.0, "concat": 5.0}
    monkeypatch.setattr(rounds.costs, "seconds", lambda job: seconds.get(job.method.name, 9.0))
    assert [job.method.name for job in rounds._first()] == ["b (boosting)", "a (boosting)", "concat"]


def test_columns_of_two_values_are_not_what_makes_trees_slow(tmp_path: Path) -> None:
    """A table of categories is no wide embedding: its trees see all of it, also beside one that is reduced."""
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(size=(300, 5)), np.eye(90)[rng.integers(0, 90, 300)]], axis=1)
    values = {"table": table, "photo": rng.normal(size=(300, 80))}
    features = MemoryFeatures([f"r{i}" for i in range(300)], values, {"y": rng.integers(0, 2, 300)})
    setup = prepare(features, CompareConfig(), tmp_path)
    alone, both = (Method("m", "boosting", names) for names in (("table",), ("table", "photo")))
    assert setup.many_valued == {"table": 5, "photo": 80}
    assert [trial["components"] for trial in setup.trials(alone)] == [None] * 4
    assert setup.trials(both)[0]["components"] == 64
    rows = setup.splits[0].train
    assert PooledInputs.fit(features, rows, components=64, whole=["table"]).kept == {"photo": 64}
    job = Job(replace(both, options={"library": "scikit-learn"}), 0, 0, {**setup.trials(both)[0], "rounds": 10})
    (found,) = candidates(setup, job, None)
    assert isinstance(found.model, BoostedModel)
    assert found.model.inputs.kept == {"photo": 64}


def test_a_budget_that_is_over_still_gives_an_answer(tmp_path: Path) -> None:
    """What a verdict needs, one strength of each linear model, the best is kept; the report says what is missing."""
    found = compare(small(), quick(train=FAST, budget=0), tmp_path, progress=False)
    assert {row.method for row in found.rows if row.status == "done"} == {
        "chance",
        "linear",
        "a (linear)",
        "b (linear)",
    }
    assert "the best method on several, linear, has accuracy" in found.sentence or found.verdict.earned == "linear"
    assert all(len(json.loads(path.read_text())["trials"]) == 1 for path in tmp_path.glob("jobs/*.json"))
    assert found.kept is not None
    assert found.kept.method == "linear"
    assert load_model(tmp_path / "winner").names == ("a", "b")
    assert any(note.startswith("The budget of 0 s ended before") for note in found.notes)
    json.loads(found.to_json())


def test_a_verdict_comes_before_the_reserves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine what is kept back for the last fits and figures would leave no time for a single fusion."""
    monkeypatch.setattr("weft.compare.rounds.FIGURES", 1e6)
    found = compare(small(), quick(train=FAST, seeds=5, budget=60), tmp_path, progress=False)
    done = {row.method for row in found.rows if row.status == "done" and row.role != "chance"}
    alone = {f"{name} ({kind})" for name in "ab" for kind in ("linear", "boosting")}  # trees where they cost less
    assert done - {"linear"} - alone in ({"concat"}, {"gated"})
    assert found.verdict.outcome not in ("no result", "no fusion finished")


def test_jobs_that_do_not_fit_do_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is said to take an hour: what is left runs, is judged and kept, and the rest is stated."""
    guess = Costs.seconds
    monkeypatch.setattr(
        Costs, "seconds", lambda self, job: 3600.0 if job.method.family == "network" else min(1.0, guess(self, job))
    )
    found = compare(small(), quick(train=FAST, budget="10m"), tmp_path, progress=False)
    done = {row.method for row in found.rows if row.status == "done"}
    assert done == {"chance", "linear", "boosting", *(f"{m} ({f})" for m in "ab" for f in ("linear", "boosting"))}
    assert found.best is not None
    assert set(found.not_run) >= {"concat, seed 0", "concat, seed 1", "tfn, seed 0"}
    assert any(note.startswith("The budget of 600 s ended before") for note in found.notes)


def test_training_stops_at_the_deadline_with_the_best_so_far() -> None:
    features = small(rows=400)
    split = make_splits(features)
    task = create_task("classification", features.targets["y"][split.train])

    def train(deadline: float, epochs: int) -> Any:
        model = FusedModel.build(dims=features.dims, task=task, fusion="concat", dim=8)
        settings = {"epochs": epochs, "patience": 0, "batch_size": 8}
        return fit(model, features, split, settings, progress=False, deadline=deadline)

    history = train(time.monotonic() + 1.0, 100_000)
    assert history.cut
    assert 1 <= len(history.epochs) < 100_000
    assert not train(time.monotonic() + 600.0, 1).cut
    with pytest.raises(OutOfTime):
        train(time.monotonic() - 1.0, 1)


def test_a_job_that_is_cut_off_keeps_what_it_has_and_goes_on_later(tmp_path: Path) -> None:
    setup = prepare(small(rows=400), quick(train={"epochs": 100_000, "patience": 0}, trials=2), tmp_path)
    job = Job(Method("concat", "network", ("a", "b")), 0, 0)
    assert run_job(setup, job, time.monotonic() - 1) is None
    assert setup.ledger.get(job) is None
    found = run_job(setup, job, time.monotonic() + 1.0)
    assert found is not None
    assert (found["status"], found["cut"], len(found["trials"])) == ("done", True, 1)
    assert not setup.ledger.finished(job)
    assert setup.ledger.model(job) is not None


def test_a_linear_model_that_is_late_is_the_usual_one(tmp_path: Path) -> None:
    """Not the one at the strongest regularisation, which answers like chance; and the note says that it was cut."""
    setup = prepare(small(), quick(), tmp_path)
    late, whole = (Job(Method("linear", "linear", ("a", "b")), 0, 0), Job(Method("chance", "chance", ("a", "b")), 0, 0))
    found, chance = (run_job(setup, job, time.monotonic() - 1) for job in (late, whole))
    assert found is not None
    assert chance is not None
    assert (found["settings"]["strength"], len(found["trials"]), found["cut"]) == (1.0, 1, True)
    assert found["dev_loss"] < 0.9 * chance["dev_loss"]
    said = compare(small(), quick(only=["linear"], budget=0.01), tmp_path / "runs", progress=False)
    assert "Within the budget of 0.01 s tuning was cut short: 'linear', 'a (linear)', 'b (linear)'." in said.notes


def test_an_answer_exists_early_and_gets_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first answer due at once: after a few jobs there are a verdict and a model, replaced at the end."""
    monkeypatch.setattr("weft.compare.rounds.FIRST_ANSWER", 0.0)
    kept, answer = [], Rounds._answer

    def spy(self: Rounds, *args: Any, **given: Any) -> Any:
        found = answer(self, *args, **given)
        kept.append(found.kept and found.kept.method)
        assert load_model(tmp_path / "winner").task.primary == "accuracy"
        return found

    monkeypatch.setattr(Rounds, "_answer", spy)
    found = compare(small(), quick(train=FAST, seeds=1, ensembles=True), tmp_path, progress=False)
    assert len(kept) >= 2
    assert kept[0] == "chance"
    assert kept[-1] == (found.kept and found.kept.method)
    early = json.loads((tmp_path / "comparison.json").read_text())
    assert early["verdict"]["outcome"]


def test_only_an_ensemble_claims_the_whole_share_of_the_last_fits(tmp_path: Path) -> None:
    config = quick(only=["linear", "a (linear)", "b (linear)", "ensemble*"], ensembles=True, budget=60)
    compare(small(), config, tmp_path, progress=False)
    rounds = Rounds(prepare(small(), config, tmp_path), Clock(None), progress=False)
    assert rounds._last(0.0) == 0.0
    assert 0 < rounds._last(1e6) < 1e3
    rounds._ensembles()
    rounds.methods = [method for method in rounds.methods if method.family == "ensemble"]
    assert rounds._last(1e6) == 1e6


def test_estimates_learn_from_what_jobs_took(tmp_path: Path) -> None:
    features, config = small(), quick()
    costs = Costs(prepare(features, config, tmp_path))
    one, other = (Job(Method(name, "network", ("a", "b"), fusion=name), 0, 0) for name in ("concat", "tfn"))
    before = costs.seconds(other)
    costs.learn(one, 10 * costs.seconds(one))
    assert costs.seconds(other) == pytest.approx(10 * before)
    assert costs.seconds(Job(Method("linear", "linear", ("a", "b")), 0, 0)) < 10


@pytest.mark.parametrize(
    ("settings", "there", "gone"),
    [
        ({"without": ["boosting"]}, {"linear", "a (linear)"}, {"boosting", "a (boosting)"}),
        ({"without": ["late", "a"]}, {"hybrid", "b", "a (linear)"}, {"late", "a"}),
        ({"fusions": ["late"], "decisions": []}, {"late"}, {"concat", "hybrid"}),
        ({"fusions": ["late:product", "concat"], "decisions": []}, {"late:product", "concat"}, {"gated"}),
        ({"only": ["linear", "conc*"]}, {"linear", "concat", "a (linear)", "chance"}, {"a", "boosting", "gated"}),
    ],
)
def test_what_the_table_shows_can_be_typed(
    settings: dict[str, Any], there: set[str], gone: set[str], tmp_path: Path
) -> None:
    config = CompareConfig(**settings)
    rounds = Rounds(prepare(small(), config, tmp_path), Clock(None), progress=False)
    names = {method.name for method in rounds.methods}
    assert there <= names
    assert not gone & names


def test_words_are_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'concat'"):
        CompareConfig(fusions=["conct"])
    with pytest.raises(UserError, match="lightgbm"):
        CompareConfig(boosters=["xgboost"])
    with pytest.raises(UserError, match="did you mean 'boosting'"):
        compare(small(), quick(without=["boostin"]), tmp_path, progress=False)
    assert not (tmp_path / "jobs").exists()


def test_a_modality_of_noise_is_left_out(tmp_path: Path) -> None:
    """Subsets are candidates, plain fusions run on the best of them, and the model kept does not look at the noise."""
    config = quick(train={"epochs": 15, "lr": 1e-2}, seeds=1, fusions=["concat"], resamples=499)
    found = compare(three(), config, tmp_path, progress=False)
    names = {row.method for row in found.rows}
    assert {"linear on a+b", "boosting on a+b", "concat on a+b", "late on a+b"} <= names
    assert "concat on a+noise" not in names
    assert found.kept is not None
    assert found.kept.modalities == ("a", "b")
    assert any("of a, b" in note for note in found.notes)


def test_trials_and_subsets_never_look_at_the_test_rows(tmp_path: Path) -> None:
    """With the test labels shuffled, every setting, every subset and the model kept are the same."""
    features = three()
    test = make_splits(features).test
    y = features.targets["y"].copy()
    y[test] = np.random.default_rng(3).permutation(y[test])
    split = np.full(len(features), "train", dtype=object)
    parts = make_splits(features)
    split[parts.dev], split[parts.test] = "dev", "test"
    chosen = []
    for number, target in enumerate((features.targets["y"], y)):
        data = MemoryFeatures(features.ids, features.pooled(np.arange(len(features))), {"y": target}, split=split)
        config = quick(train=FAST, trials=3, seeds=1, ensembles=True, fusions=["concat"], resamples=499)
        found = compare(data, config, tmp_path / str(number), progress=False)
        chosen.append(({row.method: row.settings for row in found.rows}, found.kept and found.kept.method))
    settings, kept = zip(*chosen, strict=True)
    first, second = ({m: {k: v for k, v in s.items() if k != "of"} for m, s in part.items()} for part in settings)
    assert first == second
    assert kept[0] == kept[1]
    assert plan_methods(features, CompareConfig())[0]
