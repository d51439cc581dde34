"""MERLOT Reserve on scripts whose answer is known: what frames, sound and script are each worth.

    python benchmarks/merlot_reserve.py made [--seeds 3] [--only 0]
    WEFT_DATA=... python benchmarks/merlot_reserve.py digits [--seeds 3]

``made``: the drawn world of ``made-scripts``. ``digits``: spoken and written digits (FSDD, MNIST). The rows stay, seeds
are of weights and training; a variant is trained without what it lacks. Runs are kept under runs/merlot_reserve.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import fill_page, set_threads, write_result

from weft.compare.statistics import holm, paired_gain
from weft.data import Dataset, Split, load_dataset, make_splits
from weft.systems.merlot_reserve import MerlotReserve
from weft.systems.merlot_reserve.world import known
from weft.training.system_task import fit_system, make_system

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "merlot_reserve.md"
RUNS = ROOT / "runs" / "merlot_reserve"
KEPT = {"made": "merlot_reserve_made", "digits": "merlot_reserve_digits"}
TRAIN, DEV, TEST = 4000, 100, 1200


def made() -> tuple[Dataset, Split, dict[str, Any], dict[str, Any]]:
    """Data, rows, options and settings."""
    data = load_dataset("made-scripts", rows=TRAIN + DEV + TEST)
    parts = np.split(np.arange(len(data)), [TRAIN, TRAIN + DEV])
    return data, Split(*parts), {}, {"epochs": 8}


def digits() -> tuple[Dataset, Split, dict[str, Any], dict[str, Any]]:
    """The same of real digits; the test rows have recordings and images of their own."""
    root = Path(os.environ.get("WEFT_DATA", ROOT.parent / "shared" / "data"))
    data = load_dataset("digit-scripts", root, rows=4000)
    options = {
        "rate": 8000, "fft": 512, "hop": 128, "mels": 32, "frames": 24, "seconds": 1.5, "patch": 7, "grid": (4, 4),
        "length": 32, "layers": (1, 2, 1, 1),
    }  # fmt: skip
    return data, make_splits(data), options, {"epochs": 12, "lr": 3e-3}


def run(world: str, variant: str, seed: int) -> dict[str, Any]:
    """Scores of the test rows, and what was asked of each; kept."""
    path = RUNS / f"{world}-{variant.replace(' ', '_')}-{seed}.json"
    if not path.exists():
        data, split, options, settings = {"made": made, "digits": digits}[world]()
        started = time.process_time()
        model = make_system(
            "merlot-reserve", data, split.train, seed=seed, **options, **MerlotReserve.variants[variant]
        )
        fit_system(model, data, split, {**settings, "seed": seed}, progress=False)
        outputs = np.stack(list(model.predictions(data, split.test)))
        judge = model.make_judge()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({
            "metrics": judge.metrics(outputs, None), "scores": judge.scores(outputs, None).tolist(),
            "asked": (split.test % 3).tolist(), "seconds": time.process_time() - started,
            "weights": sum(p.numel() for p in model.parameters()),
        }))  # fmt: skip
    found: dict[str, Any] = json.loads(path.read_text())
    print(world, variant, seed, found["metrics"], round(found["seconds"]), flush=True)
    return found


def write(world: str, seeds: int, titles: tuple[str, str, str], best: dict[str, float]) -> None:
    """The table of a world: accuracy by what is asked, and paired tests against the whole."""
    runs = {name: [run(world, name, seed) for seed in range(seeds)] for name in MerlotReserve.variants}
    scores = {name: np.array([one["scores"] for one in some]) for name, some in runs.items()}
    asked = np.array(runs["merlot-reserve"][0]["asked"])
    gains = {name: paired_gain(scores["merlot-reserve"], theirs) for name, theirs in scores.items()}
    others = [name for name in scores if name != "merlot-reserve"]
    corrected = dict(zip(others, holm(np.array([gains[name].p for name in others])), strict=True))
    lines = [f"| | accuracy | {' | '.join(titles)} | {'known at best | ' if best else ''}whole better by | p |",
             f"| --- |{' ---: |' * (6 + bool(best))}"]  # fmt: skip
    for name, theirs in scores.items():
        mean = theirs.mean(axis=1)
        kinds = [f"{theirs[:, asked == kind].mean():.2f}" for kind in range(3)]
        gain, p = gains[name], f"{corrected[name]:.4f}" if name in corrected else ""
        tested = (f"{gain.gain:.3f} ({gain.low:.3f} to {gain.high:.3f})" if p else "", p)
        cells = [f"{mean.mean():.3f} ({mean.min():.3f} to {mean.max():.3f})", *kinds]
        cells += [f"{best[name]:.2f}"] if best else []
        lines.append(f"| {name} | {' | '.join([*cells, *tested])} |")
    one = runs["merlot-reserve"][0]
    seconds = np.mean([r["seconds"] for some in runs.values() for r in some])
    lines += ["", f"{len(asked)} test rows, {seeds} seeds (mean, lowest to highest); the right words by chance "
              f"{one['metrics']['chance']:.2f}; {one['weights']:,} weights, {seconds / 60:.1f} CPU minutes a run; p of "
              "the paired sign-flip test over rows, Holm for three."]  # fmt: skip
    fill_page(PAGE, lines, world)
    write_result(KEPT[world], {"runs": {n: [r["metrics"] for r in some] for n, some in runs.items()}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=("made", "digits"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, help="train this seed alone, no table")
    asked = parser.parse_args()
    set_threads(1)
    if asked.only is not None:
        for variant in MerlotReserve.variants:
            run(asked.world, variant, asked.only)
    else:
        drawn = asked.world == "made"
        titles = (
            ("the tone", "the thing", "the way") if drawn else ("the spoken digit", "the written digit", "the speaker")
        )
        write(
            asked.world,
            asked.seeds,
            titles,
            {n: known(**o) for n, o in MerlotReserve.variants.items()} if drawn else {},
        )
