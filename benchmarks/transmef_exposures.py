"""TransMEF, small, on photos exposed wrongly in places, beside averages, exposure fusion and itself with less to learn.
The tables are in ``docs/results/transmef.md``.

    WEFT_DATA=... python benchmarks/transmef_exposures.py [--seeds 3] [--epochs 16]

Every network learns to restore 160 photos of Flickr8k, grey squares of 32 pixels, and chooses its epoch on 20 others.
Of 100 photos that nobody saw two copies are made, each too dark or too bright in six rectangles of 3 to 10 pixels
(gamma 2 to 4, or its inverse); what is fused of the two is judged beside the photo. *Wrong everywhere*: one copy under
gamma 2.5, the other under .4. *Two focuses*: a line through the photo, one copy blurred on one side of it, the other on
the other. Then real pairs, which have no truth: exposures of the MEFB set, visible light and infrared of RoadScene.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from harness import fill_page, write_result
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from weft.allocator import keep_freed_memory
from weft.compare.statistics import sign_flip_test
from weft.data import Split, load_dataset
from weft.systems.transmef import TransMef, metrics
from weft.training.system_task import fit_system, make_system

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("WEFT_DATA", ROOT.parent / "shared" / "data"))
PAGE, FIGURES = ROOT / "docs" / "results" / "transmef.md", ROOT / "docs" / "results" / "figures"
SIDE, TRAIN, DEV, TEST = 32, 160, 20, 100
SMALL: dict[str, Any] = {
    "size": SIDE, "patch": 4, "depth": 2, "heads": 2, "head_width": 8, "mlp": 64, "dropout": 0.0, "largest": 0.3,
}  # fmt: skip
LEARNT: dict[str, dict[str, Any]] = {
    "TransMEF": {},
    "without gamma": {"tasks": ("fourier", "shuffle")},
    "without Fourier": {"tasks": ("gamma", "shuffle")},
    "without shuffle": {"tasks": ("gamma", "fourier")},
    "auto-encoder": {"tasks": ()},
    "TransMEF, AFF of encodings learned": {"rule": "aff"},
}
NAMED = ("mean", "max", "Mertens", "sharpest", "auto-encoder", "TransMEF", "TransMEF, AFF of encodings learned")
ROADS, WIDE = 20, 256
Pictures = list[np.ndarray]
Rule = Callable[[Sequence[np.ndarray]], np.ndarray]


def in_colour(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def mean(sources: Sequence[np.ndarray]) -> np.ndarray:
    return np.round(np.mean(sources, axis=0)).astype(np.uint8)


def largest(sources: Sequence[np.ndarray]) -> np.ndarray:
    return np.max(sources, axis=0)


def mertens(sources: Sequence[np.ndarray]) -> np.ndarray:
    """Exposure fusion by Laplacian pyramids, Mertens et al. 2007, OpenCV's with its defaults."""
    fused = cv2.createMergeMertens().process([in_colour(s) for s in sources])
    fused = np.round(np.clip(fused, 0, 1) * 255).astype(np.uint8)
    return fused[..., 0] if all(s.ndim == 2 for s in sources) else fused


def sharpest(sources: Sequence[np.ndarray]) -> np.ndarray:
    """Each pixel of the source with the larger mean energy of its Laplacian in 7 x 7, as focus stacks are joined."""
    greys = [s if s.ndim == 2 else cv2.cvtColor(s, cv2.COLOR_RGB2GRAY) for s in sources]
    energy = [cv2.blur(cv2.Laplacian(grey, cv2.CV_64F) ** 2, (7, 7)) for grey in greys]
    best = np.argmax(energy, axis=0)
    return np.choose(best if sources[0].ndim == 2 else best[..., None], sources)


CLASSICAL: dict[str, Rule] = {"mean": mean, "max": largest, "Mertens": mertens, "sharpest": sharpest}


def in_places(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy too dark or too bright in six rectangles."""
    out = truth / 255
    for _ in range(6):
        tall, wide = rng.integers(3, 11, 2)
        top, left = rng.integers(0, SIDE - tall + 1), rng.integers(0, SIDE - wide + 1)
        power = rng.uniform(2, 4) ** rng.choice([-1, 1])
        place = np.s_[top : top + tall, left : left + wide]
        out[place] = (truth[place] / 255) ** power
    return np.round(out * 255).astype(np.uint8)


def everywhere(truth: np.ndarray, power: float) -> np.ndarray:
    return np.round((truth / 255) ** power * 255).astype(np.uint8)


def two_focuses(truth: np.ndarray, rng: np.random.Generator) -> Pictures:
    """One copy blurred (Gaussian, 1.5 pixels) on one side of a line through the middle part, one on the other."""
    blurred = cv2.GaussianBlur(truth, (0, 0), 1.5)
    angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.65, 2) * SIDE
    rows, columns = np.indices(truth.shape)
    side = (rows - at[0]) * np.cos(angle) + (columns - at[1]) * np.sin(angle) > 0
    return [np.where(side, truth, blurred), np.where(side, blurred, truth)]


def judged(rule: Rule, pairs: Sequence[Pictures], truth: Pictures) -> dict[str, np.ndarray]:
    """SSIM and PSNR in dB of every fused picture to its truth."""
    fused = [rule(pair) for pair in pairs]
    wrong = [np.mean((f.astype(float) - t) ** 2) for f, t in zip(fused, truth, strict=True)]
    ssim = [metrics.ssim(t.astype(float), f.astype(float)) for f, t in zip(fused, truth, strict=True)]
    return {"SSIM": np.array(ssim), "PSNR": 10 * np.log10(255**2 / np.maximum(wrong, 1e-3))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    photos = load_dataset("photos", DATA / "flickr8k" / "Images")
    order = np.random.default_rng(0).permutation(len(photos))
    split = Split(order[:TRAIN], order[TRAIN : TRAIN + DEV], order[TRAIN + DEV : TRAIN + DEV + TEST])
    cut, rng = TransMef(**SMALL), np.random.default_rng(1)
    squares = cut.batch(photos, split.test)["photo"][:, 0].numpy()
    truth = list((squares * 255).round().astype(np.uint8))
    sets = {
        "in places": [[in_places(t, rng), in_places(t, rng)] for t in truth],
        "everywhere": [[everywhere(t, 2.5), everywhere(t, 0.4)] for t in truth],
        "two focuses": [two_focuses(t, rng) for t in truth],
    }
    roads = load_dataset("exposures", DATA / "roadscene")
    some = np.random.default_rng(2).permutation(len(roads))[:ROADS]
    real = {
        "real": TransMef.truth(load_dataset("exposures", DATA / "mefb"), np.arange(8)),
        "infrared": [
            [cv2.resize(in_colour(x), (WIDE, WIDE), interpolation=cv2.INTER_AREA) for x in pair]
            for pair in TransMef.truth(roads, some)
        ],
    }
    found: dict[str, list[dict[str, Any]]] = {}
    rules: dict[str, Rule] = dict(CLASSICAL)

    def measure(name: str, rule: Rule) -> None:
        scores: dict[str, Any] = {key: judged(rule, pairs, truth) for key, pairs in sets.items()}
        for key, pairs in real.items() if name in NAMED else ():
            rows = [metrics.score_picture(rule(sources), sources) for sources in pairs]
            scores[key] = {metric: [row[metric] for row in rows] for metric in rows[0]}
        found.setdefault(name, []).append(scores)
        means = {key: {m: round(float(np.mean(v)), 4) for m, v in s.items()} for key, s in scores.items()}
        print(name, means, flush=True)

    for name, rule in CLASSICAL.items():
        measure(name, rule)
    seconds: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        for name, options in LEARNT.items():
            start = time.process_time()
            model = make_system("transmef", photos, split.train, seed=seed, **{**SMALL, **options})
            settings = {"epochs": given.epochs, "batch_size": 2, "lr": 2e-3, "patience": 0, "seed": seed}
            fit_system(model, photos, split, settings, progress=False)
            seconds.setdefault(name, []).append(time.process_time() - start)
            measure(name, model.eval().fuse)
            rules.setdefault(name, model.fuse)
            if name == "TransMEF":
                for rule in ("max", "attention"):
                    model.network.rule = rule
                    measure(f"TransMEF, {rule} of encodings", model.fuse)
                model.network.rule = "mean"
        report(found, seconds, given.epochs)
    drawn = {
        "places": (sets["in places"][:5], ("mean", "Mertens", "auto-encoder", "TransMEF"), 1.5),
        "focuses": (sets["two focuses"][:5], ("mean", "Mertens", "sharpest", "TransMEF"), 1.5),
        "real": (real["real"][:4], ("mean", "Mertens", "auto-encoder", "TransMEF"), 2.6),
        "infrared": (real["infrared"][:4], ("mean", "max", "Mertens", "TransMEF"), 2.6),
    }
    for name, (pairs, shown, inches) in drawn.items():
        rows = [{"A": pair[0], "B": pair[1], **{n: rules[n](pair) for n in shown}} for pair in pairs]
        if inches < 2:
            rows = [{**row, "truth": t} for row, t in zip(rows, truth, strict=False)]
        draw(rows, FIGURES / f"transmef_{name}.png", inches)


def report(found: dict[str, list[dict[str, Any]]], seconds: dict[str, list[float]], epochs: int) -> None:
    """Fill the page's tables and keep every picture's score."""

    def cell(name: str, key: str, metric: str, digits: int) -> str:
        means = [float(np.mean(run[key][metric])) for run in found[name]]
        spread = f" ({min(means):.{digits}f} to {max(means):.{digits}f})" if len(means) > 1 else ""
        return f"{np.mean(means):.{digits}f}{spread}"

    titles = {"in places": "wrong in places", "everywhere": "wrong everywhere", "two focuses": "two focuses"}
    columns = [(key, metric) for key in titles for metric in ("SSIM", "PSNR")]
    head, rule = " | ".join(f"{metric}, {titles[key]}" for key, metric in columns), "|---" * 7 + "|"
    lines = [f"| | {head} |", rule]
    for name in found:
        cells = [cell(name, key, metric, 3 if metric == "SSIM" else 2) for key, metric in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| TransMEF less | {head} |", rule]
    for name in found:
        if name != "TransMEF":
            cells = []
            for key, metric in columns:
                ours, theirs = (np.mean([run[key][metric] for run in found[n]], axis=0) for n in ("TransMEF", name))
                gain = ours - theirs
                cells.append(f"{gain.mean():+.3f} (p {sign_flip_test(gain, np.arange(len(gain))):.3f})")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    runs, spent = len(seconds["TransMEF"]), ", ".join(f"{n} {np.mean(s):.0f} s" for n, s in seconds.items())
    lines += [
        "",
        f"{runs} seeds (lowest to highest), {epochs} epochs of {TRAIN} photos; CPU time of a training: {spent}. Paired"
        f" sign-flip tests over {TEST} photos, each network's score the mean over its seeds.",
        "",
    ]
    names = list(found["mean"][0]["real"])
    for key, title in (("real", "real exposures"), ("infrared", "visible and infrared")):
        lines += [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for name in (name for name, runs in found.items() if key in runs[0]):
            cells = [cell(name, key, metric, 3 if metric in names[:3] else 2) for metric in names]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    fill_page(PAGE, lines)
    kept = {
        name: [{key: {m: np.round(v, 5).tolist() for m, v in s.items()} for key, s in run.items()} for run in runs]
        for name, runs in found.items()
    }
    write_result("transmef_exposures", {"scores": kept, "seconds": seconds})


def draw(rows: Sequence[dict[str, np.ndarray]], path: Path, inches: float) -> None:
    figure = Figure(figsize=(inches * len(rows[0]), inches * 1.05 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for k, (axes, row) in enumerate(zip(figure.subplots(len(rows), len(rows[0]), squeeze=False), rows, strict=True)):
        for ax, (title, picture) in zip(axes, row.items(), strict=True):
            ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
            ax.axis("off")
            if k == 0:
                ax.set_title(title, fontsize=9)
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    main()
