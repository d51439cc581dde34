"""CoCoOp beside CoOp and zero-shot on CIFAR-10, by a dual encoder trained on Flickr8k's captions; from base classes to
new ones, and from CIFAR-10 to drawn shapes.

    python benchmarks/cocoop_photos.py align FOLDER OUT IMAGE_MODEL TEXT_MODEL
    python benchmarks/cocoop_photos.py base-to-new FOLDER OUT [SEEDS]
    python benchmarks/cocoop_photos.py cross FOLDER OUT [SEEDS]

``align`` makes the dual encoder: the frozen encoders, and two linear layers into one space, InfoNCE. FOLDER holds
``flickr8k`` and ``cifar10``. 16 shots of a class, four for dev; 20 test pictures of a class. Prompts begin as "a photo
of a"; all methods have the same settings, and the best of their epochs on dev is taken.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cocoop_shapes import CLASSES, METHODS, rows_of
from harness import fill_page, set_threads, write_result

from weft.alignment import create_objective
from weft.data import Dataset, Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.models.raw import encoder_specs
from weft.store import encode
from weft.systems.cocoop import harmonic_mean
from weft.training import fit_aligner
from weft.training.system_task import fit_system, make_system

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "cocoop.md"
SHOTS, DEV, TEST, EPOCHS = 16, 4, 20, 2
ZERO: dict[str, dict[str, Any]] = {"zero-shot": {"conditional": False}, **METHODS}


def align(folder: Path, out: Path, image: str, text: str) -> None:
    """The dual encoder, and how well it finds photos and captions."""
    data = load_dataset("flickr8k", root=folder / "flickr8k")
    encoders = {"image": create_encoder(f"hf:{image}", "image", size=160), "text": create_encoder(f"hf:{text}", "text")}
    store = encode(data, encoders, out / "store", progress=False)
    split = make_splits(store)
    specs = encoder_specs(store, list(encoders))
    model = AlignedModel.build(dims=store.dims, aligner="two-tower", dim=256, encoders=specs)
    settings = {"epochs": 15, "batch_size": 128, "lr": 1e-3}
    fit_aligner(model, create_objective("infonce"), store, split, settings, out / "dual", progress=False)
    print({name: round(value, 3) for name, value in model.evaluate(store, split.test).items() if "R@" in name})


def pictures(folder: Path) -> Dataset:
    """CIFAR-10, as many of a class as are needed for three draws."""
    return load_dataset("image_folder", root=folder / "cifar10", per_class=60)


def drawn(data: Dataset, names: list[str], seed: int) -> Split:
    """Shots of some classes, dev rows and test rows, by number."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[int], ...] = ([], [], [])
    for name in names:
        rows = rng.permutation(np.flatnonzero((data.targets["class"] == name) & (data.split == "train")))
        tests = np.flatnonzero((data.targets["class"] == name) & (data.split == "test"))[:TEST]
        for part, chosen in zip(parts, (rows[:SHOTS], rows[SHOTS : SHOTS + DEV], tests), strict=True):
            part.extend(chosen.tolist())
    return Split(*(np.array(part) for part in parts))


def learned(data: Dataset, split: Split, clip: Path, seed: int, name: str) -> Any:
    """A model of one method, trained unless it is zero-shot."""
    started = time.process_time()
    model = make_system("cocoop", data, split.train, clip=str(clip), seed=seed, **ZERO[name])
    if name != "zero-shot":
        settings = {"epochs": EPOCHS, "batch_size": 4, "lr": 2e-3, "seed": seed, "patience": 0}
        fit_system(model, data, split, settings, progress=False)
    print(f"  {name}, seed {seed}: {time.process_time() - started:.0f} CPU s", flush=True)
    return model


def base_to_new(folder: Path, out: Path, seeds: str = "3") -> None:
    """More seeds go on from fewer."""
    data, kept_in = pictures(folder), out / "base-to-new.json"
    found: dict[str, list[dict[str, float]]] = json.loads(kept_in.read_text()) if kept_in.exists() else {}
    names = sorted(set(data.targets["class"].tolist()))
    kept: list[Any] = []
    for seed in range(len(found.get("CoCoOp", [])), int(seeds)):
        base, new = (drawn(data, half, seed) for half in (names[:5], names[5:]))
        for name in ZERO:
            model = learned(data, base, out / "dual", seed, name)
            kept = kept or [model]  # its picture features serve the others
            scores = [right(model, data, base.test), right(model.for_classes(names[5:]), data, new.test)]
            row = {"base": scores[0], "new": scores[1], "harmonic mean": harmonic_mean(*scores)}
            found.setdefault(name, []).append(row)
            print(seed, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
        kept_in.write_text(json.dumps(found))
    lines = ["| | base | new | harmonic mean |", "|---|---|---|---|"]
    for name, runs in found.items():
        cells = [np.array([run[key] for run in runs]) for key in ("base", "new", "harmonic mean")]
        lines.append(f"| {name} | " + " | ".join(f"{c.mean():.3f} +- {c.std():.3f}" for c in cells) + " |")
    lines += ["", f"{seeds} draws of shots, {EPOCHS} epochs; {5 * TEST} test pictures of each half, chance .20."]
    fill_page(PAGE, lines, "cifar10")
    write_result("cocoop_photos", {"runs": found})


def cross(folder: Path, out: Path, seeds: str = "1") -> None:
    data = pictures(folder)
    found: dict[str, list[dict[str, float]]] = {}
    names = sorted(set(data.targets["class"].tolist()))
    shapes = rows_of(CLASSES, 10, 0)
    kept: list[Any] = []
    for seed in range(int(seeds)):
        split = drawn(data, names, seed)
        for name in ZERO:
            model = learned(data, split, out / "dual", seed, name)
            kept = kept or [model]
            row = {
                "CIFAR-10": right(model, data, split.test),
                "drawn shapes": model.evaluate(shapes, np.arange(len(shapes)))["accuracy"],
            }
            found.setdefault(name, []).append(row)
            print(seed, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
    lines = ["| | CIFAR-10, learned on it | drawn shapes |", "|---|---|---|"]
    for name, runs in found.items():
        cells = [np.array([run[key] for run in runs]) for key in ("CIFAR-10", "drawn shapes")]
        lines.append(f"| {name} | " + " | ".join(f"{c.mean():.3f} +- {c.std():.3f}" for c in cells) + " |")
    lines += ["", f"{seeds} draw(s) of shots, ten classes, two epochs; 240 drawn shapes of 24 classes, chance .04."]
    fill_page(PAGE, lines, "cross")
    write_result("cocoop_cross", {"runs": found})


def right(model: Any, data: Dataset, rows: np.ndarray) -> float:
    """Share of rows whose class is found among the model's."""
    said = np.array(model.answers.labels)[np.stack(list(model.predictions(data, rows))).argmax(axis=1)]
    return float((said == data.targets["class"][rows]).mean())


if __name__ == "__main__":
    set_threads(1)
    verb, root, made, *rest = sys.argv[1:]
    {"align": align, "base-to-new": base_to_new, "cross": cross}[verb](Path(root), Path(made), *rest)
