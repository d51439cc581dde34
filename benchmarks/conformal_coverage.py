"""Do sets and intervals of kept models hold the truth as often as they say, in every pattern of missing modalities?

Made rows of three modalities, each absent in three rows of ten by itself, of very different worth, so that a model is
far better where the first is there. ``weft compare`` trains and chooses on train and dev rows (dev rows stop the
training, choose the settings and the model, *and* set the thresholds: the way a user gets them); the model kept answers
10,000 rows it has not seen. Shares are percent of rows inside, mean over draws; ``off`` is the largest distance of such
a mean from the promise, ``within 2 points`` the share of single draws and patterns that are: a threshold from ``n`` dev
rows is off by about the root of ``p (1 - p) / n`` in one draw. Patterns are named by what they lack.

    python benchmarks/conformal_coverage.py [draws] [dev rows]
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from harness import set_threads, write_result

from weft.compare import CompareConfig, compare
from weft.models import load_model
from weft.models.missing import scores_as_they_come
from weft.store import MemoryFeatures
from weft.tasks.conformal import LEVELS

TRAIN, TEST, WORTH = 1500, 10_000, (0.7, 1.2, 2.5)
CONFIG = CompareConfig(
    only=["linear", "boosting", "gated"],
    without=["? (*"],
    fusions=["gated"],
    subsets=False,
    decisions=[],
    seeds=1,
    trials=1,
    dim=16,
    resamples=99,
    ensembles=False,
    train={"epochs": 12, "patience": 4, "lr": 3e-3},
)


def rows_of(task: str, dev: int, seed: int) -> MemoryFeatures:
    """Three noisy views of a value; the target is the value, or the quarter it lies in."""
    rng = np.random.default_rng(seed)
    count = TRAIN + dev + TEST
    value = rng.normal(size=count)
    parts = {}
    there = rng.random((count, 3)) > 0.3
    there[~there.any(axis=1), 2] = True
    for k, noise in enumerate(WORTH):
        view = value[:, None] * rng.choice([-1.0, 1.0], 4) + noise * rng.standard_t(5, (count, 4))
        view[~there[:, k]] = np.nan
        parts["abc"[k]] = view.astype(np.float32)
    target = value + 0.3 * rng.standard_t(4, count)
    if task == "classification":
        target = np.digitize(target, [-0.8, 0.0, 0.8])
    split = np.repeat(["train", "dev", "test"], [TRAIN, dev, TEST])
    return MemoryFeatures([str(i) for i in range(count)], parts, {"y": target}, split=split, task=task)


def measure(task: str, draws: int, dev: int) -> dict[str, Any]:
    """Coverage by level and pattern."""
    inside: dict[float, dict[str, list[float]]] = {level: defaultdict(list) for level in LEVELS}
    kept: dict[str, int] = defaultdict(int)
    for seed in range(draws):
        features = rows_of(task, dev, seed)
        test = np.arange(TRAIN + dev, len(features))
        with tempfile.TemporaryDirectory() as folder:
            found = compare(features, CONFIG, Path(folder), progress=False)
            model = load_model(found.best)
        kept[str(found.verdict.winner)] += 1
        for level in LEVELS:
            scores = scores_as_they_come(model, features, test, level)
            for pattern, entry in scores.items():
                inside[level][pattern or "nothing"].append(100 * entry["covered"])
            everyone = sum(entry["rows"] * entry["covered"] for entry in scores.values()) / len(test)
            inside[level]["all rows"].append(100 * everyone)
        print(task, seed, {k: round(v[-1], 1) for k, v in inside[0.9].items()}, flush=True)
    figures: dict[str, Any] = {f"{task}, model kept": dict(kept)}
    for level, patterns in inside.items():
        off = np.array([np.abs(np.array(shares) - 100 * level) for shares in patterns.values()])
        means = {name: round(float(np.mean(shares)), 1) for name, shares in patterns.items()}
        summary = {
            "off": round(max(abs(mean - 100 * level) for mean in means.values()), 1),
            "within 2 points": round(float((off <= 2).mean()), 3),
        }
        figures[f"{task}, {100 * level:.0f} % promised, by what rows lack"] = {**means, **summary}
    return figures


def main(draws: int = 4, dev: int = 10_000) -> None:
    """Both tasks, written to results."""
    set_threads(1)
    sizes = {"train": TRAIN, "dev": dev, "test": TEST, "draws": draws}
    figures = {
        key: value for task in ("classification", "regression") for key, value in measure(task, draws, dev).items()
    }
    write_result("conformal_coverage", {"rows": sizes, **figures})


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
