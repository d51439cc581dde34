"""Re-identification on ``spectra``: MutualFormer against one spectrum, sums, and plain cross-attention.
The tables are in ``docs/results/reid.md``.

    python benchmarks/reid_spectra.py

Same tiny ViT from random weights, same budget, three seeds (each draws the set, the held-out identities and the
weights); mAP and CMC on vehicles never seen in training, and what stands first where the answer is wrong. A killed run
goes on from runs/reid_spectra: 21 trainings of about a minute on one free core.
"""

from __future__ import annotations

import json
import time
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness import set_threads, write_result
from real_comparisons import RESULTS, ROOT

from weft.data import Dataset, make_splits
from weft.systems.cross_spectral_reid.metrics import reid_metrics
from weft.systems.cross_spectral_reid.spectra import Spectra
from weft.training.system_task import fit_system, make_system

RUNS = ROOT / "runs" / "reid_spectra"
PAGE = RESULTS / "reid.md"
SEEDS = range(3)
VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
SETTINGS = {"epochs": 60, "batch_size": 64, "lr": 1e-3, "patience": 0}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MutualFormer": ("mutualformer", {}),
    "plain cross-attention": ("attention", {}),
    "no exchange between spectra": ("mutualformer", {"cross": "none"}),
    "concatenation": ("concat", {}),
    "CAM weighting": ("cam", {}),
    "rgb alone": ("rgb", {}),
    "nir alone": ("nir", {}),
}
METRICS = ("mAP", "CMC-1", "CMC-5")
CEILINGS = {
    "rgb": "ideal eye, paints (rgb alone)",
    "nir": "ideal eye, marks (nir alone)",
    "sum": "ideal eye, paints and marks",
}
FIRST = ("itself", "its twin", "same paints", "same marks", "another")
COLOURS = ("#2a6f97", "#e07a5f", "#bbbbbb", "#888888", "#444444")


def search_rows(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the queries and of the gallery."""
    query, gallery = (np.flatnonzero(data.targets["part"] == part) for part in ("query", "gallery"))
    return query, gallery


def first_found(source: Spectra, data: Dataset, queries: np.ndarray, gallery: np.ndarray) -> list[float]:
    """How often each of ``FIRST`` stands first in the ranking of a query, as shares."""
    rows = search_rows(data)
    (qi, gi), (qc, gc) = ([data.targets[name][r] for r in rows] for name in ("identity", "camera"))
    q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery))
    similarity = q @ g.T
    similarity[(qi[:, None] == gi) & (qc[:, None] == gc)] = -np.inf
    found, codes = gi[similarity.argmax(axis=1)] - 1, source.codes()
    alike = [codes[name][found] == codes[name][qi - 1] for name in ("bound", "sum", "rgb", "nir")]
    kinds = np.select(alike, range(4), 4)
    return [float((kinds == kind).mean()) for kind in range(len(FIRST))]


def run(label: str, seed: int) -> dict[str, Any]:
    """Train and evaluate once; a finished run is read."""
    folder = RUNS / f"{label.replace(' ', '-')}-{seed}"
    kept = folder / "result.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    source = Spectra(seed=seed)
    data = source.make()
    split = make_splits(data, seed=seed)
    fusion, block = METHODS[label]
    options = {"encoder": VIT, "size": (32, 32), "fusion": fusion, "block": {"heads": 4, **block}, "smoothing": 0.1}
    model = make_system("cross-spectral-reid", data, split.train, seed=seed, augment=False, **options)
    started = time.process_time()
    history = fit_system(model, data, split, {**SETTINGS, "seed": seed}, folder, progress=False)
    seconds = time.process_time() - started
    queries, gallery = (np.stack(list(model.predictions(data, rows))) for rows in search_rows(data))
    result = {
        **model.evaluate(data, np.concatenate(search_rows(data))),
        "first": first_found(source, data, queries, gallery),
        "weights": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_s": seconds,
        "best_epoch": history.best_epoch,
        "dev_mAP": history.best["dev_score"],
    }
    kept.write_text(json.dumps(result))
    print(label, seed, {key: result[key] for key in (*METRICS, "cpu_s", "first")}, flush=True)
    return result


def ceiling(code: str, draws: int = 20) -> dict[str, float]:
    """What an ideal eye reaches, vehicles that look alike to it being ordered at random."""
    found = []
    for seed in SEEDS:
        source, random = Spectra(seed=seed), np.random.default_rng(seed)
        data, codes = source.make(), source.codes()[code]
        rows = search_rows(data)
        labels = [data.targets[name][r] for name in ("identity", "camera") for r in rows]
        for _ in range(draws):
            seen = [np.eye(codes.max() + 1)[codes[data.targets["identity"][r] - 1]] for r in rows]
            noisy = [x + 1e-3 * random.normal(size=x.shape) for x in seen]
            found.append(reid_metrics(*noisy, *labels))
    return {name: float(np.mean([one[name] for one in found])) for name in METRICS}


def tables(found: dict[str, list[dict[str, Any]]], ceilings: dict[str, dict[str, float]]) -> list[str]:
    """Markdown: metrics, and what stands first."""

    def cell(values: list[float], digits: int = 3) -> str:
        return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"

    lines = ["| | mAP | CMC-1 | CMC-5 | weights | CPU s |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for label, runs in found.items():
        metrics = " | ".join(cell([run[name] for run in runs]) for name in METRICS)
        seconds = np.mean([run["cpu_s"] for run in runs])
        lines.append(f"| {label} | {metrics} | {runs[0]['weights']:,} | {seconds:.0f} |")
    for code, label in CEILINGS.items():
        lines.append(f"| *{label}* | " + " | ".join(f"{ceilings[code][name]:.3f}" for name in METRICS) + " | | |")
    lines += ["", f"| stands first, % | {' | '.join(FIRST)} |", "| --- |" + " ---: |" * len(FIRST)]
    for label, runs in found.items():
        shares = 100 * np.mean([run["first"] for run in runs], axis=0)
        lines.append(f"| {label} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")
    return lines


def draw(found: dict[str, list[dict[str, Any]]], ceilings: dict[str, dict[str, float]]) -> None:
    """Two twins in both spectra, mAP of every method with the ceilings, and what stands first."""
    source = Spectra(seed=0)
    data, codes = source.make(), source.codes()
    identity = data.targets["identity"] - 1
    first = int(identity[data.targets["part"] == "query"][0])
    twin = int(np.flatnonzero((codes["sum"] == codes["sum"][first]) & (np.arange(len(codes["sum"])) != first))[0])
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), gridspec_kw={"width_ratios": [1.1, 1, 1]}, layout="constrained")
    pictures = []
    for vehicle in (first, twin):
        rows = np.flatnonzero((identity == vehicle) & (data.targets["part"] == "query"))
        for name in ("rgb", "nir"):
            framed = [
                np.pad(data.modalities[name].values[r], ((1, 1), (1, 1), (0, 0)), constant_values=255) for r in rows
            ]
            pictures.append(np.concatenate(framed, axis=1))
    axes[0].imshow(np.concatenate(pictures), interpolation="nearest")
    axes[0].set_yticks([34 * (k + 0.5) for k in range(4)], ["one, rgb", "one, nir", "twin, rgb", "twin, nir"])
    axes[0].set_xticks([34 * (k + 0.5) for k in range(4)], [f"camera {k + 1}" for k in range(4)])
    axes[0].set_title("twins: same paints, same marks, otherwise combined", fontsize=10)
    labels, place = list(found), np.arange(len(found))
    for k, runs in enumerate(found.values()):
        values = [run["mAP"] for run in runs]
        axes[1].barh(k, np.mean(values), color="#2a6f97" if k == 0 else "#a9c5d6")
        axes[1].plot(values, [k] * len(values), "k.", markersize=5)
    for code, style in (("rgb", ":"), ("sum", "--")):
        axes[1].axvline(ceilings[code]["mAP"], color="#444444", linestyle=style, linewidth=1)
    axes[1].set_yticks(place, labels)
    axes[1].invert_yaxis()
    axes[1].set_xlim(0, 1)
    axes[1].set_title("mAP; ceilings: dotted one spectrum, dashed sum", fontsize=10)
    left = np.zeros(len(found))
    shares = np.array([np.mean([run["first"] for run in runs], axis=0) for runs in found.values()])
    for kind, (name, colour) in enumerate(zip(FIRST, COLOURS, strict=True)):
        axes[2].barh(place, shares[:, kind], left=left, color=colour, label=name)
        left += shares[:, kind]
    axes[2].set_yticks(place, [""] * len(found))
    axes[2].invert_yaxis()
    axes[2].set_xlim(0, 1)
    axes[2].set_title("what stands first in the ranking", fontsize=10)
    axes[2].legend(ncols=3, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    figure.savefig(RESULTS / "figures" / "reid_spectra.png", dpi=110)
    plt.close(figure)


def main() -> None:
    set_threads(1)
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in METHODS}
    for seed in SEEDS:
        for label in METHODS:
            found[label].append(run(label, seed))
    ceilings = {code: ceiling(code) for code in CEILINGS}
    write_result("reid_spectra", {"settings": SETTINGS, "encoder": VIT, "runs": found, "ceilings": ceilings})
    draw(found, ceilings)
    lines = tables(found, ceilings)
    head, _, rest = PAGE.read_text().partition("<!-- spectra -->\n")
    tail = rest.partition("<!-- end of spectra -->")[2]
    PAGE.write_text(f"{head}<!-- spectra -->\n\n" + "\n".join(lines) + f"\n\n<!-- end of spectra -->{tail}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
