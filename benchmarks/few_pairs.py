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
are those of all training photos, and hubs are corrected after averaging. ``--bar`` does the 800 photos alone and prints
one JSON line last: sums of R@1, R@5 and R@10 both ways on test, in percent, means of seeds, all on four views;
``one_view`` has the same without them. Two processes of one thread share the work.
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
from harness import cpu_seconds, set_threads, write_result
from real_comparisons import ROOT, variables

from weft.alignment import create_objective
from weft.alignment.whitened import Whitened
from weft.allocator import keep_freed_memory
from weft.compare.aligners import FOLDS, Part, fewer_groups, fold_splits, part_of
from weft.data import Dataset, load_dataset, make_splits
from weft.encoders import Encoder, create_encoder
from weft.models import AlignedModel
from weft.models.aligned_ensemble import choose_weights, joined
from weft.retrieval.hub import Hubs
from weft.store import MemoryFeatures
from weft.training import fit_aligner

FEATURES = ROOT / "runs" / "few_pairs" / "features.npz"
ALL, PROCESSES = 800, 2
Vectors = dict[str, np.ndarray]
Key = tuple[str, str, int, int | None]
"""Of a fit: views, name, seed and fold."""
TOWER = {"epochs": 30, "batch_size": 400}
REFINE = {"epochs": 12, "batch_size": 400, "lr": 3e-4, "weight_decay": 10.0, "per_group": "mean", "mix": 1.0}


class Spec(NamedTuple):
    """An aligner, its options, and the settings of its training."""

    aligner: str
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}


class Job(NamedTuple):
    """One fit: on the photos that the seed draws, or on those of them outside one fold."""

    views: str
    photos: int
    seed: int
    spec: Spec
    fold: int | None = None


class Fitted(NamedTuple):
    """Embeddings of ``train``, ``dev`` and ``test``, or of the fold held out; the setting of ``whitened``; CPU."""

    z: dict[str, Vectors]
    setting: dict[str, Any]
    cpu_s: float


TOWERS = {"two-tower": Spec("two-tower")}
WHITENED = {"whitened": Spec("whitened")}
CORNERS = {
    "procrustes": Spec("procrustes"),
    "cca": Spec("cca"),
    "ridge": Spec("ridge"),
    "csa": Spec("whitened", {"score": "csa", "exponents": (0.5, 0.5), "choose": "fixed", "shrinkage": 3.0}),
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
    aligner, options, settings = job.spec
    model = AlignedModel.build(dims=store.dims, aligner=aligner, dim=256, aligner_options=options, seed=job.seed)
    config = {**TOWER, **settings, "seed": job.seed}
    fit_aligner(model, create_objective("infonce"), store, split, config, progress=False)
    z = {name: model.eval().embed(store, rows) for name, rows in parts.items()}
    setting = model.aligner.setting._asdict() if isinstance(model.aligner, Whitened) else {}
    return Fitted(z, setting, time.process_time() - started)


def sums(parts: dict[str, Part], z: dict[str, Vectors]) -> dict[str, float]:
    """Sum of recalls in percent on dev and test, and on test with the correction that dev chose."""
    chosen = parts["dev"].correction(z["dev"], z["train"])
    bank = {n: np.concatenate([z["train"][n], z["dev"][n]]) for n in z["train"]}
    return {
        "dev": 100 * float(parts["dev"].scores(z["dev"]).mean()),
        "test": 100 * float(parts["test"].scores(z["test"]).mean()),
        "hubs": 100 * float(parts["test"].scores(z["test"], Hubs(bank, chosen)).mean()),
    }


def rows_of(photos: int, seeds: int, bar: bool, run: Callable[[list[Job]], Iterable[Fitted]]) -> list[dict[str, Any]]:
    """Every row of the table for a number of photos: means and deviations of the seeds, or of one run where none is."""
    drawings, store = range(1 if photos == ALL else seeds), features("four")
    split, group = make_splits(store), np.asarray(store.group)
    parts = {name: part_of(store, getattr(split, name)) for name in ("dev", "test")}
    scores: dict[tuple[str, str], list[dict[str, float]]] = {}

    def of(specs: dict[str, Spec], over: Iterable[int], views: str = "four", folds: int = 0) -> dict[Key, Job]:
        places: list[int | None] = list(range(folds)) if folds else [None]
        every = product(specs.items(), over, places)
        return {(views, name, seed, k): Job(views, photos, seed, spec, k) for (name, spec), seed, k in every}

    def done(jobs: dict[Key, Job]) -> dict[Key, Fitted]:
        """Fit, and score what is no fold."""
        results = dict(zip(jobs, run(list(jobs.values())), strict=False))
        for (views, name, seed, fold), result in results.items():
            if fold is None:
                row = {**sums(parts, result.z), "cpu_s": result.cpu_s}
                scores.setdefault((views, name), []).append(row)
                print(photos, views, name, seed, {k: round(v, 1) for k, v in row.items()}, flush=True)
        return results

    jobs = of({**WHITENED, **({} if bar else CORNERS)}, drawings) | of(TOWERS, range(seeds))
    if photos == ALL:
        jobs |= of(WHITENED, drawings, "one") | of(TOWERS, range(seeds), "one")
    found = done(jobs)
    chosen = {d: members(found["four", "whitened", d, None].setting) for d in drawings}
    jobs = {}
    for drawing, specs in chosen.items():
        print(photos, drawing, found["four", "whitened", drawing, None].setting, flush=True)
        solved = {name: spec for name, spec in specs.items() if name != "whitened" and not spec.settings}
        trained = {name: spec for name, spec in specs.items() if spec.settings}
        jobs |= of(solved, [drawing]) | of(trained, range(seeds) if photos == ALL else [drawing])
        jobs |= of(specs, [drawing], folds=FOLDS)
    found |= done(jobs)
    for drawing, specs in chosen.items():
        folds = fold_splits(store, fewer_groups(split, group, photos, drawing))
        held = [[found["four", name, drawing, k].z["held"] for name in specs] for k in range(FOLDS)]
        judges = [part_of(store, rows) for _, rows in folds]

        def judged(w: np.ndarray, judges: list[Part] = judges, held: list[list[Vectors]] = held) -> float:
            return sum(float(part.scores(joined(z, w)).mean()) for part, z in zip(judges, held, strict=True))

        alone = [100 * judged(one) / FOLDS for one in np.eye(len(specs))]
        weights = choose_weights(len(specs), judged)
        taken = [name for name, w in zip(specs, weights, strict=True) if w]
        print(photos, drawing, "folds", dict(zip(specs, np.round(alone, 1), strict=True)), "ensemble of", taken)
        for seed in range(seeds) if photos == ALL else [drawing]:
            z = [found["four", name, seed if spec.settings else drawing, None].z for name, spec in specs.items()]
            averaged = {part: joined([v[part] for v in z], weights) for part in z[0]}
            scores.setdefault(("four", "ensemble"), []).append(sums(parts, averaged))
            print(photos, "four ensemble", seed, scores["four", "ensemble"][-1], flush=True)
    return [{"photos": photos, "views": v, "aligner": n, **summary(rows)} for (v, n), rows in scores.items()]


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means, and deviations of what was scored on test."""
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    spread = {f"sd_{k}": float(np.std([row[k] for row in rows], ddof=min(1, len(rows) - 1))) for k in ("test", "hubs")}
    return {"runs": len(rows), **means, **spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bar", action="store_true", help="800 photos alone, one JSON line last")
    parser.add_argument("--photos", default="100,200,400,800")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    started, rows = time.perf_counter(), []
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), begin) as pool:
        encode(pool)
        print(f"encoded after {time.perf_counter() - started:.0f} s", flush=True)
        for photos in [ALL] if arguments.bar else map(int, arguments.photos.split(",")):
            rows += rows_of(photos, arguments.seeds, arguments.bar, lambda jobs: pool.map(fit, jobs))
    for row in rows:
        cells = [f"{row[k]:.0f}" + (f" ± {row[f'sd_{k}']:.0f}" if row["runs"] > 1 else "") for k in ("test", "hubs")]
        print(f"| {row['photos']} | {row['aligner']} | {row['views']} | {row['dev']:.0f} | {' | '.join(cells)} |")
    print(f"{time.perf_counter() - started:.0f} s, {cpu_seconds():.0f} CPU s, {PROCESSES} processes", flush=True)
    if not arguments.bar:
        write_result("few_pairs", {"rows": rows})
    last = {row["aligner"]: row for row in rows if row["photos"] == ALL and row["views"] == "four"}
    if last:
        named = {"two_tower": ("two-tower", "test"), "best": ("whitened", "hubs"), "ensemble": ("ensemble", "hubs")}
        print(json.dumps({name: round(last[row][key], 1) for name, (row, key) in named.items()}))


if __name__ == "__main__":
    main()
