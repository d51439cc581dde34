"""LightCRL on Flickr8k: six operations, two temperatures, against the linear two-tower and ConVIRT; learning curve.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/flickr8k_lightcrl.py [--seeds 0,1,2,3,4] [--pages]

MobileNetV2's map, its 7 x 7 cells averaged to 3 x 3, and MiniLM's tokens of 800 + 100 + 100 photos with five captions
each, encoded once. One setting for all LightCRLs and one for the baselines, chosen on dev; ``7 x 7`` has the whole map.
Every fit leaves one JSON under runs/flickr8k_lightcrl, so that a killed run goes on, and several can share the seeds;
``--pages`` fits nothing and writes docs/results/flickr8k_lightcrl.md and its figure. About an hour of one busy core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from araf_results import write_section
from harness import set_threads
from real_comparisons import RESULTS, ROOT, variables
from torch.nn import functional as F

from weft.alignment import aligners, create_objective
from weft.alignment.lightcrl import Operation
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.store import Features, MemoryFeatures, Store, encode
from weft.tasks.plots import PALETTE, canvas
from weft.training import fit_aligner

RUNS = ROOT / "runs" / "flickr8k_lightcrl"
PAGE = "flickr8k_lightcrl.md"
BASELINE = {"epochs": 30, "batch_size": 400}
LIGHTCRL = {"epochs": 30, "batch_size": 400, "lr": 1e-3, "weight_decay": 60.0, "patience": 8}
OPTIONS = {"dropout": 0.1, "feedforward": 256}
BEST = "additive"
"""The operation with the best mean on dev."""
WHOLE, SIDE, CELLS = ", 7 x 7", 7, 3
TEMPERATURES = {"learned": {"temperature": 0.07}, "fixed": {"temperature": 1 / np.exp(2.5), "learnable": False}}
PHOTOS = (100, 200, 400, 800)
MEANS, WIDTHS = "means, ", (256, 1024)


class Fit(NamedTuple):
    """One training: its label, aligner, what differs from the defaults, and how many photos it sees."""

    label: str
    aligner: str
    seed: int
    settings: dict[str, Any]
    options: dict[str, Any] = {}
    objective: dict[str, Any] = {}
    photos: int = PHOTOS[-1]
    dim: int = 256

    @property
    def place(self) -> Path:
        return RUNS / "fits" / f"{self.label.replace(' ', '-')}-{self.photos}-{self.seed}.json"


def grid(seed: int) -> Iterator[Fit]:
    """Every method on all photos."""
    yield Fit("two-tower", "two-tower", seed, BASELINE)
    yield Fit("convirt", "convirt", seed, BASELINE)
    for operation in get_args(Operation):
        for name, temperature in TEMPERATURES.items():
            options = {**OPTIONS, "operation": operation}
            yield Fit(f"{operation} {name}", "lightcrl", seed, LIGHTCRL, options, temperature)
    for operation in ("addition", BEST):
        options = {**OPTIONS, "operation": operation}
        yield Fit(f"{operation} learned{WHOLE}", "lightcrl", seed, LIGHTCRL, options, TEMPERATURES["learned"])


def curve(seed: int) -> Iterator[Fit]:
    """The two-tower and one LightCRL on fewer photos."""
    for photos in PHOTOS[:-1]:
        yield Fit("two-tower", "two-tower", seed, BASELINE, photos=photos)
        options = {**OPTIONS, "operation": BEST}
        yield Fit(f"{BEST} learned", "lightcrl", seed, LIGHTCRL, options, TEMPERATURES["learned"], photos)


def without_attention(seed: int) -> Iterator[Fit]:
    """Linear and not, on mean vectors, where there is nothing to attend to, at two widths."""
    for dim in WIDTHS:
        yield Fit(f"{MEANS}two-tower, {dim}", "two-tower", seed, BASELINE, dim=dim)
        options = {**OPTIONS, "operation": "addition"}
        yield Fit(f"{MEANS}addition, {dim}", "lightcrl", seed, LIGHTCRL, options, TEMPERATURES["learned"], dim=dim)


def features() -> Store:
    """Both modalities' tokens, encoded once."""
    there = variables()
    data = load_dataset("flickr8k", Path(there["WEFT_DATA"]) / "flickr8k")
    encoders = {
        "image": create_encoder(f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", "image"),
        "text": create_encoder(f"hf:{there['MINILM']}", "text"),
    }
    return encode(data, encoders, RUNS / "store")


def averaged(store: Store) -> MemoryFeatures:
    """The same features with the map averaged to ``CELLS`` x ``CELLS`` tokens."""
    columns: dict[str, list[np.ndarray]] = {"image": [], "text": []}
    for part in np.array_split(np.arange(len(store)), 10):
        image, text = (store.gather(part)[name] for name in columns)
        maps = image.values.mT.unflatten(2, (SIDE, SIDE))
        columns["image"] += list(F.adaptive_avg_pool2d(maps, CELLS).flatten(2).mT.numpy())
        columns["text"] += [values[mask].numpy() for values, mask in zip(*text, strict=True)]
    return MemoryFeatures(store.ids, columns, {}, store.split, store.group, store.task)


def means(store: Store) -> MemoryFeatures:
    """The same features, one token of each modality."""
    vectors = store.pooled(np.arange(len(store)))
    return MemoryFeatures(store.ids, vectors, {}, store.split, store.group, store.task)


def fewer(split: Split, group: np.ndarray, photos: int, seed: int) -> Split:
    """The split with the captions of ``photos`` training photos, drawn by the seed."""
    every = np.unique(group[split.train])
    kept = np.random.default_rng(seed).choice(every, photos, replace=False)
    return split._replace(train=split.train[np.isin(group[split.train], kept)])


def run(fit: Fit, store: Features) -> None:
    """Train and leave the figures; a fit whose file is there is done."""
    if fit.place.exists():
        return
    started, split = time.process_time(), make_splits(store)
    assert store.group is not None
    model = AlignedModel.build(
        dims=store.dims, aligner=fit.aligner, dim=fit.dim, aligner_options=fit.options, seed=fit.seed
    )
    objective = create_objective(aligners.get(fit.aligner).objective, **fit.objective)
    settings = {**fit.settings, "seed": fit.seed}
    history = fit_aligner(
        model, objective, store, fewer(split, store.group, fit.photos, fit.seed), settings, progress=False
    )
    figures = {
        "label": fit.label,
        "photos": fit.photos,
        "seed": fit.seed,
        "weights": sum(p.numel() for p in model.aligner.parameters()),
        "epochs": history.epochs,
        "best_epoch": history.best_epoch,
        "dev": 100 * history.best["dev_score"],
        "test": model.evaluate(store, split.test),
        "cpu_s": time.process_time() - started,
    }
    fit.place.parent.mkdir(parents=True, exist_ok=True)
    fit.place.write_text(json.dumps(figures))
    print(fit.place.stem, f"dev {figures['dev']:.0f}", f"{figures['cpu_s']:.0f} CPU s", flush=True)


def found() -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Finished fits by label and photos."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for path in sorted((RUNS / "fits").glob("*.json")):
        one = json.loads(path.read_text())
        groups.setdefault((one["label"], one["photos"]), []).append(one)
    return groups


def sums(fits: list[dict[str, Any]], part: str = "test") -> np.ndarray:
    """Sums of recalls, of 600, of every seed."""
    return np.array([fit["dev"] if part == "dev" else 100 * fit["test"]["sum of recalls"] for fit in fits])


def table(groups: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    """Methods on all photos, the best on test first."""
    whole = {label: fits for (label, photos), fits in groups.items() if photos == PHOTOS[-1]}
    reached = {label: fits for label, fits in whole.items() if not label.startswith(MEANS)}
    base = {fit["seed"]: sum_ for fit, sum_ in zip(reached["two-tower"], sums(reached["two-tower"]), strict=True)}
    head = "| aligner | sum of recalls, test | dev | minus the two-tower | best epoch | weights | CPU s |"
    lines = [head, "| --- |" + " ---: |" * (head.count("|") - 2)]
    for label, fits in sorted(reached.items(), key=lambda item: -sums(item[1]).mean()):
        test, dev = sums(fits), sums(fits, "dev")
        less = test - [base[fit["seed"]] for fit in fits]
        epochs, seconds = np.mean([f["best_epoch"] + 1 for f in fits]), np.median([f["cpu_s"] for f in fits])
        cells = [f"{x.mean():.0f} ± {x.std(ddof=1):.0f}" for x in (test, dev, less)]
        cells[2] = "" if label == "two-tower" else cells[2]
        lines.append(f"| {label} | {' | '.join(cells)} | {epochs:.0f} | {fits[0]['weights']:,} | {seconds:.0f} |")
    return lines


def learning(groups: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    """Sums of recalls by number of photos, as a table and a figure."""
    shown = ("two-tower", f"{BEST} learned")
    lines = [f"| photos | {' | '.join(shown)} |", "| ---: | ---: | ---: |"]
    for photos in PHOTOS:
        values = [sums(groups[label, photos]) for label in shown]
        lines.append(f"| {photos} | {' | '.join(f'{v.mean():.0f} ± {v.std(ddof=1):.0f}' for v in values)} |")
    with canvas(RESULTS / "figures", "flickr8k_lightcrl", columns=2) as (left, right):
        for label, colour in zip(shown, PALETTE, strict=False):
            values = [sums(groups[label, photos]) for photos in PHOTOS]
            means, spreads = [v.mean() for v in values], [v.std(ddof=1) for v in values]
            left.errorbar(PHOTOS, means, spreads, label=label, color=colour, capsize=3)
            epochs = groups[label, PHOTOS[-1]][0]["epochs"]
            right.plot([e["loss"] for e in epochs], color=colour, linestyle=":", label=f"{label}, training")
            right.plot([e["dev_loss"] for e in epochs], color=colour, label=f"{label}, dev")
        left.set(xscale="log", xlabel="training photos", ylabel="sum of recalls (of 600), test")
        left.set_xticks(PHOTOS, map(str, PHOTOS))
        left.minorticks_off()
        right.set(xlabel="epoch", ylabel="InfoNCE, seed 0")
        left.legend()
        right.legend()
    return [*lines, "", "![Sum of recalls by number of photos; losses](figures/flickr8k_lightcrl.png)"]


def vectors(groups: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    """What is left on mean vectors."""
    lines = ["| width | two-tower | LightCRL, addition |", "| ---: | ---: | ---: |"]
    for dim in WIDTHS:
        values = [sums(groups[f"{MEANS}{name}, {dim}", PHOTOS[-1]]) for name in ("two-tower", "addition")]
        lines.append(f"| {dim:,} | {' | '.join(f'{v.mean():.0f} ± {v.std(ddof=1):.0f}' for v in values)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the trainings, joined by commas")
    parser.add_argument("--pages", action="store_true", help="fit nothing, write the page from what is there")
    arguments = parser.parse_args()
    set_threads(1)
    if not arguments.pages:
        whole = features()
        small, pooled = averaged(whole), means(whole)
        for seed in map(int, arguments.seeds.split(",")):
            for fit in (*grid(seed), *curve(seed)):
                run(fit, whole if fit.label.endswith(WHOLE) else small)
            for fit in without_attention(seed):
                run(fit, pooled)
    write_section(PAGE, "table", table(found()))
    write_section(PAGE, "learning", learning(found()))
    write_section(PAGE, "means", vectors(found()))


if __name__ == "__main__":
    main()
