"""Few pairs: frozen MobileNetV2 and MiniLM on Flickr8k, closed forms against the linear two-tower, and averages.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/few_pairs.py [--bar] [--photos 100,200,400,800] [--seeds 5]

Features are encoded once under runs/few_pairs, two sets by the same frozen encoders. One view: the image is the mean
over the map of the roots of its (non-negative) activations, of unit length; the text the mean over the tokens of the
last layer. Four views (``views=4``): that mean over the picture, its mirror image, the whole picture and its mirror
image; of the text three layers side by side (``layer=[6, 4, 2]``). Photos are drawn by the seed; at 800 there is
nothing to draw, so closed forms have one figure there. Everything is chosen on folds of the training photos or on the
dev photos; the test photos are scored once.

``whitened`` and its hub correction (bank of training and dev rows, weight chosen on dev) are ``best``. ``ensemble``:
equal weights of the members that the greedy choice takes on four folds of the training photos, each embedded by members
without it (settings are those chosen by folds of all training photos); members are ``whitened`` as chosen and in a
fixed setting beside it, and LightCRL that starts there, with several captions and mixing; the members of the average
are those of all training photos, and hubs are corrected after averaging. The other rows are two-towers: with several
captions of a photo, mixing, regularisers, another loss, begun at the closed form; ``klot`` also sees the training
photos that were not drawn, of one half the pictures alone, of the other the captions. Every row is kept under
runs/few_pairs as it appears, so that a killed run goes on; delete ``rows.jsonl`` to start anew. ``--bar`` does the 800
photos alone, afresh, and prints one JSON line last: sums of R@1, R@5 and R@10 both ways on test, in percent, means of
seeds, all on four views. Two processes of one thread share the work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from araf_results import write_section
from harness import cpu_seconds, set_threads, write_result
from real_comparisons import ROOT, variables

from weft.alignment import create_objective
from weft.alignment.whitened import Whitened
from weft.allocator import keep_freed_memory
from weft.compare.aligners import FOLDS, Part, fewer_groups, fold_splits, part_of
from weft.compare.statistics import holm, sign_flip_test
from weft.data import Dataset, Split, load_dataset, make_splits
from weft.encoders import Encoder, create_encoder
from weft.models import AlignedModel
from weft.models.aligned_ensemble import choose_weights, joined
from weft.retrieval.hub import Hubs, Rule, candidates_of
from weft.store import MemoryFeatures
from weft.training import fit_aligner

FEATURES = ROOT / "runs" / "few_pairs" / "features.npz"
LEDGER = FEATURES.with_name("rows.jsonl")
ALL, PROCESSES = 800, 2
Vectors = dict[str, np.ndarray]
Key = tuple[str, str, int, int | None]
"""Of a fit: views, name, seed and fold."""
Row = dict[str, Any]
RULES: dict[str, tuple[Rule, bool]] = {"nnn": ("nnn", False), "softmax": ("softmax", False), "gated": ("softmax", True)}
"""Hub corrections, and how :func:`~weft.retrieval.hub.candidates_of` calls them."""
TOWER = {"epochs": 30, "batch_size": 400}
LIGHTCRL = {"epochs": 30, "batch_size": 400, "weight_decay": 60.0, "patience": 8}
REFINE = {"epochs": 12, "batch_size": 400, "lr": 3e-4, "weight_decay": 10.0, "per_group": "mean", "mix": 1.0}


class Spec(NamedTuple):
    """An aligner, its options, the settings and objective of its training; whether it sees the photos left over."""

    aligner: str
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    objective: str = "infonce"
    unpaired: bool = False


class Job(NamedTuple):
    """One fit: on the photos that the seed draws, or on those of them outside one fold."""

    views: str
    photos: int
    seed: int
    spec: Spec
    fold: int | None = None


Run = Callable[[list[Job]], Iterable["Fitted"]]


class Fitted(NamedTuple):
    """Embeddings of ``train``, ``dev`` and ``test``, or of the fold held out; ``whitened``'s setting; epoch; CPU."""

    z: dict[str, Vectors]
    setting: dict[str, Any]
    epoch: int
    cpu_s: float


TOWERS = {"two-tower": Spec("two-tower")}
WHITENED = {"whitened": Spec("whitened")}
CORNERS = {
    "procrustes": Spec("procrustes"),
    "cca": Spec("cca"),
    "ridge": Spec("ridge"),
    "csa": Spec("whitened", {"score": "csa", "exponents": (0.5, 0.5), "choose": "fixed", "shrinkage": 3.0}),
}
TRAINED = {
    "several captions": Spec("two-tower", settings={"per_group": "all"}),
    "mean of captions": Spec("two-tower", settings={"per_group": "mean"}),
    "fusemix": Spec("two-tower", settings={"mix": 1.0}),
    "mean of captions, fusemix": Spec("two-tower", settings={"per_group": "mean", "mix": 1.0}),
    "structure": Spec("two-tower", settings={"regularisers": {"structure": {"rise": 20}}}),
    "structure, temperature 0.5": Spec(
        "two-tower", settings={"regularisers": {"structure": {"rise": 20, "temperature": 0.5}}}
    ),
    "siglip": Spec("two-tower", settings={"epochs": 100}, objective="siglip"),
    "lightcrl": Spec("lightcrl", {"operation": "additive", "feedforward": 256, "dropout": 0.1}, LIGHTCRL),
}
UNPAIRED = {
    "klot": Spec("two-tower", settings={"epochs": 60, "batch_size": ALL, "regularisers": {"klot": {}}}, unpaired=True)
}
FIXED = {"exponents": (0.5, 0.5), "shrinkage": 10.0, "powers": (1.0, 1.0), "width": 64, "choose": "fixed"}


def members(setting: dict[str, Any]) -> dict[str, Spec]:
    """What an ensemble chooses among: the form as chosen, another beside it, and what is trained from the former."""
    chosen = {**setting, "choose": "fixed"}
    light = {"operation": "additive", "feedforward": 256, "start": "whitened", "start_options": chosen}
    return {
        "whitened": Spec("whitened", chosen),
        "whitened, fixed": Spec("whitened", FIXED),
        "lightcrl from whitened": Spec("lightcrl", light, REFINE),
    }


def begun(setting: dict[str, Any], whole: bool) -> dict[str, Spec]:
    """Two-towers that begin at the form as chosen; with unpaired photos where some are left."""
    chosen = {**setting, "choose": "fixed"}
    options = {"start": "whitened", "start_options": chosen}
    plain = {name: value for name, value in REFINE.items() if name not in ("per_group", "mix")}
    teacher = {"klot": {"teacher": "whitened", "teacher_options": chosen, "dim": 256}}
    rest = {**REFINE, "mix": 0.0, "per_group": "one", "batch_size": ALL, "epochs": 30, "regularisers": teacher}
    return {
        "from whitened": Spec("two-tower", options, plain),
        "from whitened, mean of captions, fusemix": Spec("two-tower", options, REFINE),
        **({} if whole else {"from whitened, klot": Spec("two-tower", options, rest, unpaired=True)}),
    }


@cache
def data() -> Dataset:
    return load_dataset("flickr8k", Path(variables()["WEFT_DATA"]) / "flickr8k")


@cache
def encoder(kind: str) -> Encoder:
    there = variables()
    if kind == "image":
        return create_encoder(f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", "image", views=4)
    return create_encoder(f"hf:{there['MINILM']}", "text", output="mean", layer=[6, 4, 2])


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def see(rows: np.ndarray) -> np.ndarray:
    """``(n, 2, D)``: photos in one view and in four."""
    roots = [
        np.sqrt(np.maximum(t, 0)) for t in encoder("image").encode([data().modalities["image"].values[i] for i in rows])
    ]
    views = unit(np.stack([r.reshape(4, -1, r.shape[1]).mean(axis=1) for r in roots]))
    return np.stack([views[:, 0], unit(views.mean(axis=1))], axis=1)


def read(rows: np.ndarray) -> np.ndarray:
    """``(n, 3 D)``: captions, layer by layer."""
    return np.concatenate(encoder("text").encode([data().modalities["text"].values[i] for i in rows]))


def encode(pool: ProcessPoolExecutor) -> None:
    """Write the features of all photos and captions, if they are not there."""
    if FEATURES.exists():
        return
    texts = data().modalities["text"].values
    _, first, place = np.unique(np.asarray(data().group), return_index=True, return_inverse=True)
    order = np.argsort([len(text) for text in texts])
    seen = pool.map(see, np.array_split(first, len(first) // 20))
    known = pool.map(read, np.array_split(order, len(order) // 64))
    image, text = np.concatenate(list(seen))[place], np.concatenate(list(known))[np.argsort(order)]
    FEATURES.parent.mkdir(parents=True, exist_ok=True)
    np.savez(FEATURES, one=image[:, 0], four=image[:, 1], text=text)


@cache
def features(views: str) -> MemoryFeatures:
    """Pooled features of both modalities, in ``one`` view and the last layer, or in ``four`` and three."""
    with np.load(FEATURES) as found:
        image, text = found[views], found["text"]
    values = {"image": image, "text": text if views == "four" else text[:, : text.shape[1] // 3]}
    return MemoryFeatures(data().ids, values, {}, data().split, np.asarray(data().group), "retrieval")


def begin() -> None:
    """What every process does first."""
    keep_freed_memory()
    set_threads(1)


def fit(job: Job) -> Fitted:
    """A model trained, or solved, and what it makes of the rows."""
    started, store = time.process_time(), features(job.views)
    split = fewer_groups(make_splits(store), np.asarray(store.group), job.photos, job.seed)
    parts = split._asdict()
    if job.fold is not None:
        split, held = fold_splits(store, split)[job.fold]
        parts = {"held": held}
    aligner, options, settings, objective, unpaired = job.spec
    model = AlignedModel.build(dims=store.dims, aligner=aligner, dim=256, aligner_options=options, seed=job.seed)
    config = {**TOWER, **settings, "seed": job.seed}
    seen = with_unpaired(store, split) if unpaired else (store, split)
    history = fit_aligner(model, create_objective(objective), *seen, config, progress=False)
    z = {name: model.eval().embed(store, rows) for name, rows in parts.items()}
    setting = model.aligner.setting._asdict() if isinstance(model.aligner, Whitened) else {}
    return Fitted(z, setting, history.best_epoch, time.process_time() - started)


def with_unpaired(store: MemoryFeatures, split: Split) -> tuple[MemoryFeatures, Split]:
    """The training photos that were not drawn, torn apart: of one half the pictures, of the other the captions."""
    group, values = np.asarray(store.group), {n: v.copy() for n, v in store.pooled(np.arange(len(store))).items()}
    left = np.setdiff1d(make_splits(store).train, split.train)
    photos, first = np.unique(group[left], return_index=True)
    pictures, captions = left[first[::2]], left[np.isin(group[left], photos[1::2])]
    values["text"][pictures], values["image"][captions] = np.nan, np.nan
    torn = MemoryFeatures(store.ids, values, {}, store.split, group, "retrieval")
    return torn, split._replace(train=np.concatenate([split.train, pictures, captions]))


def scored(parts: dict[str, Part], z: dict[str, Vectors]) -> Row:
    """Sums of recalls in percent on dev and test, and on test with the correction that dev chose, by each rule.

    ``photos``: those of the test photos, one by one.
    """
    bank = {n: np.concatenate([z["train"][n], z["dev"][n]]) for n in z["train"]}
    plain, row = parts["test"].scores(z["test"]), {"dev": 100 * float(parts["dev"].scores(z["dev"]).mean())}
    for label, kind in RULES.items():
        chosen = parts["dev"].correction(z["dev"], z["train"], candidates_of(*kind))
        row[label] = 100 * float(parts["test"].scores(z["test"], Hubs(bank, chosen)).mean())
    return {**row, "test": 100 * float(plain.mean()), "photos": plain.round(3).tolist()}


def block(photos: int, drawing: int, seeds: int, bar: bool, run: Run, ledger: Ledger) -> None:
    """Every row of one drawing of photos; what the ledger has is not done again."""
    store = features("four")
    split, group = make_splits(store), np.asarray(store.group)
    parts = {name: part_of(store, getattr(split, name)) for name in ("dev", "test")}
    several = list(range(seeds)) if photos == ALL else [drawing]
    averages = [seed for seed in several if (photos, "four", "ensemble", seed) not in ledger]

    def keep(views: str, name: str, seed: int, row: Row) -> None:
        ledger[photos, views, name, seed] = row
        shown = {k: round(v, 1) for k, v in row.items() if isinstance(v, float)}
        print(photos, views, name, seed, shown, flush=True)

    def of(specs: dict[str, Spec], over: Iterable[int], views: str = "four", folds: int = 0) -> dict[Key, Job]:
        places: list[int | None] = list(range(folds)) if folds else [None]
        every = product(specs.items(), over, places)
        return {(views, name, seed, k): Job(views, photos, seed, spec, k) for (name, spec), seed, k in every}

    def done(jobs: dict[Key, Job], again: bool = False) -> dict[Key, Fitted]:
        """Fit what the ledger lacks (or all of it), and score what is no fold."""
        jobs = {key: job for key, job in jobs.items() if again or (photos, *key[:3]) not in ledger}
        found = {}
        for (views, name, seed, fold), result in zip(jobs, run(list(jobs.values())), strict=False):
            found[views, name, seed, fold] = result
            if fold is None and (photos, views, name, seed) not in ledger:
                more = {"cpu_s": result.cpu_s, "epoch": result.epoch, "setting": result.setting}
                keep(views, name, seed, {**scored(parts, result.z), **more})
        return found

    jobs = of({**WHITENED, **({} if bar else CORNERS)}, [drawing])
    jobs |= of({**TOWERS, **({} if bar else TRAINED)}, several)
    if photos == ALL:
        jobs |= of(WHITENED, [drawing], "one") | of(TOWERS, several, "one")
    elif not bar:
        jobs |= of(UNPAIRED, several)
    found = done(jobs)
    setting = ledger[photos, "four", "whitened", drawing]["setting"]
    if not bar:
        done(of(begun(setting, photos == ALL), several))
    if not averages:
        return
    specs = members(setting)
    jobs = of({n: s for n, s in specs.items() if not s.settings}, [drawing])
    jobs |= of({n: s for n, s in specs.items() if s.settings}, several) | of(specs, [drawing], folds=FOLDS)
    found |= done({key: job for key, job in jobs.items() if key not in found}, again=True)
    folds = fold_splits(store, fewer_groups(split, group, photos, drawing))
    held = [[found["four", name, drawing, k].z["held"] for name in specs] for k in range(FOLDS)]
    judges = [part_of(store, rows) for _, rows in folds]

    def judged(w: np.ndarray) -> float:
        return sum(float(part.scores(joined(z, w)).mean()) for part, z in zip(judges, held, strict=True))

    alone = [100 * judged(one) / FOLDS for one in np.eye(len(specs))]
    weights = choose_weights(len(specs), judged)
    taken = [name for name, w in zip(specs, weights, strict=True) if w]
    print(photos, drawing, "folds", dict(zip(specs, np.round(alone, 1), strict=True)), "ensemble of", taken)
    for seed in averages:
        z = [found["four", name, seed if spec.settings else drawing, None].z for name, spec in specs.items()]
        averaged = {part: joined([v[part] for v in z], weights) for part in z[0]}
        keep("four", "ensemble", seed, {**scored(parts, averaged), "setting": {"members": taken}})


class Ledger(dict[tuple[int, str, str, int], Row]):
    """Rows by photos, views, aligner and seed; each is a line of a file, where there is one, as soon as it is there."""

    def __init__(self, place: Path | None) -> None:
        super().__init__()
        self.place = place
        for line in place.read_text().splitlines() if place is not None and place.exists() else []:
            key, row = json.loads(line)
            super().__setitem__(tuple(key), row)

    def __setitem__(self, key: tuple[int, str, str, int], row: Row) -> None:
        super().__setitem__(key, row)
        if self.place is not None:
            with self.place.open("a") as file:
                file.write(json.dumps([key, row]) + "\n")


def summaries(ledger: Ledger) -> list[Row]:
    """A line for each number of photos, features and aligner, best on dev first.

    ``gap``: test minus that of the two-tower with the same seed, or minus its mean where there is but one run. ``p``:
    paired tests over the test photos against the first line of these features, Holm-adjusted.
    """
    table: dict[tuple[int, str], dict[str, list[Row]]] = {}
    for (photos, views, name, seed), row in sorted(ledger.items(), key=lambda item: (item[0][0], item[0][3])):
        towers = {key[3]: other["test"] for key, other in ledger.items() if key[:3] == (photos, views, "two-tower")}
        alone = sum(key[:3] == (photos, views, name) for key in ledger) == 1
        mean = float(np.mean([*towers.values()])) if towers else float("nan")
        row = {**row, "gap": row["test"] - (mean if alone else towers.get(seed, mean))}
        table.setdefault((photos, views), {}).setdefault(name, []).append(row)
    lines: list[Row] = []
    for (photos, views), named in table.items():
        order = sorted(named, key=lambda name: -np.mean([row["dev"] for row in named[name]]))
        mean = {name: np.mean([row["photos"] for row in named[name]], axis=0) for name in named}
        p = holm(np.array([sign_flip_test(mean[order[0]] - mean[name]) for name in order[1:]]))
        for name, value in zip(order, [None, *p.tolist()], strict=True):
            about = {"photos": photos, "views": views, "aligner": name, "runs": len(named[name]), "p": value}
            lines.append({**about, **summary(named[name])})
    return lines


def summary(rows: list[Row]) -> Row:
    """Means and deviations of the seeds, and what each has."""
    found: Row = {}
    for key in ("dev", "test", "gap", *RULES, "cpu_s", "epoch"):
        values = [row[key] for row in rows if key in row]
        if values:
            found[key] = float(np.mean(values))
            found[f"sd_{key}"] = float(np.std(values, ddof=min(1, len(values) - 1)))
    found["seeds"] = [round(row["test"], 2) for row in rows]
    return {**found, "settings": [row["setting"] for row in rows if row.get("setting")]}


def write_table(lines: list[Row]) -> None:
    """The tables of the page, a section for each number of photos."""
    for photos in sorted({line["photos"] for line in lines}):
        told = [
            "| aligner | dev | test | minus two-tower | hubs: nnn | softmax | gated | p | CPU s |",
            "| --- |" + " ---: |" * 8,
        ]
        for line in (line for line in lines if line["photos"] == photos):
            name = line["aligner"] + (", one view" if line["views"] == "one" else "")
            cells = [told_as(line, key) for key in ("dev", "test", "gap", *RULES)]
            p = "" if line["p"] is None else f"{line['p']:.2g}"
            cost = f"{line['cpu_s']:.0f}" if "cpu_s" in line else ""
            told.append(f"| {name} | {' | '.join(cells)} | {p} | {cost} |")
        write_section("few_pairs.md", f"photos {photos}", told)


def told_as(line: Row, key: str) -> str:
    """Mean, and deviation where there are several."""
    return f"{line[key]:.0f}" + (f" ± {line[f'sd_{key}']:.0f}" if line["runs"] > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bar", action="store_true", help="800 photos alone, one JSON line last")
    parser.add_argument("--photos", default="100,200,400,800")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    started, ledger = time.perf_counter(), Ledger(None if arguments.bar else LEDGER)
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), begin) as pool:
        encode(pool)
        print(f"encoded after {time.perf_counter() - started:.0f} s", flush=True)
        for photos in [ALL] if arguments.bar else map(int, arguments.photos.split(",")):
            for drawing in range(1 if photos == ALL else arguments.seeds):
                block(photos, drawing, arguments.seeds, arguments.bar, lambda jobs: pool.map(fit, jobs), ledger)
                if not arguments.bar:
                    write_result("few_pairs", {"rows": summaries(ledger)})
    print(f"{time.perf_counter() - started:.0f} s, {cpu_seconds():.0f} CPU s, {PROCESSES} processes", flush=True)
    lines = summaries(ledger)
    if not arguments.bar:
        write_table(lines)
    last = {row["aligner"]: row for row in lines if row["photos"] == ALL and row["views"] == "four"}
    if last:
        named = {"two_tower": ("two-tower", "test"), "best": ("whitened", "nnn"), "ensemble": ("ensemble", "nnn")}
        print(json.dumps({name: round(last[row][key], 1) for name, (row, key) in named.items()}))


if __name__ == "__main__":
    main()
