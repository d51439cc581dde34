"""Which corner of the whitened family is best where, and whether the choice finds it: Wikipedia, RoadScene, STS-B.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/corners.py [wikipedia] [roadscene] [stsb] [--seeds 5]

Wikipedia: image and text, cross-modal mAP, an item of the same class being right. RoadScene: a visible photo finds its
infrared one and back, R@1, of MobileNetV2's mean features. STS-B: MiniLM and hashed n-grams of the same 1,000 training
sentences; the score is Spearman's correlation, over the 1,500 dev pairs, of the cosine between the first sentence by
one encoder and the second by the other with the human similarity. A seed draws the split (Wikipedia: the dev part;
STS-B: the sentences). ``whitened`` is chosen by the mean log rank of exact partners, on folds of the training rows or
on the dev rows; classes and human scores are never seen. A set that is not named keeps its figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import RESULTS, set_threads, write_result
from real_comparisons import ROOT, variables
from scipy.stats import spearmanr

from weft.alignment import create_objective
from weft.alignment.whitened import Whitened
from weft.allocator import keep_freed_memory
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.retrieval.metrics import cross_modal_metrics
from weft.store import MemoryFeatures, encode
from weft.training import fit_aligner

Vectors = dict[str, np.ndarray]
Drawn = tuple[MemoryFeatures, Split, int, Callable[[Callable[[np.ndarray], Vectors]], float]]
FIXED = {"choose": "fixed", "shrinkage": 1.0}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "Procrustes": ("whitened", {**FIXED, "exponents": (0.0, 0.0), "powers": (0.0, 0.0)}),
    "first predicts second": ("whitened", {**FIXED, "exponents": (0.5, 0.0), "powers": (1.0, 0.0)}),
    "second predicts first": ("whitened", {**FIXED, "exponents": (0.0, 0.5), "powers": (0.0, 1.0)}),
    "CCA": ("whitened", {**FIXED, "exponents": (0.5, 0.5), "powers": (0.0, 0.0)}),
    "CCA, columns by correlation": ("whitened", {**FIXED, "exponents": (0.5, 0.5), "powers": (1.0, 1.0)}),
    "half whitened": ("whitened", {**FIXED, "exponents": (0.25, 0.25), "powers": (0.5, 0.5)}),
    "whitened, by folds": ("whitened", {}),
    "whitened, by dev": ("whitened", {"choose": "dev"}),
}


def wikipedia(seeds: int) -> Iterator[Drawn]:
    data = load_dataset("multiview", Path(variables()["WEFT_DATA"]) / "multiview", file="Wikipedia")
    values = {name: np.stack(modality.values) for name, modality in data.modalities.items()}
    features = MemoryFeatures(data.ids, values, data.targets, split=data.split, task="retrieval")
    for seed in range(seeds):
        split = make_splits(features, "given", seed=seed)
        classes = features.targets["class"][split.test]

        def score(embed: Callable[[np.ndarray], Vectors], split: Split = split, classes: np.ndarray = classes) -> float:
            found = cross_modal_metrics(embed(split.test), classes)
            return float(np.mean([found["image->text mAP"], found["text->image mAP"]]))

        yield features, split, 9, score


def roadscene(seeds: int) -> Iterator[Drawn]:
    there = variables()
    data = load_dataset("roadscene", Path(there["WEFT_DATA"]) / "roadscene")
    encoder = create_encoder(f"hf:{Path(there['WEFT_MODELS']) / 'mobilenet_v2_1.0_224'}", "image", output="mean")
    place = ROOT / "runs" / "corners" / "roadscene"
    store = encode(data, dict.fromkeys(data.modalities, encoder), place, progress=False)
    features = MemoryFeatures(store.ids, dict(store.pooled(np.arange(len(store)))), {}, task="retrieval")
    for seed in range(seeds):
        split = make_splits(features, "random", (0.5, 0.15, 0.35), seed)

        def score(embed: Callable[[np.ndarray], Vectors], split: Split = split) -> float:
            found = cross_modal_metrics(embed(split.test), np.arange(len(split.test)))
            return float(np.mean([value for name, value in found.items() if name.endswith("R@1")]))

        yield features, split, 32, score


def stsb(seeds: int) -> Iterator[Drawn]:
    there = variables()
    data = load_dataset("stsb", Path(there["WEFT_DATA"]) / "STS-B")
    parts = np.asarray(data.split)
    first, second = (data.modalities[name].values for name in ("first", "second"))
    judged = np.flatnonzero(parts == "dev")
    known = sorted({s for i in np.flatnonzero(parts == "train") for s in (first[i], second[i])})
    human = np.asarray(data.targets["score"], dtype=float)[judged]
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

        def score(embed: Callable[[np.ndarray], Vectors], split: Split = split) -> float:
            z = {name: v.reshape(2, -1, v.shape[1]) for name, v in embed(split.test).items()}
            both = [(z[a][0] * z[b][1]).sum(axis=1) for a, b in (("minilm", "hashed"), ("hashed", "minilm"))]
            return float(np.mean([spearmanr(cosines, human).statistic for cosines in both]))

        yield features, split, 128, score


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
        scores: dict[str, list[float]] = {label: [] for label in METHODS}
        settings = []
        for seed, (features, split, dim, score) in enumerate(SETS[name](arguments.seeds)):
            for label, (aligner, options) in METHODS.items():
                model = AlignedModel.build(dims=features.dims, aligner=aligner, dim=dim, aligner_options=options)
                fit_aligner(model, create_objective("infonce"), features, split, {"seed": seed}, progress=False)
                model.eval()
                scores[label].append(score(lambda asked, m=model, f=features: m.embed(f, asked)))  # type: ignore[misc]
                if label == "whitened, by folds" and isinstance(model.aligner, Whitened):
                    settings.append(model.aligner.setting._asdict())
            print(name, seed, {label: round(100 * found[-1], 1) for label, found in scores.items()}, flush=True)
        rows = [row for row in rows if row["set"] != name]
        for label, found in scores.items():
            spread = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
            rows.append({"set": name, "method": label, "mean": float(np.mean(found)), "sd": spread, "runs": len(found)})
            print(f"| {name} | {label} | {100 * rows[-1]['mean']:.1f} ± {100 * spread:.1f} |")
        rows.append({"set": name, "chosen by folds": settings})
        write_result("corners", {"rows": rows})


if __name__ == "__main__":
    main()
