"""What a comparison of all operators spends outside the networks, by this code and by an earlier one, in CPU seconds.

CMU-MOSI's features of utterances (text, audio, video; 2,199 rows), every operator that suits them, single modalities,
linear and boosted models, ensembles: one process and one thread, a fresh one for each run, the sides alternating. The
time of each part is its own, without that of the parts it calls; *rest* is what no part claims (imports among it).
Networks are few epochs here, so their share is smaller than in a real comparison. The comparison's figures are equal.

The goal was half of the CPU time of all operators. It is not met and cannot be met in this way: networks are most of
it, and their loop is .88 to 1.06 times as fast as the least written by hand (``benchmarks/training_loop.py``); seeds
trained at once by ``torch.func`` are slower at the usual batches (``benchmarks/seeds_together.py``). All else was cut
to a third since 807a3ba, the code in which the goal was set: with 26 operators, five seeds and five epochs 40 of 116
CPU seconds, now 12 of 86, though more methods are tried (``--fusions``, one run of each side; parts that the old code
has under other names count as its *rest*).

Of the later of two steps, by parts: the largest part asks which operators suit and what each costs, on tensors without
memory (1.7 s, more than half of it torch's own set-up, paid once; it stays); then the modules of all published networks
were imported in every process to name a task (1.1 s; gone), and every job hashed all ids and learned the scales anew
(0.4 s; done once now).

python benchmarks/comparing.py [--before CHECKOUT] [--runs 2] [--seeds 2] [--epochs 5]   ($WEFT_DATA)

``--fusions``: these alone, and no subsets of the modalities nor a model fitted again at the end, which an old checkout
does not have; its figures may differ then, and that is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import numpy as np

PARTS = {
    "import": ["weft.registry._import_all"],
    "does it suit, what does it cost": ["weft.compare.methods.unsuited", "weft.compare.costs._flops"],
    "networks": ["weft.training.loop._Loop.run", "weft.models.fused.FusedModel.outputs"],
    "before the first step": ["weft.training.loop._Loop.__init__"],
    "linear": ["weft.compare.jobs.linear_path", "weft.models.linear.LinearModel.outputs"],
    "boosting": [
        "weft.models.boosted._lightgbm",
        "weft.models.boosted._LightGBM",
        "weft.models.boosted._LightGBM.grow",
    ],
    "pooling and scaling for these": ["weft.models.pooled.PooledInputs.fit", "weft.models.pooled.PooledInputs.matrix"],
    "keys, hashes, files": ["weft.compare.ledger.Ledger." + n for n in ("key", "get", "put")]
    + ["weft.compare.jobs.Setup.seen"],
    "FLOPs of what was trained": ["weft.compare.jobs._cost"],
    "tests and verdict": ["weft.compare.rounds.Rounds." + n for n in ("_evidence", "_answer", "_ensembles")],
}
TIMES = ("seconds", "train_seconds", "latency", "folder")
"""What differs from run to run."""


class Meter:
    """CPU seconds by part, each without the parts it calls."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.stack, self.since = ["rest"], time.process_time()

    def switch(self) -> None:
        now = time.process_time()
        self.spent[self.stack[-1]] += now - self.since
        self.since = now

    def within(self, part: str, call: Callable[[], Any]) -> Any:
        self.switch()
        self.stack.append(part)
        try:
            return call()
        finally:
            self.switch()
            self.stack.pop()

    def wrap(self, part: str, name: str) -> None:
        """Measure a function or a method, where this code has it."""
        owner: Any = None
        parts = name.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            try:
                owner = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            break
        for step in parts[cut:-1]:
            owner = getattr(owner, step, None)
        found = getattr(owner, parts[-1], None)
        if isinstance(found, type):
            owner, parts, found = found, ["__init__"], found.__init__
        if found is None:
            return
        if isinstance(owner, type) and isinstance(owner.__dict__.get(parts[-1]), classmethod):
            inner = owner.__dict__[parts[-1]].__func__
            setattr(owner, parts[-1], classmethod(lambda *a, **k: self.within(part, lambda: inner(*a, **k))))
        elif isgeneratorfunction(found):
            setattr(owner, parts[-1], lambda *a, **k: self.walk(part, found(*a, **k)))
        else:
            setattr(owner, parts[-1], lambda *a, **k: self.within(part, lambda: found(*a, **k)))

    def walk(self, part: str, items: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self.within(part, lambda: next(items, end))) is not end:
            yield item


def run(seeds: int, epochs: int, fusions: list[str]) -> None:
    """One comparison in this process; its last line is ``{"spent": ..., "found": ...}``."""
    import torch

    from weft.allocator import keep_freed_memory
    from weft.compare import CompareConfig, compare
    from weft.data import load_dataset
    from weft.encoders import create_encoder, default_encoder
    from weft.store import encode

    keep_freed_memory()
    torch.set_num_threads(1)
    data = load_dataset("mosi", root=Path(os.environ.get("WEFT_DATA", "../shared/data")) / "mosi")
    encoders = {n: create_encoder(default_encoder(m.kind), m.kind) for n, m in data.modalities.items()}
    settings = {"seeds": seeds, "trials": 1, "options": {"tfn": {"subnet": 32}}, "train": {"epochs": epochs}}
    new = {"refit": False} | ({"subsets": False} if fusions else {})
    settings |= {name: value for name, value in new.items() if name in CompareConfig.model_fields}
    with tempfile.TemporaryDirectory() as folder:
        store = encode(data, encoders, Path(folder) / "store", progress=False)
        meter = Meter()
        for part, names in PARTS.items():
            for name in names:
                meter.wrap(part, name)
        found = compare(store, CompareConfig(fusions=fusions, **settings), Path(folder) / "compare", progress=False)
        meter.switch()
    print(json.dumps({"spent": meter.spent, "found": figures(json.loads(found.to_json()))}))


def figures(value: Any) -> Any:
    """All but times."""
    if isinstance(value, dict):
        return {key: figures(item) for key, item in value.items() if key not in TIMES}
    return [figures(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--fusions", nargs="+", default=[])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run(arguments.seeds, arguments.epochs, arguments.fusions)
        return
    from harness import write_result

    here = Path(__file__).resolve().parents[1]
    sides = {"now": here} | ({"before": arguments.before.resolve()} if arguments.before else {})
    spent: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    seen = []
    for number in range(arguments.runs):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            words = ["--child", "--seeds", str(arguments.seeds), "--epochs", str(arguments.epochs)]
            words += ["--fusions", *arguments.fusions] if arguments.fusions else []
            environment = {**os.environ, "PYTHONPATH": str(sides[side] / "src"), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, __file__, *words], env=environment, capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            spent[side].append(found["spent"])
            seen.append(found["found"])
            print(side, {part: round(value, 2) for part, value in found["spent"].items()}, flush=True)
    same = all(found == seen[0] for found in seen)
    if not same and not arguments.fusions:
        raise SystemExit("the comparisons differ in their figures")
    rows = [*PARTS, "rest"]
    table = {
        f"CPU s, {part}": {s: round(float(np.median([r.get(part, 0.0) for r in runs])), 2) for s, runs in spent.items()}
        for part in rows
    }
    totals = {side: [round(sum(run.values()), 1) for run in runs] for side, runs in spent.items()}
    settings: dict[str, Any] = {"seeds": arguments.seeds, "epochs": arguments.epochs}
    if arguments.fusions:
        settings |= {"fusions": len(arguments.fusions), "the same figures": same}
    name = "comparing_fusions" if arguments.fusions else "comparing"
    write_result(name, {"settings": settings, **table, "CPU s, all of it, each run": totals})


if __name__ == "__main__":
    main()
