"""NLX-GPT on questions about drawn shapes, whose explanations are true or false by construction.

    python benchmarks/nlxgpt_shapes.py [--seeds 3] [--rows 1200] [--epochs 20]

``true``: share of explanations equal to the one true sentence. Shuffled: the trained model is shown the picture of
another row. Captions first: 600 drawn pictures with captions, then 300 questions, beside 300 questions alone.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import fill_page, set_threads, write_result

from weft.data import Dataset, Modality, Split, load_dataset, make_splits
from weft.systems.nlxgpt.metrics import ExplanationJudge
from weft.systems.nlxgpt.sequence import spoken
from weft.training.system_task import fit_system, make_system

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "nlxgpt.md"
METHODS: dict[str, dict[str, Any]] = {
    "nlx-gpt, image tokens with places": {"places": True},
    "nlx-gpt, image tokens without places": {},
    "without the picture": {"blind": True},
}


def judged(model: Any, data: Dataset, rows: np.ndarray) -> dict[str, float]:
    """Accuracy of the answers, and share of true explanations."""
    truth = model.truth(data, rows)
    said = list(model.predictions(data, rows))
    right = ExplanationJudge().metrics(said, truth)["accuracy"]
    pairs = zip(said, truth.explanations, strict=True)
    return {"answers": right, "true": float(np.mean([spoken(text)[1] == why for text, why in pairs]))}


def shuffled(data: Dataset, rows: np.ndarray, seed: int) -> Dataset:
    """Each of some rows has the picture of the next one in a random circle."""
    values = list(data.modalities["image"].values)
    circle = np.random.default_rng(seed).permutation(rows)
    for row, other in zip(circle, np.roll(circle, 1), strict=True):
        values[row] = data.modalities["image"].values[other]
    return replace(data, modalities={**data.modalities, "image": Modality("image", values)})


def captions(data: Dataset) -> Dataset:
    """The drawn pictures with what there is to see."""
    columns = {"image": data.modalities["image"], "caption": data.modalities["caption"]}
    return Dataset("captions", data.ids, columns, {}, None, None, "retrieval")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    set_threads(1)
    training = {"epochs": asked.epochs, "lr": 2e-3, "batch_size": 32}
    found: dict[str, list[dict[str, float]]] = {}

    def note(name: str, scores: dict[str, float]) -> None:
        found.setdefault(name, []).append(scores)
        print(name, {key: round(value, 3) for key, value in scores.items()}, flush=True)

    for seed in range(asked.seeds):
        data = load_dataset("shape-questions", rows=asked.rows, seed=seed)
        split = make_splits(data, seed=seed)
        for name, options in METHODS.items():
            model = make_system("nlx-gpt", data, split.train, seed=seed, **options)
            fit_system(model, data, split, {**training, "seed": seed}, progress=False)
            note(name, judged(model, data, split.test))
            if options.get("places"):
                note(f"{name}; shuffled pictures", judged(model, shuffled(data, split.test, seed), split.test))
        few = Split(split.train[:300], split.dev, split.test)
        with tempfile.TemporaryDirectory() as folder:
            pairs = captions(load_dataset("shapes", rows=600, seed=100 + seed, size=32, complete=True))
            parts = make_splits(pairs, seed=seed)
            first = make_system("nlx-gpt-captions", pairs, parts.train, seed=seed, places=True)
            fit_system(first, pairs, parts, {**training, "seed": seed}, folder, progress=False)
            for name, options in (
                ("captions first, 300 questions", {"start": folder}),
                ("300 questions", METHODS[next(iter(METHODS))]),
            ):
                model = make_system("nlx-gpt", data, few.train, seed=seed, **options)
                fit_system(model, data, few, {**training, "seed": seed}, progress=False)
                note(name, judged(model, data, few.test))
    lines = ["| | answers right | explanations true |", "|---|---|---|"]
    for name, runs in found.items():
        cells = [np.array([run[key] for run in runs]) for key in ("answers", "true")]
        lines.append(f"| {name} | " + " | ".join(f"{c.mean():.3f} +- {c.std():.3f}" for c in cells) + " |")
    lines += ["", f"{asked.rows} rows, {asked.seeds} seeds of data, split and weights."]
    fill_page(PAGE, lines)
    write_result("nlxgpt_shapes", {"runs": found})


if __name__ == "__main__":
    main()
