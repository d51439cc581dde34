"""L-Verse on drawn pictures: to codes and back, pictures from captions, captions from pictures; ARAF beside.

    python benchmarks/l_verse.py [--seeds 3]
    python benchmarks/l_verse.py --train NAME [--world scenes] [--seed 0]

Two worlds: ``shapes`` (one object: colour, shape, place) and, for L-Verse alone, ``scenes`` (two: order and shapes).
``--train`` makes one run alone, so that processes can share the work; runs are kept under runs/l_verse.

* Autoencoders, on shapes: AugVAE (two scales, one codebook; then its finer scale alone) beside a codebook per scale and
  beside an ordinary VQ-VAE of as many weights as the autoencoder that is kept, trained for as many steps as both stages
  together.
* Both ways: BiART over the codes of the first, with and without roles, both with one fixed layout of places, with and
  without guidance; ARAF's generator (benchmarks/araf_generation.py) draws the same captions and has the same judge.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from araf_generation import NETWORK, RECIPE
from harness import fill_page, set_threads, write_result
from real_comparisons import variables

from weft.compare.statistics import holm, paired_gain
from weft.data import Dataset, load_dataset, make_splits
from weft.data.scenes import PARTS as SCENE
from weft.data.scenes import described
from weft.data.shapes import COLOURS, POSITIONS, SHAPES, SIZES
from weft.systems.text_to_image.attributes import AttributeReader
from weft.systems.text_to_image.figures import draw_grid
from weft.systems.text_to_image.pairs import pixels_of
from weft.training.system_task import fit_system, make_system

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "l_verse.md"
RUNS = ROOT / "runs" / "l_verse"
ROWS, SIDE, SHOWN = 4000, 16, 8
SHAPE: dict[str, Any] = {
    "size": SIDE, "hidden": 16, "z": 16, "dim": 16, "codes": 64, "residual": 1, "groups": 4, "pyramid": [8, 4],
    "widths": [1, 2],
}  # fmt: skip
PLAIN: dict[str, Any] = {**SHAPE, "pyramid": [8]}
FIRST, SECOND, ART, ARAF = 4, 12, 20, 20
"""Epochs of the autoencoder, of its kept scale, of the transformer, of ARAF's generator."""
VAES = {
    "AugVAE, one codebook": (True, SECOND), "AugVAE, a codebook per scale": (False, SECOND),
    "ordinary VQ-VAE": (None, FIRST + SECOND),
}  # fmt: skip
"""One codebook, or one per scale, or one scale alone; epochs of what is kept."""
BEST = "AugVAE, one codebook"
GAN = "ARAF's generator"
ARTS: dict[str, bool | None] = {"L-Verse": True, "L-Verse without roles": False, GAN: None}
WORLDS = {"shapes": tuple(ARTS), "scenes": ("L-Verse",)}
"""What is compared where."""
GUIDED = ", guidance 2"
BACK = "real pictures, their codes and back"
BIART: dict[str, Any] = {"width": 96, "layers": 3, "dropout": 0.0, "places": "modality", "empty": 0.1}


def parsed(text: str) -> dict[str, str | None]:
    """The one value of each part that a caption of shapes names; None: none, or several."""
    values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "position": POSITIONS}
    found = {part: re.findall("|".join(some), text) for part, some in values.items()}
    return {part: some[0] if len(set(some)) == 1 else None for part, some in found.items()}


class World(NamedTuple):
    """A data set, what the judge reads of a picture, and what a caption is parsed to."""

    data: Dataset
    shown: tuple[str, ...]
    parse: Callable[[str], dict[str, str | None]]

    def real(self, rows: np.ndarray) -> np.ndarray:
        values = self.data.modalities["image"].values
        return np.stack([pixels_of(values[row], self.data.ids[row], SIDE, SIDE) for row in rows])

    def said(self, rows: np.ndarray) -> list[str]:
        return [str(self.data.modalities["caption"].values[row]) for row in rows]

    def reader(self) -> AttributeReader:
        """The judge's reader of real training pictures."""
        rows = make_splits(self.data).train
        return AttributeReader.train_on(self.real(rows), self.asked(rows))

    def asked(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: self.data.targets[name][rows] for name in self.shown}


def world(name: str) -> World:
    drawn = {"rows": ROWS, "seed": 1, "size": SIDE}
    if name == "shapes":
        return World(load_dataset(name, **drawn, complete=True), ("colour", "position", "shape"), parsed)
    return World(load_dataset(name, **drawn), SCENE, described)


def fitted(name: str, data: Dataset, folder: Path, seed: int, settings: dict[str, Any], **options: Any) -> Any:
    """A trained system, where torch put it; the seconds that training took stand beside its weights."""
    split = make_splits(data)
    model = make_system(name, data, split.train, seed=seed, **options)
    history = fit_system(model, data, split, {"seed": seed, "patience": 0, **settings}, folder, progress=False)
    (folder / "seconds.json").write_text(json.dumps(history.seconds))
    return model


def autoencoder(where: str, data: Dataset, kind: str, seed: int) -> tuple[Any, Path]:
    """The one with 256 codes a picture, and its folder."""
    (shared, last), rate = VAES[kind], {"lr": 2e-3, "batch_size": 16}
    folder, whole = RUNS / where / f"{kind.replace(' ', '_')}-{seed}", RUNS / where / f"whole-{shared}-{seed}"
    if shared is None:
        return fitted("aug-vae", data, folder, seed, {**rate, "epochs": last}, **PLAIN), folder
    fitted("aug-vae", data, whole, seed, {**rate, "epochs": FIRST}, **SHAPE, shared=shared)
    options = {"start": str(whole), "level": SHAPE["pyramid"][0]}
    return fitted("aug-vae", data, folder, seed, {**rate, "epochs": last}, **options), folder


def vae(where: str, kind: str, seed: int) -> dict[str, Any]:
    """Reconstruction of the test pictures, what the reader sees in them, and the use of the codes; kept."""
    path = RUNS / f"{where}-{kind.replace(' ', '_')}-{seed}.json"
    if not path.exists():
        told = world(where)
        rows = make_splits(told.data).test
        model, folder = autoencoder(where, told.data, kind, seed)
        codes = np.stack([code.numpy() for code in model.codes_of(told.data, rows)])
        share = np.bincount(codes.ravel(), minlength=model.codes) / codes.size
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        back, judge = np.stack(list(model.predictions(told.data, rows))), model.make_judge()
        truth = model.truth(told.data, rows)
        np.save(path.with_suffix(".npy"), back[:SHOWN])
        path.write_text(json.dumps({
            **judge.metrics(back, truth), **told.reader().agreement(back, told.asked(rows)),
            "used": int((share > 0).sum()), "perplexity": float(np.exp(entropy)),
            "seconds": json.loads((folder / "seconds.json").read_text()),
            "weights": sum(p.numel() for p in model.parameters()), "errors": (-judge.scores(back, truth)).tolist(),
        }))  # fmt: skip
    return kept(path)


def kept(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    print(path.stem, {k: round(v, 4) for k, v in found.items() if isinstance(v, float)}, flush=True)
    return found


def art(where: str, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """What is drawn, and what is said, of the test rows, by guidance where there is any; kept."""
    names = [name] if ARTS[name] is None else [name, name + GUIDED]
    paths = {one: RUNS / f"{where}-{re.sub(r'[^A-Za-z0-9]+', '_', one)}-{seed}.json" for one in names}
    if not all(path.exists() for path in paths.values()):
        told = world(where)
        split, folder = make_splits(told.data), RUNS / where / f"art-{ARTS[name]}-{seed}"
        if ARTS[name] is None:
            text, settings = f"hf:{variables()['MINILM']}", {**RECIPE, "epochs": ARAF}
            options = {"words": "araf", "text_encoder": text, "size": SIDE, "base": 8, **NETWORK}
            model = fitted("text-to-image", told.data, folder, seed, settings, **options)
            network, says = model.generator, {}
        else:
            codes = str(autoencoder(where, told.data, BEST, seed)[1])
            settings = {"lr": 2e-3, "epochs": ART, "batch_size": 32}
            options = {"codes": codes, "segments": ARTS[name], **BIART}
            model = fitted("l-verse", told.data, folder, seed, settings, **options)
            network, says = model.network, sayings(told, model, folder)
        reader, asked = told.reader(), told.asked(split.test)
        for one, path in paths.items():
            model.guidance = 2.0 if one.endswith(GUIDED) else 1.0
            drawn = np.stack(list(model.predictions(told.data, split.test, seed=seed)))
            np.save(path.with_suffix(".npy"), drawn[:SHOWN])
            distances = model.make_judge().metrics(drawn, model.truth(told.data, split.test, model.seen))
            path.write_text(json.dumps({
                **distances, **says, **{f"shows {k}": v for k, v in reader.agreement(drawn, asked).items()},
                "right": (reader.shown(drawn, asked) == 1).tolist(),
                "weights": sum(p.numel() for p in network.parameters()),
                "seconds": json.loads((folder / "seconds.json").read_text()),
            }))  # fmt: skip
    return {one: kept(path) for one, path in paths.items()}


def sayings(told: World, model: Any, folder: Path) -> dict[str, Any]:
    """What is said of the test pictures: shares of captions that name the right part, and all parts, row by row."""
    split = make_splits(told.data)
    teller = make_system("l-verse-captions", told.data, split.train, start=str(folder)).to(model.device)
    texts = list(teller.predictions(told.data, split.test))
    said, wanted = ([told.parse(text) for text in some] for some in (texts, told.said(split.test)))
    right = {part: [a[part] == b[part] for a, b in zip(said, wanted, strict=True)] for part in wanted[0]}
    whole = np.all(list(right.values()), axis=0)
    shares = {f"says {part}": float(np.mean(some)) for part, some in right.items()}
    return {**shares, "says all": float(whole.mean()), "told": whole.tolist(), "texts": texts[:SHOWN]}


def table(found: dict[str, list[dict[str, Any]]], columns: dict[str, str]) -> list[str]:
    """Mean, lowest to highest over the seeds."""
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, runs in found.items():
        cells = []
        for key in columns.values():
            values = np.array([run.get(key, np.nan) for run in runs])
            if np.isnan(values).any():
                cells.append("")
            elif key == "weights":
                cells.append(f"{values.mean():,.0f}")
            else:
                spread = f" ({values.min():.3g} to {values.max():.3g})" if np.ptp(values) else ""
                cells.append(f"{values.mean():.3g}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def figures(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The runs without what is kept of each row."""
    return {n: [{k: v for k, v in run.items() if not isinstance(v, list)} for run in some] for n, some in found.items()}


def tests(found: dict[str, list[dict[str, Any]]], asked: list[tuple[str, str, str, str]]) -> list[str]:
    """Paired tests: of one against another, by a score of the rows; Holm over the table."""
    gains = [
        paired_gain(*(np.array([run[key] for run in found[name]], float) for name in (one, other)))
        for _, one, other, key in asked
    ]
    lines = ["", "| test rows, paired | more by | p |", "| --- | ---: | ---: |"]
    corrected = holm(np.array([gain.p for gain in gains]))
    for (what, one, other, _), gain, p in zip(asked, gains, corrected, strict=True):
        interval = f"{gain.gain:.3g} ({gain.low:.3g} to {gain.high:.3g})"
        lines.append(f"| {what}: {one} against {other} | {interval} | {p:.4f} |")
    return lines


def grid(where: str, name: str, rows: dict[str, str]) -> None:
    """The first test pictures and, by title, what runs of seed 0 made of them or of their captions."""
    told = world(where)
    first = make_splits(told.data).test[:SHOWN]
    shown = {"real": told.real(first), **{title: np.load(RUNS / f"{stem}-0.npy") for title, stem in rows.items()}}
    draw_grid(told.said(first), shown, PAGE.parent / "figures" / f"l_verse_{name}.png")


def stem(where: str, name: str) -> str:
    return f"{where}-{name.replace(' ', '_') if name in VAES else re.sub(r'[^A-Za-z0-9]+', '_', name)}"


def publish(seeds: int) -> None:
    """All runs, their tables, tests and grids."""
    made = {kind: [vae("shapes", kind, seed) for seed in range(seeds)] for kind in VAES}
    first = next(iter(VAES))
    columns = {"weights": "weights", "squared error": "mse", "psnr": "psnr", "colour": "colour", "position": "position",
               "shape": "shape", "codes used": "used", "perplexity": "perplexity"}  # fmt: skip
    against = [("squared error", first, other, "errors") for other in VAES if other != first]
    fill_page(PAGE, [*table(made, columns), *tests(made, against)], "vae")
    write_result("l_verse_vae", {"runs": figures(made)})
    grid("shapes", "codes", {kind: stem("shapes", kind) for kind in VAES})
    for where, names in WORLDS.items():
        told, codes = world(where), [vae(where, BEST, seed) for seed in range(seeds)]
        found = {BACK: [{f"shows {part}": run[part] for part in (*told.shown, "all")} for run in codes]}
        for name in names:
            for seed in range(seeds):
                for one, run in art(where, name, seed).items():
                    found.setdefault(one, []).append(run)
        lead = "L-Verse" + GUIDED
        parts = [key.removeprefix("says ") for key in found[lead][0] if key.startswith("says ")]
        columns = {"weights": "weights", **{f"shows {p}": f"shows {p}" for p in (*told.shown, "all")},
                   "kernel": "distance kernel", **{f"says {p}": f"says {p}" for p in parts}}  # fmt: skip
        others = [(lead, GAN), (lead, "L-Verse"), (lead, "L-Verse without roles" + GUIDED)]
        against = [("shows all", *pair, "right") for pair in others if pair[1] in found]
        if "L-Verse without roles" in found:
            against.append(("says all", "L-Verse", "L-Verse without roles", "told"))
        fill_page(PAGE, [*table(found, columns), *tests(found, against)], where)
        write_result(f"l_verse_{where}", {"runs": figures(found)})
        grid(where, where, {name: stem(where, BEST if name == BACK else name) for name in found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", choices=(*VAES, *ARTS), help="make this run alone")
    parser.add_argument("--world", choices=tuple(WORLDS), default="shapes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    set_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if chosen.train is None:
        publish(chosen.seeds)
    else:
        started = time.monotonic()
        (vae if chosen.train in VAES else art)(chosen.world, chosen.train, chosen.seed)
        place = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{chosen.train}, {chosen.world}, seed {chosen.seed}: {time.monotonic() - started:.0f} s, {place}")
