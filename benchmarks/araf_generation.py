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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from araf_results import write_section
from real_comparisons import RESULTS, ROOT, variables

from weft.data import Dataset, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.store import encode
from weft.systems.text_to_image import TextToImage
from weft.systems.text_to_image.figures import draw_grid
from weft.systems.text_to_image.pairs import pixels_of
from weft.training import train_model
from weft.training.system_task import fit_system, make_system

RUNS = ROOT / "runs" / "araf_generation"
WORDS = {"araf": "ARAF alignment", "attention": "word attention", "none": "sentence only"}
ATTRIBUTES = ("colour", "position", "shape")
RECIPE = {"batch_size": 32, "lr": 1e-3, "checkpoint_seconds": 30.0}
NETWORK = {
    "noise": 32,
    "align_width": 32,
    "gate": 1.0,
    "ratio": 2.0,
    "beta1": 0.0,
    "beta2": 0.9,
    "penalty": 0.1,
    "average": 0.99,
}
BASE = {32: 8, 64: 4}
"""Channels of the last blocks, by size of the pictures."""


def aligner(data: Dataset, folder: Path, images: str) -> str:
    """The folder of image and caption of real pairs in one space, for R-precision."""
    specs = {"image": (images, "image"), "caption": (f"hf:{variables()['MINILM']}", "text")}
    encoders = {name: create_encoder(*spec) for name, spec in specs.items()}
    features = encode(data, encoders, folder / "store")
    train_model(features, "two-tower", folder, dim=128, config={"epochs": 30}, progress=False)
    return str(folder)


def one(words: str, seed: int, data: Dataset, epochs: int, size: int) -> tuple[TextToImage, Any]:
    """Train one generator, or take it from its folder."""
    folder, split = RUNS / f"{data.name}-{len(data)}" / f"{words}-{size}-{seed}-{epochs}", make_splits(data)
    shape: dict[str, Any] = {"words": words, "size": size, "base": BASE[size], **NETWORK}
    text = f"hf:{variables()['MINILM']}"
    model: Any = make_system("text-to-image", data, split.train, seed=seed, text_encoder=text, **shape)
    return model, fit_system(model, data, split, {**RECIPE, "epochs": epochs, "seed": seed}, folder)


def compare(epochs: int, seeds: int, rows: int, candidates: int, size: int, only: str | None) -> None:
    """The grid of runs on shapes, their figures in JSON, table and grid of the page; ``only``: training alone."""
    data = load_dataset("shapes", rows=rows, seed=1, complete=True)
    split = make_splits(data)
    if only is not None:
        for seed in range(seeds):
            one(only, seed, data, epochs, size)
        return
    shown = split.test[:8]
    captions = [str(data.modalities["caption"].values[row]) for row in shown]
    drawings = data.modalities["image"].values
    real = np.stack([pixels_of(drawings[row], data.ids[row], size, size) for row in shown])
    grid, models = {"real": real}, {}
    for seed in range(seeds):
        for words, label in WORDS.items():
            models[words, seed] = one(words, seed, data, epochs, size)
            if seed == 0:
                grid[label] = np.stack(list(models[words, seed][0].predictions(data, shown, seed=1)))
    draw_grid(captions, grid, RESULTS / "figures" / f"araf_generation_{size}.png")
    images = f"hf:{variables()['WEFT_MODELS']}/mobilenet_v2_1.0_224"
    judge = aligner(data, RUNS / f"shapes-{rows}" / "aligner", images)
    found = []
    for (words, seed), (model, history) in models.items():
        place = RUNS / f"shapes-{rows}" / f"{words}-{size}-{seed}-{epochs}.json"
        if not place.exists():
            asked: dict[str, Any] = {"space": images, "aligner": judge, "attributes": ATTRIBUTES}
            figures = measured(model, data, seed, **asked, candidates=candidates)
            weights = sum(p.numel() for p in model.generator.parameters())
            about = {"words": words, "seed": seed, "weights": weights, "seconds": history.seconds}
            about["gates"] = [block.gate.item() for block in gates_of(model)]
            about["loss"] = history.best["discriminator"]
            about["closed"] = closed(model, data, seed)
            place.write_text(json.dumps({**about, "epochs": epochs, **figures}))
        found.append(json.loads(place.read_text()))
        print(words, seed, found[-1]["drawn"], flush=True)
    options = f"--size {size} --epochs {epochs} --seeds {seeds} --rows {rows} --candidates {candidates}"
    write(f"table-{size}", found, len(split.train), epochs, options)


def measured(model: TextToImage, data: Dataset, seed: int, **options: Any) -> dict[str, Any]:
    """Figures of the test captions, ``drawn`` and ``real`` apart; ``seed`` of noise, reader and candidates."""
    rows = make_splits(data).test
    drawn = list(model.predictions(data, rows, seed=seed))
    found = model.make_judge(seed=seed, **options).metrics(drawn, model.truth(data, rows, model.seen))
    parts = {"drawn": {k: v for k, v in found.items() if not k.startswith("real ")}}
    parts["real"] = {k.removeprefix("real "): v for k, v in found.items() if k.startswith("real ")}
    return {"rows": len(rows), **parts}


def gates_of(model: TextToImage) -> list[Any]:
    """The blocks that ask the words, of the averaged generator."""
    drawing: Any = model.average.mean
    return list(drawing.align.values())


def closed(model: TextToImage, data: Dataset, seed: int) -> dict[str, float]:
    """Agreement of what the trained generator draws without its words: their gates closed."""
    deaf = deepcopy(model)
    for block in gates_of(deaf):
        block.gate.data.zero_()
    return measured(deaf, data, seed, attributes=ATTRIBUTES)["drawn"]


def write(section: str, found: list[dict[str, Any]], train: int, epochs: int, options: str) -> None:
    """The table: mean (lowest to highest) over the seeds, and what real images reach."""

    def cells(run: dict[str, Any], kind: str) -> list[float]:
        figures = run[kind]
        agreement = [figures[f"agreement {name}"] for name in (*ATTRIBUTES, "all")]
        distances = [figures["distance frechet"], 1000 * figures["distance kernel"]]
        return [*distances, figures["r_precision"], *agreement]

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
        shapes = ", ".join(f"{run['drawn']['agreement shape']:.2f}" for run in runs)
        without = ", ".join(f"{run['closed']['agreement shape']:.2f}" for run in runs if run["gates"])
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
    started = time.monotonic()
    model, history = one("araf", 0, data, epochs, 32)
    shown = make_splits(data).test[:8]
    captions = [str(data.modalities["text"].values[row]) for row in shown]
    drawn = {f"noise {seed}": np.stack(list(model.predictions(data, shown, seed=seed))) for seed in range(2)}
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
