"""Jobs in several processes: the figures of one, what a dead process costs, and what waits for what."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare.cases import quick, small
from tests.compare.test_compare import FAST, figures_of
from weft.compare import compare, schedule
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.compare.prepare import prepare
from weft.compare.schedule import Crew, next_job
from weft.store import MemoryFeatures


class Deadly(MemoryFeatures):
    """Features that end every child process which reads ``b`` alone."""

    def pooled(self, rows: np.ndarray) -> Any:
        if multiprocessing.parent_process() is not None and list(self.dims) == ["b"]:
            os._exit(7)
        return super().pooled(rows)


def test_there_are_as_many_processes_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    features = small()
    monkeypatch.setattr(schedule, "cores", lambda: 4)
    monkeypatch.setattr(schedule, "PROCESS_BYTES", 1000)
    each = 1000 + 4 * 120 * (3 + 4)
    for memory, expected in ((each // 2, 1), (2 * each, 2), (3 * each - 1, 2), (100 * each, 4)):
        monkeypatch.setattr(schedule, "memory", lambda found=memory: found)
        assert schedule.processes(features) == expected


@pytest.mark.slow
def test_processes_do_not_change_the_figures(tmp_path: Path) -> None:
    config = quick(train=FAST, sequence_seeds=1, fusions=["concat", "bottleneck"])
    one = compare(small(), config, tmp_path / "one", progress=False)
    two = compare(small(), config.model_copy(update={"jobs": 2}), tmp_path / "two", progress=False)
    assert figures_of(two) == figures_of(one)
    assert (two.sentence, two.contributions) == (one.sentence, one.contributions)
    assert {row.method: row.seeds for row in two.rows if row.role == "fusion"} == {"concat": 2, "bottleneck": 1}


@pytest.mark.slow
def test_a_process_that_dies_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crew, "helps", False)
    whole = small()
    features = Deadly(whole.ids, whole.pooled(np.arange(len(whole))), whole.targets)
    only = ["a", "b (linear)", "linear", "concat"]
    found = compare(features, quick(train=FAST, seeds=1, jobs=2, only=only), tmp_path, progress=False)
    failed = {row.method: row.error for row in found.rows if row.status == "failed"}
    assert set(failed) == {"b (linear)", "linear"}, "linear reads one modality after the other"
    assert all("exit code 7" in str(error) for error in failed.values())
    assert {row.method for row in found.rows if row.status == "done"} >= {"a", "concat"}


class Quiet:
    """A watch that says nothing."""

    def begins(self, job: Job, waiting: list[Job]) -> None: ...
    def ended(self, job: Job, waiting: list[Job]) -> None: ...
    def least(self, job: Job) -> float:
        return 0.0


@pytest.mark.slow
def test_the_same_processes_work_for_another_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crew, "helps", False)
    setups = [prepare(small(rows=60), quick(jobs=2), tmp_path / name) for name in ("one", "two")]
    jobs = [Job(Method("linear", "linear", part), 0, 0) for part in (("a",), ("b",))]
    with Crew(setups[0], Quiet()) as crew:
        assert crew.run(jobs) == []
        before = [worker.process.pid for worker in crew.workers]
        crew.move(setups[1])
        assert crew.run(jobs) == []
        assert [worker.process.pid for worker in crew.workers] == before
    for setup in setups:
        assert all(setup.ledger.finished(job) for job in jobs)


def test_a_later_seed_waits_for_the_tuning_of_its_own_method() -> None:
    one, other = (Method(name, "network", ("a", "b")) for name in ("one", "other"))
    tune, later, elsewhere = Job(one, 0, 0), Job(one, 1, 0), Job(other, 1, 0)

    def following(waiting: list[Job], running: list[Job]) -> Job | None:
        return next_job(waiting, running, waiting)

    assert following([tune, later], []) == tune
    assert following([later, elsewhere], [tune]) == elsewhere
    assert following([later], [tune]) is None
    assert following([later], []) == later
    assert following([Job(one, 1, 1)], [tune]) == Job(one, 1, 1)
    assert next_job([later], [], [tune, later]) is None
