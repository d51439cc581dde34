"""RGB-D saliency on rgbd_potholes: MutualFormer against one modality, concatenation and plain cross-attention.
The tables are in ``docs/results/saliency.md``.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/saliency_potholes.py [--fold-seeds 3]

Two runs of ``weft saliency compare`` at equal backbone and budget: the given 47/20 split, and five folds by scene
(potholes_scenes.txt: which photos show one place, by eye). Finished jobs are kept under runs/saliency_potholes, so a
killed run goes on (75 of its 90 jobs are the folds', half a minute of one free core each); the tables go to
docs/results/saliency.md between its markers, the figure beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from harness import write_result
from real_comparisons import RESULTS, ROOT, WEFT, variables

from weft.compare.saliency import map_path
from weft.data import make_splits
from weft.data.files import read_grey
from weft.data.rgbd_saliency import RgbdSaliency, read_rgbd_saliency, resized
from weft.report.saliency import draw_maps, spread
from weft.tasks.saliency import score_map, summarise

RUNS = ROOT / "runs" / "saliency_potholes"
PAGE = RESULTS / "saliency.md"
SCENES = Path(__file__).with_name("potholes_scenes.txt")
SETTINGS = "--size 128 --width 32 --freeze --set epochs=20 --set batch_size=8 --set lr=0.003 --set patience=0"
RUN_OPTIONS = {
    "split": ("The given split: 47 training photos, 20 test photos", ""),
    "folds": ("Five folds by scene, all 67 photos", "--folds 5"),
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


def run(name: str, root: Path) -> dict[str, Any]:
    """One comparison by the verb."""
    backbone = f"{variables()['WEFT_MODELS']}/mobilenet_v2_1.0_224"
    command = [WEFT, "saliency", "compare", str(root), "--backbone", backbone, "-o", str(RUNS / name), "--json"]
    more = ["--scenes", str(SCENES), *SETTINGS.split(), "--seeds", str(SEEDS[name]), *RUN_OPTIONS[name][1].split()]
    return json.loads(subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True).stdout)


def table(title: str, found: dict[str, Any]) -> list[str]:
    """Means and standard deviations over the seeds, and the paired differences."""
    lines = [f"**{title}**", "", f"| {HEADER} |", "| --- |" + " ---: |" * HEADER.count("|")]
    for name, label in NAMES.items():
        values = found["metrics"][name].values()
        metrics = [f"{np.mean(v):.4f}" + (f" ± {np.std(v, ddof=1):.4f}" if len(v) > 1 else "") for v in values]
        gain, job = found["gains"].get(name), found["jobs"][name]
        tests = [""] * 3
        if gain:
            s, mae = gain["S"], gain["MAE"]
            tests = [f"{s['gain']:+.4f} ({s['low']:+.4f} to {s['high']:+.4f})", f"{s['p_holm']:.4f}"]
            tests.append(f"{mae['gain']:+.4f}, {mae['p_holm']:.4f}")
        cells = [label, *metrics, *tests, f"{job['weights']:,.0f}", f"{job['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def judged(data: RgbdSaliency, name: str, method: str, row: int) -> tuple[np.ndarray, float]:
    """The map of a row that lies in the middle of the seeds by S, and the mean S of the seeds."""
    maps = [read_grey(map_path(RUNS / name, method, seed, data.ids[row])) for seed in range(SEEDS[name])]
    scores = [score_map(m.astype(np.uint8), data.mask(row)).s for m in maps]
    return maps[int(np.argsort(scores)[len(scores) // 2])] / 255, float(np.mean(scores))


def leak(data: RgbdSaliency) -> tuple[list[str], dict[str, Any]]:
    """The 20 test photos under both protocols, those whose scene the given split trains on apart from the others."""
    plain = read_rgbd_saliency(data.photos[0].parents[1])
    split = make_splits(plain)
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
            s = [float(np.mean([judged(data, name, method, int(row))[1] for row in rows])) for name in RUN_OPTIONS]
            figures[f"{len(rows)}: {part}"] = {**figures.get(f"{len(rows)}: {part}", {}), method: s}
            lines.append(f"| {len(rows)}: {part} | {label} | {s[0]:.3f} | {s[1]:.3f} |")
    return [*lines, ""], figures


def ceiling(data: RgbdSaliency, side: int) -> dict[str, float]:
    """What the truth itself scores after a detour through ``side`` x ``side`` grey cells."""
    scores = []
    for row in range(len(data)):
        mask = data.mask(row)
        scores.append(score_map(resized(resized(mask, (side, side)), mask.shape).clip(0, 1), mask))
    return summarise(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold-seeds", type=int, default=3)
    SEEDS["folds"] = parser.parse_args().fold_seeds
    root = Path(variables()["WEFT_DATA"]) / "rgbd_potholes"
    found = {name: run(name, root) for name in RUN_OPTIONS}
    data = read_rgbd_saliency(root, scenes=SCENES)
    text = [line for name, (title, _) in RUN_OPTIONS.items() for line in table(title, found[name])]
    lines, figures = leak(data)
    results = {name: {key: one[key] for key in ("metrics", "gains", "jobs")} for name, one in found.items()}
    figures = {
        "settings": SETTINGS,
        "seeds": SEEDS,
        "runs": results,
        "test_photos_by_scene": figures,
        "ceiling": ceiling(data, 32),
    }
    write_result("saliency_potholes", figures)
    s = [judged(data, "folds", "mutualformer", row)[1] for row in range(len(data))]
    rows = spread(s, 6)
    drawn = {label: [judged(data, "folds", name, row) for row in rows] for name, label in NAMES.items()}
    maps = {label: [one[0] for one in column] for label, column in drawn.items()}
    scores = {label: [one[1] for one in column] for label, column in drawn.items()}
    draw_maps(data, rows, maps, scores, RESULTS / "figures" / "saliency.png")
    head, _, rest = PAGE.read_text().partition("<!-- tables -->\n")
    tail = rest.partition("<!-- end -->")[2]
    PAGE.write_text(f"{head}<!-- tables -->\n\n" + "\n".join([*text, *lines]) + f"\n<!-- end -->{tail}")
    print("\n".join([*text, *lines]))


if __name__ == "__main__":
    main()
