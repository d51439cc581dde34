"""L-Verse on drawn shapes: pictures to codes and back, pictures from captions, captions from pictures.

    python benchmarks/l_verse.py [--seeds 3] [--only vae | art]

The captions and the judge are those of benchmarks/araf_generation.py at 32 pixels, whose figures stand beside. Runs are
kept under runs/l_verse, so a killed one goes on.

* ``vae``: AugVAE (two scales, one codebook; then its finer scale alone) beside a codebook per scale and beside an
  ordinary VQ-VAE of as many weights as the autoencoder that is kept, trained for as many steps as both stages together;
  and an AugVAE whose second stage alone is as long as that.
* ``art``: BiART over the codes of the last, with and without roles, both with one fixed layout of places.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import fill_page, set_threads, write_result

from weft.data import Dataset, load_dataset, make_splits
from weft.data.shapes import COLOURS, POSITIONS, SHAPES, SIZES
from weft.models import load_model
from weft.systems.text_to_image.attributes import AttributeReader
from weft.systems.text_to_image.figures import draw_grid
from weft.systems.text_to_image.pairs import pixels_of
from weft.training.system_task import fit_system, make_system

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "l_verse.md"
RUNS = ROOT / "runs" / "l_verse"
SHAPE: dict[str, Any] = {
    "size": 32, "hidden": 8, "z": 16, "dim": 16, "codes": 128, "residual": 1, "groups": 4, "pyramid": [8, 4],
    "widths": [1, 2, 2],
}  # fmt: skip
PLAIN: dict[str, Any] = {**SHAPE, "pyramid": [8]}
FIRST, SECOND, ART = 12, 8, 40
"""Epochs of the autoencoder, of its kept scale, of the transformer."""
VAES = {
    "AugVAE, one codebook": True, "AugVAE, a codebook per scale": False, "ordinary VQ-VAE": None,
    "AugVAE, one codebook, second stage longer": True,
}  # fmt: skip
BEST = "AugVAE, one codebook, second stage longer"
ARTS: dict[str, dict[str, Any]] = {
    "with roles": {}, "with roles, guidance 2": {"guidance": 2.0}, "without roles": {"segments": False}
}  # fmt: skip
BIART: dict[str, Any] = {"width": 96, "layers": 3, "places": "modality", "empty": 0.1, "dropout": 0.0}
ATTRIBUTES = ("colour", "position", "shape")
PARTS = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "position": POSITIONS}


def fitted(name: str, data: Dataset, folder: Path, seed: int, settings: dict[str, Any], **options: Any) -> Any:
    """A trained system, or that of its folder."""
    split = make_splits(data)
    model = make_system(name, data, split.train, seed=seed, **options)
    fit_system(model, data, split, {"seed": seed, "patience": 0, **settings}, folder, progress=False)
    return load_model(folder)


def autoencoder(data: Dataset, kind: str, seed: int) -> Any:
    """The one with 64 codes a picture."""
    folder, shared, rate = RUNS / f"{kind.replace(' ', '_')}-{seed}", VAES[kind], {"lr": 2e-3, "batch_size": 16}
    if shared is None:
        return fitted("aug-vae", data, folder, seed, {**rate, "epochs": FIRST + SECOND}, **PLAIN)
    whole, second = RUNS / f"whole-{shared}-{seed}", FIRST + SECOND if kind == BEST else SECOND
    fitted("aug-vae", data, whole, seed, {**rate, "epochs": FIRST}, **SHAPE, shared=shared)
    return fitted("aug-vae", data, folder / "kept", seed, {**rate, "epochs": second}, start=str(whole), level=8)


def parsed(text: str) -> dict[str, str | None]:
    """The one value of each part that a caption names; None: none, or several."""
    found = {part: re.findall("|".join(values), text) for part, values in PARTS.items()}
    return {part: values[0] if len(set(values)) == 1 else None for part, values in found.items()}


def vae(data: Dataset, seeds: int) -> dict[str, list[dict[str, float]]]:
    """Reconstruction of the test pictures and the use of the codes."""
    split, found = make_splits(data), {}
    reader, asked = reading(data)
    for seed in range(seeds):
        for kind in VAES:
            path = RUNS / f"{kind.replace(' ', '_')}-{seed}.json"
            if not path.exists():
                started, model = time.process_time(), autoencoder(data, kind, seed)
                seconds, codes = time.process_time() - started, np.stack(model.codes_of(data, split.test))
                share = np.bincount(codes.ravel(), minlength=model.codes) / codes.size
                entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
                back = np.stack(list(model.predictions(data, split.test)))
                path.write_text(json.dumps({
                    **model.evaluate(data, split.test), **reader.agreement(back, asked), "used": int((share > 0).sum()),
                    "perplexity": float(np.exp(entropy)), "seconds": seconds,
                    "weights": sum(p.numel() for p in model.parameters()),
                }))  # fmt: skip
            found.setdefault(kind, []).append(json.loads(path.read_text()))
            print(kind, seed, found[kind][-1], flush=True)
    return found


def reading(data: Dataset) -> tuple[AttributeReader, dict[str, np.ndarray]]:
    """The judge's reader of real pictures, and what it is to read of the test rows."""
    split, values = make_splits(data), data.modalities["image"].values
    real = np.stack([pixels_of(values[row], data.ids[row], 32, 32) for row in split.train])
    told, asked = ({name: data.targets[name][rows] for name in ATTRIBUTES} for rows in (split.train, split.test))
    return AttributeReader.train_on(real, told), asked


def art(data: Dataset, seeds: int) -> dict[str, list[dict[str, float]]]:
    """What is drawn, and what is said, of the test rows."""
    split, found, kind = make_splits(data), {}, BEST
    for seed in range(seeds):
        for name, options in ARTS.items():
            path = RUNS / f"art-{name.replace(' ', '_')}-{seed}.json"
            if not path.exists():
                autoencoder(data, kind, seed)
                codes = str(RUNS / f"{kind.replace(' ', '_')}-{seed}" / "kept")
                roles = options.get("segments", True)
                folder, started = RUNS / f"art-{roles}-{seed}", time.process_time()
                rate = {"lr": 2e-3, "epochs": ART, "batch_size": 32}
                model = fitted("l-verse", data, folder, seed, rate, codes=codes, segments=roles, **BIART)
                seconds = time.process_time() - started
                says = make_system("l-verse-captions", data, split.train, start=str(folder))
                model.guidance = options.get("guidance", 1.0)
                texts = list(says.predictions(data, split.test))
                wanted = [parsed(data.modalities["caption"].values[row]) for row in split.test]
                exact = np.mean([parsed(text) == asked for text, asked in zip(texts, wanted, strict=True)])
                parts = {f"says {p}": float(np.mean([parsed(t)[p] == w[p] for t, w in zip(texts, wanted, strict=True)]))
                         for p in PARTS}  # fmt: skip
                drawn = model.evaluate(data, split.test, attributes=ATTRIBUTES)
                path.write_text(json.dumps({
                    **drawn, **parts, "says all": float(exact), "seconds": seconds,
                    "weights": sum(p.numel() for p in model.network.parameters()), "said": texts[:4],
                }))  # fmt: skip
                if seed == 0:
                    grid(data, split.test[:8], model, name)
            found.setdefault(name, []).append(json.loads(path.read_text()))
            print(name, seed, found[name][-1], flush=True)
    return found


def codes_grid(data: Dataset, rows: np.ndarray) -> None:
    """Real pictures, and what comes back of the codes of each autoencoder, seed 0."""
    values = data.modalities["image"].values
    shown = {"real": np.stack([pixels_of(values[row], data.ids[row], 32, 32) for row in rows])}
    shown |= {kind: np.stack(list(autoencoder(data, kind, 0).predictions(data, rows))) for kind in VAES}
    captions = [str(data.modalities["caption"].values[row]) for row in rows]
    draw_grid(captions, shown, PAGE.parent / "figures" / "l_verse_codes.png")


def grid(data: Dataset, rows: np.ndarray, model: Any, name: str) -> None:
    """Real pictures, what their codes keep, and what is drawn of their captions."""
    values = data.modalities["image"].values
    kept = model.autoencoder.predictions(data, rows)
    shown = {
        "real": np.stack([pixels_of(values[row], data.ids[row], 32, 32) for row in rows]),
        "codes and back": np.stack(list(kept)),
        name: np.stack(list(model.predictions(data, rows, seed=1))),
    }
    captions = [str(data.modalities["caption"].values[row]) for row in rows]
    draw_grid(captions, shown, PAGE.parent / "figures" / f"l_verse_{name.replace(' ', '_').replace(',', '')}.png")


def table(found: dict[str, list[dict[str, float]]], columns: dict[str, str]) -> list[str]:
    """Mean, lowest to highest over the seeds."""
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, runs in found.items():
        cells = []
        for key in columns.values():
            values = np.array([run[key] for run in runs])
            spread = f" ({values.min():.3g} to {values.max():.3g})" if len(values) > 1 and np.ptp(values) else ""
            cells.append(f"{values.mean():,.0f}" if key == "weights" else f"{values.mean():.3g}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    runs = [run for some in found.values() for run in some]
    return [
        *lines,
        "",
        f"{len(runs) // len(found)} seeds; {np.mean([r['seconds'] for r in runs]) / 60:.1f} CPU minutes a run.",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("vae", "art"))
    asked = parser.parse_args()
    set_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    shapes = load_dataset("shapes", rows=1200, seed=1, complete=True)
    if asked.only != "art":
        made = vae(shapes, asked.seeds)
        fill_page(PAGE, table(made, {"weights": "weights", "squared error": "mse", "psnr": "psnr", "colour": "colour",
                                     "position": "position", "shape": "shape", "codes used": "used",
                                     "perplexity": "perplexity"}), "vae")  # fmt: skip
        write_result("l_verse_vae", {"runs": made})
        codes_grid(shapes, make_splits(shapes).test[:8])
    if asked.only != "vae":
        drawn = art(shapes, asked.seeds)
        columns = {"weights": "weights", **{name: f"agreement {name}" for name in (*ATTRIBUTES, "all")},
                   "kernel": "distance kernel", **{f"says {p}": f"says {p}" for p in (*PARTS, "all")}}  # fmt: skip
        fill_page(PAGE, table(drawn, columns), "art")
        write_result("l_verse_art", {"runs": drawn})
