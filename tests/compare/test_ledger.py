"""The ledger: a job's key, damage, names, two processes in one folder, and the model of the winner."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare.cases import quick, small
from tests.compare.test_compare import FAST, LINEAR, figures_of
from weft.compare import CompareConfig, compare
from weft.compare.jobs import run_job
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.compare.prepare import prepare
from weft.data import make_splits
from weft.models import load_model
from weft.models.seen import rows_for
from weft.store import MemoryFeatures

ODD = ["a/b|c", "100 % $x_{", "[red]<b>", 'quote " back \\', "émoji 🎯", "x" * 200, "concat", "linear", "ensemble"]


def changed(row: int) -> MemoryFeatures:
    """``small()`` with one value of one row changed."""
    whole = small()
    values = whole.pooled(np.arange(len(whole)))
    values["a"][row, 1] += 1
    return MemoryFeatures(whole.ids, values, whole.targets)


def test_a_key_knows_all_that_decides_the_result(tmp_path: Path) -> None:
    features, job = small(), Job(LINEAR, 0, 0)
    others = [
        (features, quick()),
        (features, quick(dim=8)),
        (features, quick(split_seed=1)),
        (features, quick(class_weights="balanced")),
        (MemoryFeatures(features.ids, features.pooled(np.arange(120)), {"y": 1 - features.targets["y"]}), quick()),
        *((changed(row), quick()) for row in (0, 1, 77, 119)),
    ]
    keys = {prepare(f, config, tmp_path).ledger.key(job) for f, config in others}
    ledger = prepare(features, quick(seeds=9, budget=5, resamples=999), tmp_path).ledger
    assert len(keys) == len(others)
    assert ledger.key(job) in keys
    assert ledger.key(Job(LINEAR, 1, 0)) not in keys
    assert ledger.key(Job(LINEAR, 0, 0, {"strength": 1.0})) not in keys


def test_other_rows_in_the_same_folder_give_other_figures(tmp_path: Path) -> None:
    """All rows but 64 are exchanged: nothing of the old comparison is taken for an answer."""
    whole = small(rows=300)
    values = whole.pooled(np.arange(300))
    kept = np.unique(np.linspace(0, 299, num=64).astype(int))
    noise = np.random.default_rng(9).normal(size=values["a"].shape).astype(np.float32)
    noise[kept] = values["a"][kept]
    other = MemoryFeatures(whole.ids, {"a": noise, "b": values["b"]}, whole.targets)
    config = quick(only=["linear"])
    first, second = (compare(f, config, tmp_path, progress=False) for f in (whole, other))
    assert {r.method: r.test for r in first.rows} != {r.method: r.test for r in second.rows}


@pytest.mark.parametrize("damage", ["json", "outputs", "half", "gone"])
def test_a_damaged_job_is_done_again(damage: str, tmp_path: Path) -> None:
    setup, job = prepare(small(), quick(), tmp_path), Job(LINEAR, 0, 0)
    before = run_job(setup, job)
    assert before is not None
    path = tmp_path / "jobs" / f"{setup.ledger.key(job)}.json"
    outputs = path.with_suffix(".safetensors")
    if damage == "json":
        path.write_text("{")
    elif damage == "outputs":
        outputs.write_bytes(b"nothing")
    elif damage == "half":
        outputs.write_bytes(outputs.read_bytes()[:-8])
    else:
        outputs.unlink()
    fresh = prepare(small(), quick(), tmp_path)
    assert fresh.ledger.get(job) is None
    again = run_job(fresh, job)
    assert again is not None
    assert again["trials"] == before["trials"]
    assert fresh.ledger.finished(job)


def test_modalities_may_be_called_anything(tmp_path: Path) -> None:
    """Names of operators, of methods, of 200 letters, with separators: each is a row of its own, with its own files."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    values = {name: (rng.normal(size=(60, 2)) + y[:, None]).astype(np.float32) for name in ODD}
    features = MemoryFeatures([str(i) for i in range(60)], values, {"y": y})
    config = quick(only=["linear", *ODD[:6]], train={"epochs": 1}, seeds=1, subsets=False)
    found = compare(features, config, tmp_path, progress=False)
    assert len({row.method for row in found.rows}) == len(found.rows)
    assert {row.modalities for row in found.rows if row.role == "single"} >= {(name,) for name in ODD}
    assert {row.status for row in found.rows} == {"done"}
    assert max(len(path.name) for path in tmp_path.rglob("*")) < 80


def _compare(folder: Path) -> None:
    compare(small(), quick(only=["linear", "boosting"]), folder, progress=False)


def test_two_processes_in_one_folder_do_not_collide(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_compare, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = compare(small(), quick(only=["linear", "boosting"]), tmp_path, progress=False)
    assert {row.status for row in found.rows} == {"done"}
    assert found.best is not None
    assert load_model(found.best).names


def test_the_winner_is_the_job_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept model gives the recorded outputs, is a copy of the job's, and nothing is trained to keep it."""
    features, config = small(), quick(train=FAST, only=["concat", "tfn"])
    found = compare(features, config, tmp_path, progress=False)
    assert found.best is not None
    assert found.kept is not None
    test = prepare(features, config, tmp_path).splits[0].test
    np.testing.assert_array_equal(load_model(found.best).outputs(features, test), found.winner_outputs)
    jobs = [path.read_bytes() for path in tmp_path.glob("jobs/*/model.safetensors")]
    assert (found.best / "model.safetensors").read_bytes() in jobs
    monkeypatch.setattr("weft.compare.jobs.fit", None)
    stamp = (found.best / "model.safetensors").stat().st_mtime_ns
    again = compare(features, config, tmp_path, progress=False)
    assert figures_of(again) == figures_of(found)
    assert (found.best / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("cut", [{"split_seed": 1}, {"fractions": (0.5, 0.2, 0.3)}, {"folds": 3}])
def test_the_winner_knows_its_rows_however_they_were_cut(tmp_path: Path, cut: dict[str, Any]) -> None:
    """Verbs cut nothing anew: what is test to the kept model was test in the comparison, and was not trained on."""
    features, config = small(), quick(train=FAST, only=["linear"], seeds=1, **cut)
    found = compare(features, config, tmp_path, progress=False)
    assert found.best is not None
    seen = load_model(found.best).seen
    known = [rows_for(seen, features, part).tolist() for part in ("train", "dev", "test")]
    splits = prepare(features, config, tmp_path).splits
    assert known in [[sorted(part.tolist()) for part in split] for split in splits]
    assert known[2] != sorted(make_splits(features, fractions=CompareConfig().fractions).test.tolist())


def test_what_is_best_on_dev_is_kept_whatever_its_family(tmp_path: Path) -> None:
    """A linear target, where a network that trains for one epoch cannot win; and chance where nothing else ran."""
    whole = small(rows=400)
    found = compare(whole, quick(train={"epochs": 1}, fusions=["concat"], seeds=1), tmp_path / "linear", progress=False)
    assert found.kept is not None
    assert found.kept.method == "linear" == found.verdict.winner
    assert type(load_model(tmp_path / "linear" / "winner")).__name__ == "LinearModel"
    assert any("The model kept is linear" in note for note in found.notes)
    alone = compare(whole, quick(only=["chance"]), tmp_path / "chance", progress=False)
    assert alone.kept is not None
    assert alone.kept.method == "chance"
    assert any("answers like chance" in note for note in alone.notes)


def test_the_worst_seed_is_never_kept(tmp_path: Path) -> None:
    """Three seeds whose dev figures are put in by hand: the model kept is that of the best of them."""
    features, config = small(), quick(train=FAST, only=["tfn"], seeds=3)
    compare(features, config, tmp_path, progress=False)
    setup = prepare(features, config, tmp_path)
    method = Method("tfn", "network", ("a", "b"), fusion="tfn")
    for seed, figure in enumerate((0.6, 0.99, 0.7)):
        job = Job(method, seed, 0)
        found, outputs = setup.ledger.get(job), setup.ledger.outputs(job)
        assert found is not None
        found = {**found, "dev": {**found["dev"], "accuracy": figure}, "dev_loss": 1 - figure}
        folder = setup.ledger.model(job)
        setup.ledger.put(job, found, outputs, load_model(folder))
    again = compare(features, config, tmp_path, progress=False)
    assert again.best is not None
    wanted = setup.ledger.model(Job(method, 1, 0))
    assert wanted is not None
    assert (again.best / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()
