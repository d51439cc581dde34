"""Pictures from captions: ARAF's alignment between the up-blocks, plain word attention, or neither.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/araf_generation.py [--size 32] [--epochs 100] [--smoke]

On ``shapes``, whose captions are known. Same data, budget, seeds and discriminator for all; the generators
differ in how they ask the words. One figure row of the test captions per generator, a table with the range over the
seeds, in docs/results/araf_generation.md. ``--train``: only train this generator, so that several processes share the
work. ``--smoke``: flickr8k at 32 pixels instead, one caption an image, a grid only. Everything is kept under
runs/araf_generation, so a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from araf_results import write_section
from real_comparisons import RESULTS, ROOT, variables

from weft.data import Dataset, Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.report.generation import draw_grid
from weft.store import Store, encode
from weft.training import AlignedModel, train_model
from weft.training.generation import GenerationModel, build_generation, fit_generation
from weft.training.generation_metrics import evaluate_generation
from weft.training.image_pairs import modality_of, pixels_of

RUNS = ROOT / "runs" / "araf_generation"
WORDS = {"araf": "ARAF alignment", "attention": "word attention", "none": "sentence only"}
ATTRIBUTES = ("colour", "position", "shape")
RECIPE = {
    "batch_size": 32,
    "lr": 1e-3,
    "ratio": 2.0,
    "beta1": 0.0,
    "beta2": 0.9,
    "penalty": 0.1,
    "average": 0.99,
    "checkpoint_seconds": 30.0,
}
NETWORK = {"noise": 32, "align_width": 32, "gate": 1.0}
BASE = {32: 8, 64: 4}
"""Channels of the last blocks, by size of the pictures."""


def texts(data: Dataset, folder: Path) -> Store:
    """The captions' MiniLM tokens."""
    name = modality_of(data, "text")
    encoder = create_encoder(f"hf:{variables()['MINILM']}", "text")
    return encode(replace(data, modalities={name: data.modalities[name]}), {name: encoder}, folder)


def aligner(data: Dataset, folder: Path, images: str) -> AlignedModel:
    """Image and caption of real pairs in one space, for R-precision."""
    specs = {"image": (images, "image"), "caption": (f"hf:{variables()['MINILM']}", "text")}
    encoders = {name: create_encoder(*spec) for name, spec in specs.items()}
    features = encode(data, encoders, folder / "store")
    train_model(features, "two-tower", folder, dim=128, config={"epochs": 30}, progress=False)
    return AlignedModel.from_pretrained(folder)


def one(words: str, seed: int, data: Dataset, features: Store, epochs: int, size: int) -> tuple[GenerationModel, Any]:
    """Train one generator, or take it from its folder."""
    folder = RUNS / f"{data.name}-{len(data)}" / f"{words}-{size}-{seed}-{epochs}"
    model = build_generation(features, seed=seed, words=words, size=size, base=BASE[size], **NETWORK)
    settings = {**RECIPE, "epochs": epochs, "seed": seed}
    history = fit_generation(model, data, features, make_splits(data).train, settings, folder)
    return model, history


def compare(epochs: int, seeds: int, rows: int, candidates: int, size: int, only: str | None) -> None:
    """The grid of runs on shapes, their figures in JSON, table and grid of the page; ``only``: training alone."""
    data = load_dataset("shapes", rows=rows, seed=1, complete=True)
    features, split = texts(data, RUNS / f"shapes-{rows}" / "captions"), make_splits(data)
    if only is not None:
        for seed in range(seeds):
            one(only, seed, data, features, epochs, size)
        return
    shown = split.test[:8]
    captions = [str(data.modalities["caption"].values[row]) for row in shown]
    drawings = data.modalities["image"].values
    real = np.stack([pixels_of(drawings[row], data.ids[row], size, size) for row in shown])
    grid, models = {"real": real}, {}
    for seed in range(seeds):
        for words, label in WORDS.items():
            models[words, seed] = one(words, seed, data, features, epochs, size)
            if seed == 0:
                grid[label] = models[words, seed][0].draw(features, shown, seed=1)
    draw_grid(captions, grid, RESULTS / "figures" / f"araf_generation_{size}.png")
    images = f"hf:{variables()['WEFT_MODELS']}/mobilenet_v2_1.0_224"
    judge, space = aligner(data, RUNS / f"shapes-{rows}" / "aligner", images), create_encoder(images, "image")
    found = []
    for (words, seed), (model, history) in models.items():
        place = RUNS / f"shapes-{rows}" / f"{words}-{size}-{seed}-{epochs}.json"
        if not place.exists():
            measured: dict[str, Any] = {"encoder": space, "aligner": judge, "attributes": ATTRIBUTES}
            figures = evaluate_generation(model, data, split, **measured, candidates=candidates, seed=seed)
            weights = sum(p.numel() for p in model.generator.parameters())
            about = {"words": words, "seed": seed, "weights": weights, "seconds": history.seconds}
            about["gates"] = [block.gate.item() for block in model.average.align.values()]
            about["loss"] = history.best["discriminator"]
            about["closed"] = closed(model, data, split, seed)
            place.write_text(json.dumps({**about, "epochs": epochs, **figures}))
        found.append(json.loads(place.read_text()))
        print(words, seed, found[-1]["drawn"], flush=True)
    options = f"--size {size} --epochs {epochs} --seeds {seeds} --rows {rows} --candidates {candidates}"
    write(f"table-{size}", found, len(split.train), epochs, options)


def closed(model: GenerationModel, data: Dataset, split: Split, seed: int) -> dict[str, float]:
    """Agreement of what the trained generator draws without its words: their gates closed."""
    deaf = deepcopy(model)
    for block in deaf.average.align.values():
        block.gate.data.zero_()
    return evaluate_generation(deaf, data, split, attributes=ATTRIBUTES, seed=seed)["drawn"]["agreement"]


def write(section: str, found: list[dict[str, Any]], train: int, epochs: int, options: str) -> None:
    """The table: mean (lowest to highest) over the seeds, and what real images reach."""

    def cells(run: dict[str, Any], kind: str) -> list[float]:
        figures = run[kind]
        agreement = [figures["agreement"][name] for name in (*ATTRIBUTES, "all")]
        return [
            figures["distance"]["frechet"],
            1000 * figures["distance"]["kernel"],
            figures["r_precision"],
            *agreement,
        ]

    titles = ["Frechet", "kernel x 1000", "R-precision", *ATTRIBUTES, "all three"]
    lines = [f"| generator | weights | {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) + 1)}"]
    heard = ["discriminator's loss, last epoch", "gate of the words", "shape", "shape, that gate closed"]
    ends = [f"| generator | {' | '.join(heard)} |", f"|{' --- |' * (len(heard) + 1)}"]
    for words, label in WORDS.items():
        runs = [run for run in found if run["words"] == words]
        table = np.array([cells(run, "drawn") for run in runs])
        spread = [f"{c.mean():.3g} ({c.min():.3g} to {c.max():.3g})" for c in table.T]
        lines.append(f"| {label} | {runs[0]['weights']:,} | {' | '.join(spread)} |")
        losses = ", ".join(f"{run['loss']:.2f}" for run in runs)
        gates = ", ".join(f"{gate:+.3f}" for run in runs for gate in run["gates"])
        shapes = ", ".join(f"{run['drawn']['agreement']['shape']:.2f}" for run in runs)
        without = ", ".join(f"{run['closed']['shape']:.2f}" for run in runs if run["gates"])
        ends.append(f"| {label} | {losses} | {gates} | {shapes} | {without} |")
    ceiling = np.array([cells(run, "real") for run in found]).mean(axis=0)
    lines.append(f"| real images | | {' | '.join(f'{value:.3g}' for value in ceiling)} |")
    steps = epochs * (train // RECIPE["batch_size"])
    minutes = np.mean([run["seconds"] for run in found]) / 60
    about = (
        f"`python benchmarks/araf_generation.py {options}`: {train} training images, "
        f"{found[0]['rows']} test captions, {steps} steps of {RECIPE['batch_size']}, "
        f"{minutes:.1f} minutes of wall time per run."
    )
    write_section("araf_generation.md", section, [about, "", *lines, "", "By seed:", "", *ends])


def smoke(epochs: int) -> None:
    """Flickr8k at 32 pixels: that real photos and captions go through; no claim about the pictures."""
    data = load_dataset("flickr8k", Path(variables()["WEFT_DATA"]) / "flickr8k")
    data = data.take(range(0, len(data), 5))
    features = texts(data, RUNS / "flickr8k" / "captions")
    started = time.monotonic()
    model, history = one("araf", 0, data, features, epochs, 32)
    shown = make_splits(data).test[:8]
    captions = [str(data.modalities["text"].values[row]) for row in shown]
    drawn = {f"noise {seed}": model.draw(features, shown, seed=seed) for seed in range(2)}
    draw_grid(captions, drawn, RESULTS / "figures" / "araf_generation_flickr8k.png")
    print(json.dumps({"seconds": time.monotonic() - started, **history.best}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--size", type=int, choices=BASE, default=32, help="height and width of the pictures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--candidates", type=int, default=100, help="captions that R-precision chooses among")
    parser.add_argument("--train", choices=WORDS, help="only train this generator")
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.smoke:
        smoke(chosen.epochs)
    else:
        compare(chosen.epochs, chosen.seeds, chosen.rows, chosen.candidates, chosen.size, chosen.train)
