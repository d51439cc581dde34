"""The machinery: resume, failures, budget, folds, groups, tasks, absent modalities, bad input."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare.cases import QUICK, quick, small
from weft.compare import CompareConfig, Comparison, compare
from weft.compare.evidence import Evidence
from weft.compare.jobs import outputs_of, run_job
from weft.compare.ledger import Job
from weft.compare.methods import Method, plan_methods
from weft.compare.prepare import prepare
from weft.errors import UserError
from weft.models import load_model
from weft.store import MemoryFeatures
from weft.tasks.base import create_task
from weft.tokens import Tokens

FAST = {**QUICK, "epochs": 4}
TIMES = ("train_seconds", "latency")
LINEAR = Method("linear", "linear", ("a", "b"))


def figures_of(found: Comparison) -> list[dict[str, Any]]:
    """The table without what a clock decides."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found.table()]


SCRIPT = """
import sys
from tests.compare.cases import small, quick
from tests.compare.test_compare import FAST
from weft.compare import compare
compare(small(), quick(train=FAST, seeds=1), sys.argv[1], progress=False)
"""


def test_a_killed_comparison_resumes_with_the_same_figures(tmp_path: Path) -> None:
    whole = compare(small(), quick(train=FAST, seeds=1), tmp_path / "whole", progress=False)
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)])
    deadline = time.monotonic() + 240
    while len(list(folder.glob("jobs/*.json"))) < 7 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in folder.glob("jobs/*.json")}
    jobs = len(list((tmp_path / "whole" / "jobs").glob("*.json")))
    assert 7 <= len(before) < jobs
    resumed = compare(small(), quick(train=FAST, seeds=1), folder, progress=False)
    assert figures_of(resumed) == figures_of(whole)
    assert resumed.sentence == whole.sentence
    assert resumed.contributions == whole.contributions
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_a_failed_job_is_a_row_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.fusion.concat import Concat

    fuse = Concat.fuse

    def broken(self: Concat, inputs: dict[str, Tokens]) -> Any:
        if len(self.dims) > 1:
            raise RuntimeError("out of luck")
        return fuse(self, inputs)

    config = quick(train=FAST, seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr(Concat, "fuse", broken)
        found = compare(small(), config, tmp_path, progress=False)
    row = next(row for row in found.rows if row.method == "concat")
    assert (row.status, row.error, row.test) == ("failed", "seed 0: RuntimeError: out of luck", None)
    assert found.rows[-1] == row
    assert any("Failed: concat" in note for note in found.notes)
    again = compare(small(), config, tmp_path, progress=False)
    assert next(row for row in again.rows if row.method == "concat").status == "done"


def test_later_seeds_keep_what_the_first_was_tuned_to(tmp_path: Path) -> None:
    features, config = small(), quick(train=FAST, trials=3, seeds=2)
    compare(features, config, tmp_path, progress=False)
    setup = prepare(features, config, tmp_path)
    method = next(m for m in plan_methods(features, config)[0] if m.name == "tfn")
    first, second = (setup.ledger.get(Job(method, seed, 0)) for seed in (0, 1))
    assert first is not None
    assert second is not None
    assert len(first["trials"]) == 3
    assert len(second["trials"]) == 1
    assert second["settings"] == first["settings"]
    best = max(trial["dev"] for trial in first["trials"])
    tried = next(
        t for t in first["trials"] if {k: v for k, v in t.items() if k in first["settings"]} == first["settings"]
    )
    assert tried["dev"] == best


def test_every_network_gets_the_same_number_of_trials() -> None:
    features, config = small(), CompareConfig(trials=5)
    methods, _ = plan_methods(features, config)
    for method in methods:
        trials = method.trials(config)
        assert len({json.dumps(trial) for trial in trials}) == len(trials)
        if method.family == "network":
            assert len(trials) == 5


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_tasks_and_their_baselines(task: str, tmp_path: Path) -> None:
    """All families finish; the linear model on both modalities beats either alone; lower-is-better metrics too."""
    features = small(task, rows=240)
    found = compare(features, quick(seeds=1, fusions=["concat"], resamples=499), tmp_path, progress=False)
    rows = {row.method: row for row in found.rows}
    assert {row.status for row in found.rows} == {"done"}, [row.error for row in found.rows]
    sign = 1 if found.higher_is_better else -1
    assert found.higher_is_better is (task != "regression")
    assert sign * (rows["linear"].test - rows["a (linear)"].test) > 0
    assert sign * (rows["a"].test - rows["chance"].test) > 0
    assert [sign * row.test for row in found.rows] == sorted((sign * row.test for row in found.rows), reverse=True)
    assert all(row.low - 1e-9 <= row.test <= row.high + 1e-9 for row in found.rows)
    assert rows["linear"].gain == pytest.approx(sign * (rows["linear"].test - rows[found.verdict.single].test))
    assert rows["linear"].gain > 0
    for row in found.rows:
        assert row.test == pytest.approx(row.metrics[found.primary], rel=1e-5)
    if task == "regression":
        assert found.primary == "nrmse"
        assert found.verdict.outcome == "helps", found.sentence


def test_folds_test_every_row_once_and_groups_stay_together(tmp_path: Path) -> None:
    group = np.repeat(np.arange(40), 3)
    features = small(group=group)
    config = quick(train=FAST, seeds=1, folds=3, fusions=["concat"])
    found = compare(features, config, tmp_path, progress=False)
    assert "3 folds" in found.sentence
    assert "on 120 test rows" in found.sentence
    setup = prepare(features, config, tmp_path)
    tested = np.concatenate([split.test for split in setup.splits])
    assert sorted(tested.tolist()) == list(range(120))
    method = next(m for m in plan_methods(features, config)[0] if m.name == "concat")
    scores = [
        setup.tasks[k].scores(outputs_of(setup, Job(method, 0, k))["test"], setup.target[setup.splits[k].test])
        for k in range(3)
    ]
    row = next(row for row in found.rows if row.method == "concat")
    assert row.test == pytest.approx(np.concatenate(scores).mean())


def test_absent_modalities(tmp_path: Path) -> None:
    """A modality alone answers like chance where it is absent, so all methods answer for the same rows."""
    whole = small(rows=160)
    rows = np.arange(160)
    pooled = {name: values.copy() for name, values in whole.pooled(rows).items()}
    pooled["a"][::4] = np.nan
    features = MemoryFeatures(whole.ids, pooled, whole.targets)
    config = quick(
        train=FAST, seeds=1, fusions=["concat"], decisions=["late", "hybrid", "late:product", "hybrid:weighted"]
    )
    found = compare(features, config, tmp_path, progress=False)
    assert {row.status for row in found.rows} == {"done"}, [row.error for row in found.rows]
    setup = prepare(features, config, tmp_path)
    test = setup.splits[0].test
    late = {row.method: row.test for row in found.rows if row.method.startswith("late")}
    assert set(late) == {"late", "late:product"}
    gone = ~features.presence[test, 0]
    assert gone.any()
    outputs = outputs_of(setup, Job(Method("a", "network", ("a",)), 0, 0))["test"]
    chance = outputs_of(setup, Job(Method("chance", "chance", ("a", "b")), 0, 0))["test"]
    np.testing.assert_array_equal(outputs[gone], chance[gone])
    assert not np.allclose(outputs[~gone], chance[~gone])
    entry = next(row for row in found.rows if row.method == "concat").missing["b"]
    assert entry is not None
    assert entry["rows"] == (features.presence[test].all(axis=1)).sum()


def test_operators_that_do_not_suit_are_left_out_with_a_reason(tmp_path: Path) -> None:
    one, two = np.random.default_rng(0).normal(size=(2, 60, 3)).astype(np.float32)
    one[0] = np.nan
    three = {"a": one, "b": two, "c": two + 1}
    features = MemoryFeatures([str(i) for i in range(60)], three, {"y": np.arange(60) % 2})
    methods, left_out = plan_methods(features, CompareConfig())
    names = {method.name for method in methods}
    assert "concat" in names
    assert not names & set(left_out)
    assert left_out
    assert all(why for why in left_out.values())


def test_exports(tmp_path: Path) -> None:
    found = compare(small(), quick(train=FAST, seeds=1), tmp_path, progress=False)
    value = json.loads(found.to_json())
    assert value["sentence"] == found.sentence
    assert [row["method"] for row in value["table"]] == [row.method for row in found.rows]
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["method"] for row in rows] == [row.method for row in found.rows]
    assert float(rows[0]["test"]) == found.rows[0].test
    assert "log_loss" in rows[0]
    markdown = found.to_markdown()
    assert found.sentence in markdown
    assert markdown.count("\n| ") == len(found.rows) + 2


def test_bad_input_is_refused_before_anything_runs(tmp_path: Path) -> None:
    features = small()
    with pytest.raises(UserError, match="at least two classes"):
        compare(
            MemoryFeatures(features.ids, features.pooled(np.arange(120)), {"y": np.zeros(120, int)}), folder=tmp_path
        )
    with pytest.raises(UserError, match="did you mean 'concat'"):
        compare(features, quick(fusions=["conct"]), tmp_path)
    with pytest.raises(UserError, match="no fusion operator"):
        compare(features, quick(fusions=["zzz*"]), tmp_path)
    with pytest.raises(UserError, match="dev part of the split has no rows"):
        compare(features, quick(fractions=(0.8, 0.0, 0.2)), tmp_path)
    with pytest.raises(UserError, match="no such target column"):
        compare(features, quick(target="z"), tmp_path)
    with pytest.raises(UserError, match="retrieval"):
        compare(MemoryFeatures(["r"], {"a": np.ones((1, 2))}, {}, task="retrieval"), folder=tmp_path)
    split = np.array(["train"] * 60 + ["dev"] * 30 + ["test"] * 30)
    rare = features.targets["y"].astype(object)
    rare[-1] = 7
    unseen = MemoryFeatures(features.ids, features.pooled(np.arange(120)), {"y": rare.astype(int)}, split=split)
    with pytest.raises(UserError, match="not in the training rows"):
        compare(unseen, quick(), tmp_path)
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 3}, "did you mean 'seeds'"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"budget": "soon"}, "90s, 20m, 2h"),
        ({"decisions": ["early"]}, "'late' and 'hybrid'"),
        ({"train": {"epoch": 3}}, "did you mean 'epochs'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CompareConfig(**settings)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("2h", 7200), ("1.5m", 90), (30, 30)])
def test_budgets(text: Any, seconds: float) -> None:
    assert CompareConfig(budget=text).budget == seconds


def test_jobs_survive_a_rerun(tmp_path: Path) -> None:
    setup = prepare(small(), quick(train=FAST), tmp_path)
    job = Job(LINEAR, 0, 0)
    assert run_job(setup, job) == run_job(replace(setup), job)


def test_a_variant_is_the_operator_with_its_options(tmp_path: Path) -> None:
    variants = {"wide": {"fusion": "lmf", "rank": 6}, "slim": {"fusion": "lmf", "rank": 1}}
    settings = {"train": {**FAST, "epochs": 2}, "seeds": 1, "fusions": ["concat"]}
    found = compare(small(), quick(**settings, variants=variants, show=["wide", "a"]), tmp_path / "v", progress=False)
    alone = compare(
        small(), quick(**{**settings, "fusions": ["lmf"]}, options={"lmf": {"rank": 6}}), tmp_path / "o", progress=False
    )
    rows, single = ({row.method: row for row in each.rows} for each in (found, alone))
    assert rows["wide"].test == single["lmf"].test
    assert rows["wide"].parameters == single["lmf"].parameters
    assert rows["slim"].parameters < rows["wide"].parameters
    assert {name: o.shape for name, o in found.shown.items()} == {"wide": (1, 18, 2), "a": (1, 18, 2)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"variants": {"x": {"rank": 1}}}, "names its operator"),
        ({"variants": {"x": {"fusion": "lfm"}}}, "lmf"),
        ({"variants": {"concat": {"fusion": "lmf"}}}, "name of its own"),
        ({"show": ["tfm"]}, "tfn"),
    ],
)
def test_bad_variants_and_shows(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        compare(small(), quick(**settings), tmp_path, progress=False)


def test_ties_are_what_paired_tests_do_not_tell_apart(tmp_path: Path) -> None:
    """Of scores made by hand: equal to the best but for a coin toss per row, and far below it."""
    rng = np.random.default_rng(0)
    best = rng.random(400)
    evidence = object.__new__(Evidence)
    evidence.setup, evidence.group, evidence.sign = prepare(small(), quick(), tmp_path), None, 1.0
    evidence.by_rows, evidence.task = True, create_task("classification", np.arange(4) % 2)
    evidence.values = {
        "far": best[None] - 0.5,
        "best": best[None],
        "near": np.stack([best + rng.choice([-0.2, 0.199], 400), best]),
    }
    evidence.results = {name: [] for name in evidence.values}
    evidence.rows = np.arange(400)
    assert evidence.tied() == sorted(["best", "near"], key=lambda name: -evidence.test(name).mean())


@pytest.mark.parametrize(
    "asked",
    [
        {"metric": "auc"},
        {"metric": "balanced_accuracy", "class_weights": "balanced"},
        {"task": "ordinal", "metric": "mae"},
        {"boosters": ["lightgbm", "scikit-learn"], "metric": "log_loss"},
    ],
)
def test_what_is_asked_of_the_target_reaches_every_method(asked: dict[str, Any], tmp_path: Path) -> None:
    """Three ordered classes, one of them rare: every family learns it and is judged by it, the model kept too."""
    whole = small(rows=360)
    value = whole.targets["y"] + (whole.pooled(np.arange(360))["a"][:, 0] > 1.2)
    features = MemoryFeatures(whole.ids, whole.pooled(np.arange(360)), {"y": value.astype(int)})
    config = quick(train=FAST, seeds=1, fusions=["concat"], resamples=99, ensembles=True, **asked)
    found = compare(features, config, tmp_path, progress=False)
    assert {row.status for row in found.rows} == {"done"}, [row.error for row in found.rows]
    assert found.primary == asked["metric"]
    rows = {row.method: row for row in found.rows}
    better = 1 if found.higher_is_better else -1
    assert better * (rows["linear"].test - rows["chance"].test) > 0
    assert better * (rows["ensemble"].test - rows["chance"].test) > 0
    assert found.kept is not None
    assert load_model(tmp_path / "winner").task.primary == asked["metric"]
    if "boosters" in asked:
        assert rows["boosting"].settings != {}
        assert rows["boosting by scikit-learn"].test is not None
