"""Few pairs: frozen MobileNetV2 and MiniLM on Flickr8k, closed forms against the linear two-tower, and averages.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/few_pairs.py [--bar] [--photos 100,200,400,800] [--seeds 5]

Features are encoded once under runs/few_pairs: the image is the mean over the map of the roots of its (non-negative)
activations, of unit length; the text the mean over the tokens. Photos are drawn by the seed; at 800 there is nothing to
draw, so closed forms have one figure there. Everything is chosen on folds of the training photos or on the dev photos;
the test photos are scored once. ``--bar`` does the 800 photos alone and prints one JSON line last: sums of R@1, R@5 and
R@10 both ways on test, in percent, means of seeds. ``best`` is ``whitened`` with the hub correction whose weight dev
chose; ``ensemble`` the greedy average on dev of both, corrected alike.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import set_threads, write_result
from real_comparisons import ROOT, variables

from weft.alignment import create_objective
from weft.compare.aligners import Part, part_of
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.models.aligned_ensemble import choose_weights, joined
from weft.retrieval.hub import Hubs
from weft.store import MemoryFeatures, encode
from weft.training import fit_aligner

RUNS = ROOT / "runs" / "few_pairs"
MEMBERS = {
    "procrustes": ("procrustes", {}),
    "cca": ("cca", {}),
    "ridge": ("ridge", {}),
    "whitened": ("whitened", {}),
    "csa": ("whitened", {"score": "csa", "exponents": (0.5, 0.5), "choose": "fixed", "shrinkage": 3.0}),
}
TOWER = {"epochs": 30, "batch_size": 400}


def features() -> MemoryFeatures:
    """Pooled features of both modalities; kept under runs/."""
    kept = RUNS / "features.npz"
    there = variables()
    data = load_dataset("flickr8k", Path(there["WEFT_DATA"]) / "flickr8k")
    if not kept.exists():
        encoders = {
            "image": create_encoder(f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", "image"),
            "text": create_encoder(f"hf:{there['MINILM']}", "text", output="mean"),
        }
        store = encode(data, encoders, RUNS / "store")
        image = []
        for part in np.array_split(np.arange(len(store)), 20):
            roots = np.sqrt(np.maximum(store.gather(part)["image"].values.numpy(), 0)).mean(axis=1)
            image.append(roots / np.linalg.norm(roots, axis=1, keepdims=True))
        np.savez(kept, image=np.concatenate(image), text=store.pooled(np.arange(len(store)))["text"])
    with np.load(kept) as found:
        values = {name: found[name] for name in ("image", "text")}
    return MemoryFeatures(data.ids, values, {}, data.split, data.group, "retrieval")


def fewer(split: Split, group: np.ndarray, photos: int, seed: int) -> Split:
    """The split with the captions of some training photos, drawn by the seed."""
    every = np.unique(group[split.train])
    kept = np.random.default_rng(seed).choice(every, photos, replace=False)
    return split._replace(train=split.train[np.isin(group[split.train], kept)])


def fitted(store: MemoryFeatures, split: Split, aligner: str, options: dict[str, Any], seed: int) -> AlignedModel:
    """A model trained, or solved, on the training rows of a split."""
    model = AlignedModel.build(dims=store.dims, aligner=aligner, dim=256, aligner_options=options, seed=seed)
    fit_aligner(model, create_objective("infonce"), store, split, {**TOWER, "seed": seed}, progress=False)
    return model.eval()


def sums(parts: dict[str, Part], z: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """Sum of recalls in percent on dev and test, and on test with the correction that dev chose."""
    chosen = parts["dev"].correction(z["dev"], z["train"])
    bank = {n: np.concatenate([z["train"][n], z["dev"][n]]) for n in z["train"]}
    return {
        "dev": 100 * float(parts["dev"].scores(z["dev"]).mean()),
        "test": 100 * float(parts["test"].scores(z["test"]).mean()),
        "hubs": 100 * float(parts["test"].scores(z["test"], Hubs(bank, chosen)).mean()),
    }


def draw(store: MemoryFeatures, photos: int, seed: int, solved: bool) -> dict[str, dict[str, Any]]:
    """Every row of the table for one drawing of photos; closed forms only where ``solved``."""
    group = np.asarray(store.group)
    split = fewer(make_splits(store), group, photos, seed)
    parts = {"dev": part_of(store, split.dev), "test": part_of(store, split.test)}
    table, vectors = {}, {}
    members = {**(MEMBERS if solved else {}), "two-tower": ("two-tower", {})}
    for name, (aligner, options) in members.items():
        started = time.process_time()
        model = fitted(store, split, aligner, options, seed)
        vectors[name] = {p: model.embed(store, getattr(split, p)) for p in ("train", "dev", "test")}
        table[name] = {**sums(parts, vectors[name]), "cpu_s": time.process_time() - started}
        if hasattr(model.aligner, "setting"):
            table[name]["setting"] = list(map(str, model.aligner.setting))
        print(photos, seed, name, {k: v if k == "setting" else round(v, 1) for k, v in table[name].items()}, flush=True)
    return {"table": table, "vectors": vectors, "parts": parts}


def ensemble(parts: dict[str, Part], members: list[dict[str, dict[str, np.ndarray]]]) -> dict[str, float]:
    """The greedy average on dev."""
    counts = choose_weights([z["dev"] for z in members], lambda v: float(parts["dev"].scores(v).mean()))
    return sums(parts, {p: joined([z[p] for z in members], counts) for p in ("train", "dev", "test")})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bar", action="store_true", help="800 photos alone, one JSON line last")
    parser.add_argument("--photos", default="100,200,400,800")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    set_threads(1)
    store, rows = features(), []
    for photos in [800] if arguments.bar else map(int, arguments.photos.split(",")):
        drawn = [draw(store, photos, seed, photos < 800 or seed == 0) for seed in range(arguments.seeds)]
        if photos < 800:
            for one in drawn:
                one["table"]["ensemble"] = ensemble(one["parts"], list(one["vectors"].values()))
        else:
            every = [z for one in drawn for z in one["vectors"].values()]
            drawn[0]["table"]["ensemble"] = ensemble(drawn[0]["parts"], every)
        for name in drawn[0]["table"]:
            found = [one["table"][name] for one in drawn if name in one["table"]]
            mean = {k: float(np.mean([f[k] for f in found])) for k in ("dev", "test", "hubs")}
            spread = float(np.std([f["test"] for f in found], ddof=1)) if len(found) > 1 else 0.0
            rows.append({"photos": photos, "aligner": name, "runs": len(found), **mean, "sd": spread})
            print(
                f"| {photos} | {name} | {mean['dev']:.0f} | {mean['test']:.0f} ± {spread:.0f} | {mean['hubs']:.0f} |",
                flush=True,
            )
    if not arguments.bar:
        write_result("few_pairs", {"rows": rows})
    last = {row["aligner"]: row for row in rows if row["photos"] == 800}
    if last:
        found = {
            "two_tower": last["two-tower"]["test"],
            "best": last["whitened"]["hubs"],
            "ensemble": last["ensemble"]["hubs"],
        }
        print(json.dumps({k: round(v, 1) for k, v in found.items()}))


if __name__ == "__main__":
    main()
