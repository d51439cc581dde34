"""What a comparison of many rows holds at once, in counted bytes, and what its jobs do once for all of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.compare.cases import quick, small
from weft.compare.jobs import Setup, candidates, run_job
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.compare.prepare import prepare
from weft.models import pooled, seen
from weft.models.standardise import Standardiser
from weft.store import MemoryFeatures
from weft.tokens import Tokens

ROWS, WIDTH = 4000, 80
MATRIX = 8 * ROWS * 0.7 * 2 * WIDTH
"""Bytes of all columns of the training rows."""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, ROWS, WIDTH)).astype(np.float32)
    ids = [f"row{i}" for i in range(ROWS)]
    features = MemoryFeatures(ids, {"a": a, "b": b}, {"y": (a[:, 0] > b[:, 0]).astype(np.int64)})
    return prepare(features, quick(trials=2), Path(tmp_path_factory.mktemp("memory")))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pooled, "ROWS", 128)
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_linear_model_holds_one_matrix_at_a_time(setup: Setup, traced: None) -> None:
    """Each of its inputs, scaled in its own way, is a matrix of its own: the last is gone before the next is made."""
    job = Job(Method("linear", "linear", ("a", "b")), 0, 0)
    next(candidates(setup, job))  # what is imported and compiled
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert len({found.settings["scaling"] for found in candidates(setup, job)}) == 2
    peak = tracemalloc.get_traced_memory()[1] - before
    assert MATRIX < peak < 1.6 * MATRIX


def test_boosting_keeps_no_matrix(setup: Setup, traced: None) -> None:
    """LightGBM has binned the rows once: what it needs is its own, a byte per value."""
    method = Method("boosting", "boosting", ("a", "b"), options={"library": "lightgbm"})
    next(candidates(setup, Job(method, 0, 0)))
    before = tracemalloc.get_traced_memory()[0]
    held = [tracemalloc.get_traced_memory()[0] - before for _ in candidates(setup, Job(method, 0, 0))]
    assert len(held) == 2
    assert max(held) < 0.3 * MATRIX


def test_ids_are_hashed_once_and_scales_are_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in every job and trial; what they find is the same."""
    counts = {"hashes": 0, "fits": 0}
    hashes, fit = seen._hashes, Standardiser.fit

    def counted_hashes(ids: Sequence[str]) -> np.ndarray:
        counts["hashes"] += 1
        return hashes(ids)

    def counted_fit(self: Standardiser, batches: Iterable[dict[str, Tokens]]) -> None:
        counts["fits"] += 1
        fit(self, batches)

    monkeypatch.setattr(seen, "_hashes", counted_hashes)
    monkeypatch.setattr(Standardiser, "fit", counted_fit)
    found = []
    for each in (False, True):
        setup = prepare(small(), quick(trials=2, seeds=2), tmp_path / str(each))
        jobs = [Job(Method("concat", "network", ("a", "b")), seed, 0) for seed in range(2)]
        counts.update(hashes=0, fits=0)
        results = []
        for job in jobs:
            if each:
                setup.scales.clear()
            results.append((run_job(setup, job) or {})["trials"])
        assert counts == {"hashes": 1, "fits": 2 if each else 1}
        found.append(results)
    assert found[0] == found[1]
