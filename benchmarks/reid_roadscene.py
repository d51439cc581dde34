"""Retrieval across spectra on RoadScene: a visible photo finds its thermal one, and back.
The tables are in ``docs/results/reid.md``.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/reid_roadscene.py

120 pairs; five seeds draw the split (60 pairs train, 18 choose the epoch, 42 search each other) and the weights. Frozen
ImageNet MobileNetV2 for both spectra, encoded once under runs/reid_roadscene.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import set_threads, write_result
from real_comparisons import RESULTS, ROOT, variables

from weft.alignment import aligners, create_objective
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.retrieval.metrics import cross_modal_metrics
from weft.store import Store, encode
from weft.training import fit_aligner

STORE = ROOT / "runs" / "reid_roadscene" / "store"
PAGE = RESULTS / "reid.md"
SEEDS = range(5)
FRACTIONS = (0.5, 0.15, 0.35)
SETTINGS = {"epochs": 100, "batch_size": 32, "patience": 20}
ALIGNERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "CCA, shrinkage 0.0001": ("cca", 32, {}),
    "CCA, shrinkage 1": ("cca", 32, {"shrinkage": 1.0}),
    "two-tower (linear), InfoNCE": ("two-tower", 128, {}),
    "LightCRL, InfoNCE": ("lightcrl", 128, {}),
}
DIRECTIONS = ("visible->infrared", "infrared->visible")
COLUMNS = [f"{direction} R@{k}" for direction in DIRECTIONS for k in (1, 5, 10)]


def features_of() -> Store:
    """The encoded set."""
    root, models = (Path(variables()[name]) for name in ("WEFT_DATA", "WEFT_MODELS"))
    data = load_dataset("roadscene", root / "roadscene")
    encoder = create_encoder(f"hf:{models / 'mobilenet_v2_1.0_224'}", "image")
    return encode(data, dict.fromkeys(data.modalities, encoder), STORE, progress=False)


def frozen(features: Store, split: Split, centred: bool) -> dict[str, np.ndarray]:
    """Mean-pooled features of the test rows, unit length; ``centred``: each spectrum less its training mean."""
    train, test = (features.pooled(rows) for rows in (split.train, split.test))
    values = {name: x - (train[name].mean(axis=0) if centred else 0) for name, x in test.items()}
    return {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in values.items()}


def aligned(features: Store, split: Split, label: str, seed: int) -> dict[str, np.ndarray]:
    """Embeddings of the test rows by an aligner fitted on the training rows."""
    name, dim, options = ALIGNERS[label]
    model = AlignedModel.build(dims=features.dims, aligner=name, dim=dim, aligner_options=options, seed=seed)
    objective = create_objective(aligners.get(name).objective)
    fit_aligner(model, objective, features, split, {**SETTINGS, "seed": seed}, progress=False)
    return model.embed(features, split.test)


def main() -> None:
    set_threads(1)
    features = features_of()
    labels = ["chance", "frozen features as they are", "frozen features, centred", *ALIGNERS]
    scores: dict[str, list[list[float]]] = {label: [] for label in labels}
    seconds = dict.fromkeys(labels, 0.0)
    for seed in SEEDS:
        split = make_splits(features, "random", FRACTIONS, seed)
        for label in labels:
            started = time.process_time()
            if label == "chance":
                random = np.random.default_rng(seed)
                vectors = {name: random.normal(size=(len(split.test), 32)) for name in features.dims}
            elif label in ALIGNERS:
                vectors = aligned(features, split, label, seed)
            else:
                vectors = frozen(features, split, centred="centred" in label)
            found = cross_modal_metrics(vectors, np.arange(len(split.test)))
            scores[label].append([found[column] for column in COLUMNS])
            seconds[label] += (time.process_time() - started) / len(SEEDS)
            print(label, seed, [round(score, 3) for score in scores[label][-1]], flush=True)
    sizes = [len(part) for part in split]
    write_result("reid_roadscene", {"columns": COLUMNS, "rows": sizes, "settings": SETTINGS, "scores": scores})
    short = " | ".join(column.replace("->", " → ").replace("infrared", "ir") for column in COLUMNS)
    lines = [f"| | {short} | CPU s |", "| --- |" + " ---: |" * (len(COLUMNS) + 1)]
    for label, runs in scores.items():
        mean, deviation = 100 * np.mean(runs, axis=0), 100 * np.std(runs, axis=0, ddof=1)
        cells = [f"{m:.1f} ± {d:.1f}" for m, d in zip(mean, deviation, strict=True)]
        lines.append(f"| {label} | {' | '.join(cells)} | {seconds[label]:.1f} |")
    head, _, rest = PAGE.read_text().partition("<!-- roadscene -->\n")
    tail = rest.partition("<!-- end of roadscene -->")[2]
    PAGE.write_text(f"{head}<!-- roadscene -->\n\n" + "\n".join(lines) + f"\n\n<!-- end of roadscene -->{tail}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
