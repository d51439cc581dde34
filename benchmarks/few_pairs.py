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
one JSON line last: sums of R@1, R@5 and R@10 both ways on test, in percent, means of seeds (of the ensemble one), all
on four views; ``one_view`` has the same without them.
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
from weft.alignment.whitened import Whitened
from weft.compare.aligners import Part, fewer_groups, fold_splits, part_of
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.models.aligned_ensemble import choose_weights, joined
from weft.retrieval.hub import Hubs
from weft.store import MemoryFeatures
from weft.training import fit_aligner

RUNS = ROOT / "runs" / "few_pairs"
Vectors = dict[str, dict[str, np.ndarray]]
Spec = tuple[str, dict[str, Any], dict[str, Any]]
TOWER = {"epochs": 30, "batch_size": 400}
REFINE = {"epochs": 12, "batch_size": 400, "lr": 3e-4, "weight_decay": 10.0, "per_group": "mean", "mix": 1.0}
CORNERS: dict[str, Spec] = {
    "procrustes": ("procrustes", {}, {}),
    "cca": ("cca", {}, {}),
    "ridge": ("ridge", {}, {}),
    "csa": ("whitened", {"score": "csa", "exponents": (0.5, 0.5), "choose": "fixed", "shrinkage": 3.0}, {}),
}
BESIDE: dict[str, Spec] = {
    f"whitened {a:g}, {b:g}, {r:g}, {p:g}": (
        "whitened",
        {"choose": "fixed", "exponents": (a, b), "shrinkage": r, "powers": (p, p), "width": 64},
        {},
    )
    for a, b, r, p in ((0.5, 0.5, 10.0, 1.0),)
}


def features() -> dict[str, MemoryFeatures]:
    """Pooled features of both modalities, of one view and of four; kept under runs/."""
    kept = RUNS / "features.npz"
    there = variables()
    data = load_dataset("flickr8k", Path(there["WEFT_DATA"]) / "flickr8k")
    group = np.asarray(data.group)
    if not kept.exists():
        photos, texts = (data.modalities[name].values for name in ("image", "text"))
        look = create_encoder(f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", "image", views=4)
        _, first, place = np.unique(group, return_index=True, return_inverse=True)
        views: list[np.ndarray] = []
        for part in (first[at : at + 20] for at in range(0, len(first), 20)):
            roots = [np.sqrt(np.maximum(tokens, 0)) for tokens in look.encode([photos[i] for i in part])]
            views += [unit(r.reshape(4, -1, r.shape[1]).mean(axis=1)) for r in roots]
        image = np.stack(views)[place]
        read = create_encoder(f"hf:{there['MINILM']}", "text", output="mean", layer=[6, 4, 2])
        order = np.argsort([len(text) for text in texts])
        text = np.zeros((len(texts), read.width), np.float32)
        for part in (order[at : at + 64] for at in range(0, len(order), 64)):
            text[part] = np.concatenate(read.encode([texts[i] for i in part]))
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, one=image[:, 0], four=unit(image.mean(axis=1)), text=text)
    with np.load(kept) as found:
        image = {"one": found["one"], "four": found["four"]}
        text = {"one": found["text"][:, : found["text"].shape[1] // 3], "four": found["text"]}
    return {
        name: MemoryFeatures(data.ids, {"image": image[name], "text": text[name]}, {}, data.split, group, "retrieval")
        for name in image
    }


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def fitted(store: MemoryFeatures, split: Split, spec: Spec, seed: int) -> AlignedModel:
    """A model trained, or solved, on the training rows of a split."""
    aligner, options, settings = spec
    model = AlignedModel.build(dims=store.dims, aligner=aligner, dim=256, aligner_options=options, seed=seed)
    fit_aligner(model, create_objective("infonce"), store, split, {**TOWER, **settings, "seed": seed}, progress=False)
    return model.eval()


def embedded(model: AlignedModel, store: MemoryFeatures, split: Split) -> Vectors:
    return {part: model.embed(store, getattr(split, part)) for part in ("train", "dev", "test")}


def sums(parts: dict[str, Part], z: Vectors) -> dict[str, float]:
    """Sum of recalls in percent on dev and test, and on test with the correction that dev chose."""
    chosen = parts["dev"].correction(z["dev"], z["train"])
    bank = {n: np.concatenate([z["train"][n], z["dev"][n]]) for n in z["train"]}
    return {
        "dev": 100 * float(parts["dev"].scores(z["dev"]).mean()),
        "test": 100 * float(parts["test"].scores(z["test"]).mean()),
        "hubs": 100 * float(parts["test"].scores(z["test"], Hubs(bank, chosen)).mean()),
    }


def refined(setting: dict[str, Any]) -> dict[str, Spec]:
    """What starts at ``whitened`` in this setting and is trained from there."""
    start = {"start": "whitened", "start_options": {**setting, "choose": "fixed"}}
    light = {"operation": "additive", "feedforward": 256, **start}
    return {"lightcrl from whitened": ("lightcrl", light, REFINE)}


def rows_of(store: MemoryFeatures, photos: int, seed: int, specs: dict[str, Spec], whole: bool) -> dict[str, Any]:
    """Every row of one set of features for one drawing of photos; with ``whole`` also what stands on ``whitened``."""
    group = np.asarray(store.group)
    split = fewer_groups(make_splits(store), group, photos, seed)
    parts = {"dev": part_of(store, split.dev), "test": part_of(store, split.test)}
    table: dict[str, Any] = {}
    vectors: dict[str, Vectors] = {}

    def add(name: str, spec: Spec) -> AlignedModel:
        started = time.process_time()
        model = fitted(store, split, spec, seed)
        vectors[name] = embedded(model, store, split)
        table[name] = {**sums(parts, vectors[name]), "cpu_s": time.process_time() - started}
        print(photos, seed, name, {k: round(v, 1) for k, v in table[name].items()}, flush=True)
        return model

    for name, spec in specs.items():
        add(name, spec)
    if not whole:
        return table
    solution = add("whitened", ("whitened", {}, {})).aligner
    assert isinstance(solution, Whitened)
    table["whitened"]["setting"] = solution.setting._asdict()
    print(photos, seed, table["whitened"]["setting"], flush=True)
    fixed = {**table["whitened"]["setting"], "choose": "fixed"}
    members: dict[str, Spec] = {
        "whitened": ("whitened", fixed, {}),
        **BESIDE,
        **refined(table["whitened"]["setting"]),
    }
    for name, spec in members.items():
        if name != "whitened":
            add(name, spec)
    folds = []
    for part, held in fold_splits(store, split):
        z = [fitted(store, part, spec, seed).embed(store, held) for spec in members.values()]
        folds.append((part_of(store, held), z))
    weights = choose_weights(len(members), lambda w: sum(float(p.scores(joined(z, w)).mean()) for p, z in folds))
    taken = [name for name, weight in zip(members, weights, strict=True) if weight]
    averaged = {part: joined([vectors[n][part] for n in members], weights) for part in ("train", "dev", "test")}
    table["ensemble"] = {**sums(parts, averaged), "members": taken}
    print(photos, seed, "ensemble", table["ensemble"], flush=True)
    for name in BESIDE:
        del table[name]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bar", action="store_true", help="800 photos alone, one JSON line last")
    parser.add_argument("--photos", default="100,200,400,800")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    set_threads(1)
    stores, rows = features(), []
    tower: dict[str, Spec] = {"two-tower": ("two-tower", {}, {})}
    for photos in [800] if arguments.bar else map(int, arguments.photos.split(",")):
        drawn: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for seed in range(arguments.seeds):
            again = photos == 800 and seed > 0  # nothing is drawn, so what is solved is solved once
            corners = {} if again or arguments.bar else CORNERS
            alone: dict[str, Spec] = {} if again else {"whitened": ("whitened", {}, {})}
            beside = refined(drawn["four", "whitened"][0]["setting"]) if again else {}
            for views, specs in (("one", {**corners, **alone, **tower}), ("four", {**tower, **beside})):
                found = rows_of(stores[views], photos, seed, specs, views == "four" and not again)
                for name, row in found.items():
                    drawn.setdefault((views, name), []).append(row)
        for (views, name), found_rows in drawn.items():
            mean = {k: float(np.mean([f[k] for f in found_rows])) for k in ("dev", "test", "hubs")}
            spread = {
                f"sd_{k}": float(np.std([f[k] for f in found_rows], ddof=1)) if len(found_rows) > 1 else 0.0
                for k in ("test", "hubs")
            }
            rows.append({"photos": photos, "views": views, "aligner": name, "runs": len(found_rows), **mean, **spread})
            cells = [f"{mean[k]:.0f} ± {spread[f'sd_{k}']:.0f}" for k in ("test", "hubs")]
            print(f"| {photos} | {views} | {name} | {mean['dev']:.0f} | {' | '.join(cells)} |", flush=True)
    if not arguments.bar:
        write_result("few_pairs", {"rows": rows})
    last = {(row["views"], row["aligner"]): row for row in rows if row["photos"] == 800}
    if last:
        figures: dict[str, Any] = {
            "two_tower": round(last["four", "two-tower"]["test"], 1),
            "best": round(last["four", "whitened"]["hubs"], 1),
            "ensemble": round(last["four", "ensemble"]["hubs"], 1),
            "one_view": {
                "two_tower": round(last["one", "two-tower"]["test"], 1),
                "best": round(last["one", "whitened"]["hubs"], 1),
            },
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
