"""Comparing and encoding on Ray: the verdict and the bytes are those of one process, whoever dies.

Run by ``make ray``, which installs Ray beside the project: ``python -m pytest tests/ray/many_processes.py``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from weft.compare import CompareConfig, compare
from weft.data import Dataset, Modality, load_dataset
from weft.encoders import Encoder, create_encoder, default_encoder
from weft.errors import UserError
from weft.store import Store, encode
from weft.store.ray import connected

SMALL = {"only": ["linear", "concat"], "fusions": ["concat"], "seeds": 2, "trials": 1, "dim": 8, "resamples": 199}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two processes; one cluster for all tests, since starting one takes a while."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("ray") / "store"
    data = load_dataset("shapes", rows=90)
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    return encode(data, encoders, folder, progress=False)


def config(**changes: object) -> CompareConfig:
    return CompareConfig(**{**SMALL, "train": {"epochs": 3}, **changes})


def found(folder: Path) -> dict[str, object]:
    """What a comparison of this folder says, without times."""
    import json

    said = json.loads((folder / "comparison.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("train_seconds", "latency")} for row in said["table"]]
    return {"sentence": said["sentence"], "verdict": said["verdict"], "table": rows}


def compared(store: Store, folder: Path, **changes: object) -> dict[str, object]:
    result = compare(store, config(**changes), folder, progress=False)
    (folder / "comparison.json").write_text(result.to_json())
    return found(folder)


def test_no_cluster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(**_: object) -> None:
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", refuses)
    with pytest.raises(UserError, match="no Ray cluster answers"), connected("ray://nowhere:1"):
        pass


def kill_one(stop: threading.Event, killed: list[int], name: str) -> None:
    """Kills the first process of Ray that works on something of that name."""
    while not stop.is_set() and not killed:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name().startswith("ray::") and name in " ".join([process.name(), *process.cmdline()]):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            except psutil.Error:
                continue
        time.sleep(0.01)


@pytest.mark.usefixtures("cluster")
def test_a_verdict_is_that_of_one_process_though_a_worker_dies(store: Store, tmp_path: Path) -> None:
    alone = compared(store, tmp_path / "alone")
    stop, killed = threading.Event(), list[int]()
    killer = threading.Thread(target=kill_one, args=(stop, killed, "_do"))
    killer.start()
    together = compared(store, tmp_path / "together", on="ray", jobs=2)
    stop.set()
    killer.join()
    assert killed
    assert together == alone
    assert {row["status"] for row in together["table"]} == {"done"}
    jobs = {path.name for path in (tmp_path / "together" / "jobs").glob("*.json")}
    assert jobs == {path.name for path in (tmp_path / "alone" / "jobs").glob("*.json")}


def encode_all(folder: Path, **changes: object) -> Store:
    data = load_dataset("shapes", rows=90)
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    return encode(data, encoders, folder, progress=False, shard_rows=8, batch_size=4, **changes)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.usefixtures("cluster")
def test_a_store_has_the_bytes_of_one_process(tmp_path: Path) -> None:
    encode_all(tmp_path / "alone")
    encode_all(tmp_path / "together", on="ray")
    assert ray.is_initialized()  # what was open stays open
    assert files(tmp_path / "together") == files(tmp_path / "alone")


class Dies(Encoder):
    """An encoder whose process is killed at one value, the first time."""

    kinds = ("text",)
    width = 3

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        if any(" 40" in value for value in values) and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [np.full((1 + len(value) % 3, 3), len(value), np.float32) for value in values]

    def identity(self) -> dict[str, Any]:
        return {"name": "dies"}


@pytest.mark.usefixtures("cluster")
def test_the_shard_of_a_dead_process_is_made_again_and_once(tmp_path: Path) -> None:
    texts = [f"text {number}" + "!" * (number % 7) for number in range(64)]
    ids, target = [str(number) for number in range(64)], {"kind": np.array(["a", "b"] * 32)}
    data = Dataset("texts", ids, {"text": Modality("text", texts)}, target, None, None, "classification")

    def made(folder: Path, mark: Path, on: str | None) -> dict[str, bytes]:
        encode(data, {"text": Dies(mark)}, folder, progress=False, shard_rows=8, batch_size=3, on=on)
        return files(folder)

    (tmp_path / "there").touch()
    alone = made(tmp_path / "alone", tmp_path / "there", None)
    assert made(tmp_path / "together", tmp_path / "mark", "ray") == alone
    assert (tmp_path / "mark").exists()
