"""RGB-D saliency on rgbd_potholes: MutualFormer against one modality, concatenation and plain cross-attention.
The tables are in ``docs/results/saliency.md``.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/saliency_potholes.py [--fold-seeds 3]

Two comparisons of the system ``rgbd-saliency`` at equal backbone and budget: the given 47/20 split, and five folds by
scene (potholes_scenes.txt: which photos show one place, by eye). Finished jobs are kept under runs/saliency_potholes,
and a killed run goes on (75 of its 90 jobs are the folds', half a minute of one free core each); the tables go to
docs/results/saliency.md between its markers, the figure beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from harness import write_result
from real_comparisons import RESULTS, ROOT, variables

from weft.compare.systems import SystemComparison, compare_systems
from weft.data import Dataset, load_dataset, make_folds, make_splits
from weft.systems.images import resized
from weft.systems.rgbd_saliency import RgbdSaliency
from weft.systems.rgbd_saliency.figures import draw_maps, spread
from weft.systems.rgbd_saliency.metrics import Masks, score_map, summarise
from weft.systems.rgbd_saliency.reader import mask
from weft.training.config import TrainConfig

RUNS = ROOT / "runs" / "saliency_potholes"
PAGE = RESULTS / "saliency.md"
SCENES = Path(__file__).with_name("potholes_scenes.txt")
NETWORK = {"size": 128, "width": 32, "freeze": True}
SETTINGS = {"epochs": 20, "batch_size": 8, "lr": 0.003, "patience": 0}
FUSIONS = ("mutualformer", "attention", "concat", "rgb", "depth")
RUN_OPTIONS = {
    "split": "The given split: 47 training photos, 20 test photos",
    "folds": "Five folds by scene, all 67 photos",
}
SEEDS = {"split": 3, "folds": 3}
HEADER = (
    "fusion | S | max F | max E | MAE | MutualFormer's gain in S (95 % CI) | p (Holm) | its gain in MAE, p (Holm) | "
    "trained weights | s"
)
NAMES = {
    "mutualformer": "MutualFormer",
    "attention": "cross-attention",
    "concat": "concatenation",
    "depth": "depth alone",
    "rgb": "photo alone",
}


def photos(scenes: bool) -> Dataset:
    """The set; with ``scenes``, photos of one place are a group."""
    root = Path(variables()["WEFT_DATA"]) / "rgbd_potholes"
    return load_dataset("rgbd-saliency", root, scenes=SCENES if scenes else None)


def run(name: str, data: Dataset) -> SystemComparison:
    """One comparison; the rows of the given split are of known places, so only the tests heed the places there."""
    options = {"backbone": f"{variables()['WEFT_MODELS']}/mobilenet_v2_1.0_224", **NETWORK}
    splits = make_folds(data, 5) if name == "folds" else [make_splits(photos(False))]
    config = TrainConfig.of({**RgbdSaliency.trained_with, **SETTINGS})
    variants = {fusion: {"fusion": fusion} for fusion in FUSIONS}
    shared: dict[str, Any] = {"options": options, "seeds": SEEDS[name], "config": config, "folder": RUNS / name}
    return compare_systems("rgbd-saliency", data, splits, variants, **shared)


def table(title: str, found: SystemComparison) -> list[str]:
    """Means and standard deviations over the seeds, and the paired differences."""
    lines = [f"**{title}**", "", f"| {HEADER} |", "| --- |" + " ---: |" * HEADER.count("|")]
    rows = {row.method: row for row in found.rows}
    for name, label in NAMES.items():
        values = [found.metrics[name][key] for key in ("S", "max F", "max E", "MAE")]
        metrics = [f"{np.mean(v):.4f}" + (f" ± {np.std(v, ddof=1):.4f}" if len(v) > 1 else "") for v in values]
        gain, row = found.gains.get(name), rows[name]
        tests = [""] * 3
        if gain:
            s, mae = gain["S"], gain["MAE"]
            tests = [f"{-s['gain']:+.4f} ({-s['high']:+.4f} to {-s['low']:+.4f})", f"{s['p_holm']:.4f}"]
            tests.append(f"{-mae['gain']:+.4f}, {mae['p_holm']:.4f}")
        cells = [label, *metrics, *tests, f"{row.parameters:,}", f"{row.train_seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def judged(data: Dataset, found: SystemComparison, method: str, row: int) -> tuple[np.ndarray, float]:
    """The map of a row that lies in the middle of the seeds by S, and the mean S of the seeds."""
    place = found.ids.index(data.ids[row])
    three = [seed[place] for seed in found.outputs[method]]
    scores = [score_map(one, mask(data, row)).s for one in three]
    return three[int(np.argsort(scores)[len(scores) // 2])] / 255, float(np.mean(scores))


def leak(data: Dataset, runs: dict[str, SystemComparison]) -> tuple[list[str], dict[str, Any]]:
    """The 20 test photos under both protocols, those whose scene the given split trains on apart from the others."""
    split = make_splits(photos(False))
    assert data.group is not None
    known = {*data.group[split.train], *data.group[split.dev]}
    parts = {
        "other photos of the scene are trained on": [r for r in split.test if data.group[r] in known],
        "the scene is new": [r for r in split.test if data.group[r] not in known],
    }
    lines = ["| test photos | fusion | S, given split | S, folds by scene |", "| --- | --- | ---: | ---: |"]
    figures: dict[str, Any] = {}
    for part, rows in parts.items():
        for method, label in NAMES.items():
            s = [
                float(np.mean([judged(data, runs[name], method, int(row))[1] for row in rows])) for name in RUN_OPTIONS
            ]
            figures[f"{len(rows)}: {part}"] = {**figures.get(f"{len(rows)}: {part}", {}), method: s}
            lines.append(f"| {len(rows)}: {part} | {label} | {s[0]:.3f} | {s[1]:.3f} |")
    return [*lines, ""], figures


def ceiling(data: Dataset, side: int) -> dict[str, float]:
    """What the truth itself scores after a detour through ``side`` x ``side`` grey cells."""
    scores = []
    for row in range(len(data)):
        truth = mask(data, row)
        scores.append(score_map(resized(resized(truth, (side, side)), truth.shape).clip(0, 1), truth))
    return summarise(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold-seeds", type=int, default=3)
    SEEDS["folds"] = parser.parse_args().fold_seeds
    data = photos(True)
    found = {name: run(name, data) for name in RUN_OPTIONS}
    text = [line for name, title in RUN_OPTIONS.items() for line in table(title, found[name])]
    lines, by_scene = leak(data, found)
    figures = {
        "settings": {**NETWORK, **SETTINGS},
        "seeds": SEEDS,
        "runs": {name: one.to_dict() for name, one in found.items()},
        "test_photos_by_scene": by_scene,
        "ceiling": ceiling(data, 32),
    }
    write_result("saliency_potholes", figures)
    s = [judged(data, found["folds"], "mutualformer", row)[1] for row in range(len(data))]
    rows = spread(s, 6)
    drawn = {label: [judged(data, found["folds"], name, row) for row in rows] for name, label in NAMES.items()}
    chosen = Masks(data, np.array(rows), RgbdSaliency.columns(data))
    shown, ids = [chosen.shown(i) for i in range(len(rows))], [data.ids[row] for row in rows]
    columns = {label: [one[0] for one in column] for label, column in drawn.items()}
    scores = {label: [one[1] for one in column] for label, column in drawn.items()}
    draw_maps(shown, ids, columns, scores, RESULTS / "figures" / "saliency.png")
    head, _, rest = PAGE.read_text().partition("<!-- tables -->\n")
    tail = rest.partition("<!-- end -->")[2]
    PAGE.write_text(f"{head}<!-- tables -->\n\n" + "\n".join([*text, *lines]) + f"\n<!-- end -->{tail}")
    print("\n".join([*text, *lines]))


if __name__ == "__main__":
    main()
