"""How often ``weft compare`` claims that several modalities gain: on sets where they cannot, and where they must.

Generated sets of each kind: ``redundant`` (two rotations of one latent), ``noise`` (nothing predicts), ``strong`` (one
modality predicts, beside two that are noise), ``xor`` (only both together predict). A claim is the outcome "helps" (a
fusion network) or "together" (a classical model on several modalities). The promise: at most 5 in 100 on the first
three, at least 95 on the last. Small sets and quick training (see ``CONFIG``): two operators, linear and boosted models
on all, on one and on subsets of the modalities, the ensemble of all and that of single modalities; the rule is the one
every comparison uses. With ``python benchmarks/verdict_calibration.py 100 1``:

Run: sets per kind, processes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from harness import set_threads, write_result

from weft.compare import CompareConfig
from weft.compare.ensembles import build
from weft.compare.evidence import Evidence
from weft.compare.jobs import run_job
from weft.compare.ledger import Job
from weft.compare.methods import ensemble_methods, plan_methods, subset_methods
from weft.compare.prepare import prepare
from weft.compare.verdict import Verdict, decide
from weft.data import load_dataset
from weft.store import MemoryFeatures

ROWS = 400
PROMISE = {"redundant": (0, 5), "noise": (0, 5), "strong": (0, 5), "xor": (95, 100)}
OPTIONS: dict[str, tuple[str, dict[str, str]]] = {"strong": ("unique", {"which": "a"})}
CLAIMS = ("helps", "together")
CONFIG = CompareConfig(
    fusions=["concat", "tfn"],
    decisions=[],
    seeds=2,
    trials=1,
    dim=16,
    resamples=1999,
    train={"epochs": 15, "lr": 1e-2, "patience": 5, "batch_size": 64},
)


def verdict_on(kind: str, seed: int) -> Verdict:
    """The verdict on one generated set."""
    name, options = OPTIONS.get(kind, (kind, {}))
    dataset = load_dataset(name, rows=ROWS, seed=seed, **options)
    vectors = {name: np.stack(list(modality.values)) for name, modality in dataset.modalities.items()}
    features = MemoryFeatures(dataset.ids, vectors, dataset.targets, task=dataset.task)
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(features, CONFIG, Path(folder))
        methods = [*plan_methods(features, CONFIG)[0], *subset_methods(features, CONFIG)]
        plan = {m.name: [Job(m, s, 0) for s in range(CONFIG.seeds if m.random else 1)] for m in methods}
        for jobs in plan.values():
            for job in jobs:
                run_job(setup, job)
        able = [method for method in methods if method.family != "chance"]
        for method in ensemble_methods(features, CONFIG):
            members = [m for m in able if m.role == "single"] if method.role == "ensemble of singles" else able
            built = build(setup, method, members, plan, 0)
            if built is not None:
                methods.append(method)
                plan[method.name] = [built]
        return decide(Evidence(setup, methods, plan))


def main(sets: int = 100, workers: int = 1) -> None:
    """Run all sets and write the counts."""
    figures = {}
    pool = ProcessPoolExecutor(workers, initializer=set_threads, initargs=(1,))
    for kind, (fewest, most) in PROMISE.items():
        started = time.perf_counter()
        verdicts = list(pool.map(partial(verdict_on, kind), range(sets)))
        claims = [seed for seed, verdict in enumerate(verdicts) if verdict.outcome in CLAIMS]
        gains = [verdict.gain.gain for verdict in verdicts if verdict.gain is not None]
        share = 100 * len(claims) / sets
        figures[kind] = {
            "sets": sets,
            "claims": len(claims),
            "claimed_seeds": claims,
            "promise_percent": [fewest, most],
            "kept": fewest <= share <= most,
            "gain_quartiles": np.percentile(gains, [0, 25, 50, 75, 100]).tolist(),
            "p_below_0.05": sum(v.gain is not None and v.gain.p < 0.05 and v.gain.gain > 0 for v in verdicts),
            "outcomes": {o: sum(v.outcome == o for v in verdicts) for o in sorted({v.outcome for v in verdicts})},
            "wall_s": time.perf_counter() - started,
        }
        print(f"{kind}: a gain is claimed in {len(claims)} of {sets} sets (promise: {fewest} to {most} %)", flush=True)
        write_result(
            "verdict_calibration", {"rows": ROWS, "config": CONFIG.model_dump(mode="json"), "figures": figures}
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
