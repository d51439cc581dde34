"""Which corner of the whitened family is best where, and whether the choice finds it: Wikipedia, RoadScene, STS-B.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/corners.py [wikipedia] [roadscene] [stsb] [--seeds 5]

Wikipedia: image and text, cross-modal mAP, an item of the same class being right. RoadScene: a visible photo finds its
infrared one and back, R@1, of MobileNetV2's mean features. STS-B: MiniLM and hashed n-grams of the same 1,000 training
sentences; the score is Spearman's correlation, over the 1,500 dev pairs, of the cosine between the first sentence by
one encoder and the second by the other with the human similarity. A seed draws the split (Wikipedia: the dev part;
STS-B: the sentences). ``whitened`` is chosen by the mean log rank of exact partners, on folds of the training rows or
on the dev rows; classes and human scores are never seen. Beside the corners: the linear two-tower, LightCRL, and both
begun at the form that folds chose. Every row also with hubs corrected, the weight chosen on dev by exact partners.
Paired tests against the row that is best on dev, over the test rows of all seeds (a row that several seeds test keeps
one sign), Holm-adjusted. A set that is not named keeps its figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from araf_results import write_section
from harness import RESULTS, set_threads, write_result
from real_comparisons import ROOT, variables
from scipy.stats import rankdata

from weft.alignment import create_objective
from weft.alignment.whitened import Whitened
from weft.allocator import keep_freed_memory
from weft.compare.aligners import part_of
from weft.compare.statistics import exchange_test, holm, sign_flip_test
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.retrieval.hub import Hubs
from weft.retrieval.metrics import Positives, rank
from weft.store import MemoryFeatures, encode
from weft.training import fit_aligner

Vectors = dict[str, np.ndarray]
Judge = Callable[[Vectors, Hubs | None], np.ndarray]
"""Embeddings of the test rows to values of each ``(n,)``, whose mean is the score; STS-B: cosines ``(n, 2)``."""
Drawn = tuple[MemoryFeatures, Split, int, Judge]
FIXED = {"choose": "fixed", "shrinkage": 1.0}
TOWER = {"epochs": 30, "batch_size": 400}
LIGHTCRL = {**TOWER, "weight_decay": 60.0, "patience": 8}
REFINE = {"epochs": 12, "batch_size": 400, "lr": 3e-4, "weight_decay": 10.0}
ADDITIVE = {"operation": "additive", "feedforward": 256, "heads": 1}
WIDTH = 64
"""Of what is trained from nothing, at least."""
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "Procrustes": ("whitened", {**FIXED, "exponents": (0.0, 0.0), "powers": (0.0, 0.0)}),
    "first predicts second": ("whitened", {**FIXED, "exponents": (0.5, 0.0), "powers": (1.0, 0.0)}),
    "second predicts first": ("whitened", {**FIXED, "exponents": (0.0, 0.5), "powers": (0.0, 1.0)}),
    "CCA": ("whitened", {**FIXED, "exponents": (0.5, 0.5), "powers": (0.0, 0.0)}),
    "CCA, columns by correlation": ("whitened", {**FIXED, "exponents": (0.5, 0.5), "powers": (1.0, 1.0)}),
    "half whitened": ("whitened", {**FIXED, "exponents": (0.25, 0.25), "powers": (0.5, 0.5)}),
    "whitened, by folds": ("whitened", {}),
    "whitened, by dev": ("whitened", {"choose": "dev"}),
    "two-tower": ("two-tower", {}),
    "lightcrl": ("lightcrl", {**ADDITIVE, "dropout": 0.1}),
    "two-tower from whitened": ("two-tower", {"start": "whitened"}),
    "lightcrl from whitened": ("lightcrl", {**ADDITIVE, "start": "whitened"}),
}
SETTINGS = {"two-tower": TOWER, "lightcrl": LIGHTCRL}


def both_ways(z: Vectors, hubs: Hubs | None) -> list[tuple[Any, Any]]:
    """Queries and gallery of either direction, hubs corrected where that is asked."""
    return [(z[a], z[b]) if hubs is None else hubs.apply(a, b, z[a], z[b]) for a, b in permutations(z, 2)]


def found_by(z: Vectors, hubs: Hubs | None, group: np.ndarray, k: int | None) -> np.ndarray:
    """Of each row the mean over both directions: average precision, or whether a partner is among the first ``k``."""
    rankings = [rank(q, g, Positives.from_groups(group, group), (k or 1,)) for q, g in both_ways(z, hubs)]
    return np.mean([r.average_precision if k is None else r.hits[:, 0] for r in rankings], axis=0)


def wikipedia(seeds: int) -> Iterator[Drawn]:
    data = load_dataset("multiview", Path(variables()["WEFT_DATA"]) / "multiview", file="Wikipedia")
    values = {name: np.stack(modality.values) for name, modality in data.modalities.items()}
    features = MemoryFeatures(data.ids, values, data.targets, split=data.split, task="retrieval")
    for seed in range(seeds):
        split = make_splits(features, "given", seed=seed)
        classes = features.targets["class"][split.test]
        yield features, split, 9, lambda z, hubs, group=classes: found_by(z, hubs, group, None)  # type: ignore[misc]


def roadscene(seeds: int) -> Iterator[Drawn]:
    there = variables()
    data = load_dataset("roadscene", Path(there["WEFT_DATA"]) / "roadscene")
    encoder = create_encoder(f"hf:{Path(there['WEFT_MODELS']) / 'mobilenet_v2_1.0_224'}", "image", output="mean")
    place = ROOT / "runs" / "corners" / "roadscene"
    store = encode(data, dict.fromkeys(data.modalities, encoder), place, progress=False)
    features = MemoryFeatures(store.ids, dict(store.pooled(np.arange(len(store)))), {}, task="retrieval")
    for seed in range(seeds):
        split = make_splits(features, "random", (0.5, 0.15, 0.35), seed)
        yield features, split, 32, lambda z, hubs: found_by(z, hubs, np.arange(len(next(iter(z.values())))), 1)


def stsb(seeds: int) -> Iterator[Drawn]:
    there = variables()
    data = load_dataset("stsb", Path(there["WEFT_DATA"]) / "STS-B")
    parts = np.asarray(data.split)
    first, second = (data.modalities[name].values for name in ("first", "second"))
    judged = np.flatnonzero(parts == "dev")
    known = sorted({s for i in np.flatnonzero(parts == "train") for s in (first[i], second[i])})
    HUMAN[:] = [rankdata(np.asarray(data.targets["score"], dtype=float)[judged])]
    asked = [first[i] for i in judged] + [second[i] for i in judged]
    readers = {
        "minilm": create_encoder(f"hf:{there['MINILM']}", "text", output="mean"),
        "hashed": create_encoder("hashed-text", "text"),
    }
    judged_as = {name: read(reader, asked) for name, reader in readers.items()}
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).choice(known, 1000, replace=False).tolist()
        values = {name: np.concatenate([read(reader, drawn), judged_as[name]]) for name, reader in readers.items()}
        features = MemoryFeatures([str(i) for i in range(1000 + len(asked))], values, {}, task="retrieval")
        split = Split(np.arange(850), np.arange(850, 1000), np.arange(1000, 1000 + len(asked)))

        def cosines(z: Vectors, hubs: Hubs | None) -> np.ndarray:
            half = len(z["minilm"]) // 2
            pairs = both_ways(z, hubs)
            return np.stack([np.asarray((q[:half] * g[half:]).sum(axis=1)) for q, g in pairs], axis=1)

        yield features, split, 128, cosines


HUMAN: list[np.ndarray] = []
"""Ranks of the human scores of the pairs that STS-B judges."""


def score_of(name: str, values: np.ndarray) -> float:
    """The score of values of the test rows: their mean; STS-B: Spearman's correlation, mean of both directions."""
    if name != "stsb":
        return float(values.mean())
    return float(np.mean([np.corrcoef(rankdata(v), HUMAN[0])[0, 1] for v in values.T]))


def p_value(name: str, ours: list[np.ndarray], theirs: list[np.ndarray], rows: list[np.ndarray]) -> float:
    """Paired test over the test rows of all seeds."""
    if name != "stsb":
        return sign_flip_test(np.concatenate(ours) - np.concatenate(theirs), np.concatenate(rows))

    def difference(swapped: np.ndarray) -> float:
        gaps = []
        for a, b in zip(ours, theirs, strict=True):
            one, other = np.where(swapped[:, None], b, a), np.where(swapped[:, None], a, b)
            gaps.append(score_of(name, one) - score_of(name, other))
        return float(np.mean(gaps))

    return exchange_test(difference, len(ours[0]), resamples=499)


def read(reader: Any, texts: list[str]) -> np.ndarray:
    """One vector per text."""
    order, out = np.argsort([len(text) for text in texts]), np.zeros((len(texts), reader.width), np.float32)
    for part in np.array_split(order, max(1, len(texts) // 64)):
        for i, tokens in zip(part, reader.encode([texts[i] for i in part]), strict=True):
            out[i] = tokens.mean(axis=0)
    return out


SETS = {"wikipedia": wikipedia, "roadscene": roadscene, "stsb": stsb}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    set_threads(1)
    kept = RESULTS / "corners.json"
    rows = json.loads(kept.read_text())["rows"] if kept.is_file() else []
    for name in arguments.sets:
        plain: dict[str, list[np.ndarray]] = {label: [] for label in METHODS}
        lowered: dict[str, list[np.ndarray]] = {label: [] for label in METHODS}
        dev: dict[str, list[float]] = {label: [] for label in METHODS}
        settings, tested = [], []
        for seed, (features, split, dim, judge) in enumerate(SETS[name](arguments.seeds)):
            chosen: dict[str, Any] = {}
            tested.append(split.test)
            for label, (aligner, options) in METHODS.items():
                train, width = SETTINGS.get(label, {}), max(dim, WIDTH) if label in SETTINGS else dim
                if options.get("start"):
                    train, options = REFINE, {**options, "start_options": chosen}
                model = AlignedModel.build(
                    dims=features.dims, aligner=aligner, dim=width, aligner_options=options, seed=seed
                )
                objective = create_objective("infonce")
                fit_aligner(model, objective, features, split, {**train, "seed": seed}, progress=False)
                model.eval()
                z = {part: model.embed(features, rows) for part, rows in split._asdict().items()}
                on_dev = part_of(features, split.dev)
                bank = {n: np.concatenate([z["train"][n], z["dev"][n]]) for n in features.dims}
                plain[label].append(judge(z["test"], None))
                lowered[label].append(judge(z["test"], Hubs(bank, on_dev.correction(z["dev"], z["train"]))))
                dev[label].append(float(on_dev.scores(z["dev"]).mean()))
                if label == "whitened, by folds" and isinstance(model.aligner, Whitened):
                    settings.append(model.aligner.setting._asdict())
                    chosen = {**settings[-1], "choose": "fixed"}
            shown = {label: round(100 * score_of(name, found[-1]), 1) for label, found in plain.items()}
            print(name, seed, shown, flush=True)
        rows = [row for row in rows if row["set"] != name]
        order = sorted(METHODS, key=lambda label: -np.mean(dev[label]))
        raw = [p_value(name, plain[order[0]], plain[label], tested) for label in order[1:]]
        told = ["| aligner | dev | score | hubs corrected | p |", "| --- | ---: | ---: | ---: | ---: |"]
        for label, p in zip(order, [None, *holm(np.array(raw)).tolist()], strict=True):
            row: dict[str, Any] = {"set": name, "method": label, "runs": len(plain[label]), "p": p}
            row["dev"] = 100 * float(np.mean(dev[label]))
            for key, found in (("", plain[label]), ("hubs_", lowered[label])):
                each = [score_of(name, values) for values in found]
                spread = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
                row |= {f"{key}mean": float(np.mean(each)), f"{key}sd": spread}
            rows.append(row)
            cells = [f"{100 * row[f'{k}mean']:.1f} ± {100 * row[f'{k}sd']:.1f}" for k in ("", "hubs_")]
            told.append(f"| {label} | {row['dev']:.0f} | {' | '.join(cells)} | {'' if p is None else f'{p:.2g}'} |")
        rows.append({"set": name, "chosen by folds": settings})
        write_result("corners", {"rows": rows})
        write_section("few_pairs.md", name, told)
        print("\n".join(told), flush=True)


if __name__ == "__main__":
    main()
