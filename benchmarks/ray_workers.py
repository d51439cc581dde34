"""``weft encode`` and ``weft compare`` on Ray with 1, 2 and 4 workers beside one process without it, and with 2 workers
of which one is killed in the middle: the same bytes, the same verdict, and how long.

Encoding is MobileNetV2 on the images of ``shapes``, in shards of 16; a comparison is a linear model and one fusion, 2
seeds, 4 settings each. Each run is a process of its own with a Ray of its own. *start* is the time until the first
shard or job is kept, in which workers start and import torch, *work* the time from there to the last, *speed of work*
that of one process over it; *CPU* are the CPU seconds of all processes until the end. A machine with two cores cannot
do four things at once: 4 workers show what they cost, not what they gain.

What stands in the way: each worker costs 11 to 15 CPU seconds before it works, for imports and its encoder. All the
encoding here takes 9, and a job of the comparison less than half of one, on two cores that other work shares. Ray pays
where each worker has minutes of work and a core of its own.

Measured when Ray ran its workers at niceness 15, its own rule, beside other work; weft has started them at 0 since. It
was not measured again: no core of this machine was quiet.

    python benchmarks/ray_workers.py      (with Ray installed: the environment of ``make ray``)

The image model is the folder of a transformers MobileNetV2: ``$WEFT_MODELS/mobilenet_v2``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import set_threads, write_result

ROWS, SHARD = 192, 16
MODELS = Path(os.environ.get("WEFT_MODELS", "../shared/models"))
RUNS = {"no Ray": (0, False), "1": (1, False), "2": (2, False), "4": (4, False), "2, one killed": (2, True)}


def encode(folder: Path, on: str | None) -> None:
    from weft.data import Dataset, load_dataset
    from weft.encoders import create_encoder
    from weft.store import encode as run

    data = load_dataset("shapes", rows=ROWS)
    image = {"image": data.modalities["image"]}
    alone = Dataset(data.name, data.ids, image, data.targets, data.split, data.group, data.task)
    encoder = create_encoder(f"hf:{next(MODELS.glob('mobilenet*'))}", "image")
    run(alone, {"image": encoder}, folder, shard_rows=SHARD, batch_size=8, progress=False, on=on)


def compare(folder: Path, on: str | None, workers: int) -> None:
    from weft.compare import CompareConfig
    from weft.compare import compare as run
    from weft.data import load_dataset
    from weft.encoders import create_encoder, default_encoder
    from weft.files import write_json
    from weft.store import encode as run_encode

    data = load_dataset("shapes", rows=ROWS)
    made = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    store = run_encode(data, made, folder.with_name("quick"), progress=False)
    some: dict[str, Any] = {"only": ["linear", "concat"], "fusions": ["concat"], "seeds": 2, "trials": 4, "dim": 32}
    config = CompareConfig(**some, resamples=199, train={"epochs": 40, "patience": 0}, on=on, jobs=workers or 1)
    write_json(folder / "comparison.json", run(store, config, folder, progress=False).to_dict())


def shards(folder: Path) -> int:
    """Of a store, so far."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return 0
    return sum(len(entry["shards"]) for entry in json.loads(manifest.read_text())["modalities"].values())


def jobs(folder: Path) -> int:
    """Of a comparison, so far."""
    return sum(not path.name.startswith(".") for path in (folder / "jobs").glob("*.json"))


class Watch(threading.Thread):
    """When each result was kept; a process of Ray that works on ``victim`` is killed after the second.

    Args:
        count: results that are kept.
        victim: a part of the name of its work; None: nobody is killed.
    """

    def __init__(self, count: Callable[[], int], victim: str | None) -> None:
        super().__init__(daemon=True)
        self.count, self.victim, self.times, self.killed, self.ended = count, victim, list[float](), 0, False
        self.spent: dict[int, float] = {}
        self.before = self.cpu()

    def run(self) -> None:
        looked = 0
        while not self.ended:
            self.look()
            looked += 1
            if looked % 20 == 0:
                self.cpu()
            time.sleep(0.02)

    def cpu(self) -> float:
        """CPU seconds of this process and all below it so far, of those that have ended as last seen."""
        import psutil

        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                self.spent[process.pid] = sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        return sum(self.spent.values())

    def look(self) -> None:
        self.times += [time.time()] * (self.count() - len(self.times))
        if self.victim and not self.killed and len(self.times) > 1:
            self.kill()

    def kill(self) -> None:
        import psutil

        for process in psutil.Process().children(recursive=True):
            try:
                if process.name().startswith("ray::") and self.victim in " ".join([process.name(), *process.cmdline()]):
                    os.kill(process.pid, signal.SIGKILL)
                    self.killed += 1
                    return
            except psutil.Error:
                continue

    def stop(self) -> None:
        self.ended = True
        self.join()
        self.look()


def one(workers: int, kill: bool, place: Path) -> None:
    """One line of each table, as JSON on the last line of what is printed."""
    set_threads(1)
    on = "ray" if workers else None
    if workers:
        import ray

        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    store, result, found = place / "store", place / "result", {}
    parts: list[tuple[str, Callable[[], None], Callable[[], int], str]] = [
        ("encode", lambda: encode(store, on), lambda: shards(store), "Encoding"),
        ("compare", lambda: compare(result, on, workers), lambda: jobs(result), "_do"),
    ]
    for part, work, count, victim in parts:
        watch, began = Watch(count, victim if kill else None), time.time()
        watch.start()
        work()
        ended, cpu = time.time(), watch.cpu() - watch.before
        watch.stop()
        first, last = watch.times[0], watch.times[-1]
        found[part] = {"kept": len(watch.times), "start s": first - began, "work s": last - first}
        found[part] |= {"all s": ended - began, "CPU s": cpu, "killed": watch.killed}
    print(json.dumps(found))


def bytes_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def verdict(folder: Path) -> Any:
    said = json.loads((folder / "comparison.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("train_seconds", "latency")} for row in said["table"]]
    return said["sentence"], said["verdict"], rows


def main() -> None:
    set_threads(1)
    lines: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        places = {label: Path(name) / str(number) for number, label in enumerate(RUNS)}
        for label, (workers, kill) in RUNS.items():
            call = [sys.executable, __file__, str(workers), str(int(kill)), str(places[label])]
            run = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            first = next(iter(places.values()))
            assert bytes_of(places[label] / "store") == bytes_of(first / "store"), f"{label}: other bytes"
            assert verdict(places[label] / "result") == verdict(first / "result"), f"{label}: another verdict"
            for part, row in json.loads(run.stdout.splitlines()[-1]).items():
                assert row.pop("killed") == kill, f"{label}: the wrong number of processes was killed"
                base = lines.get(f"{part}, workers: no Ray", row)
                row["speed of work"] = base["work s"] / row["work s"]
                lines[f"{part}, workers: {label}"] = row
                shown = {key: float(f"{value:.3g}") for key, value in row.items()}
                print(
                    f"{part}, workers: {label}: {shown}, same {'bytes' if part == 'encode' else 'verdict'}", flush=True
                )
    rounded = {line: {key: float(f"{value:.3g}") for key, value in row.items()} for line, row in lines.items()}
    write_result("ray_workers", rounded)


if __name__ == "__main__":
    one(int(sys.argv[1]), sys.argv[2] == "1", Path(sys.argv[3])) if len(sys.argv) > 3 else main()
