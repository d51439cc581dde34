"""Aligners on Wikipedia (Rasiwasia et al. 2010): cross-modal mAP both ways, articles of the same class being relevant.

    python benchmarks/wikipedia_alignment.py DATA/multiview

2,173 articles train, 693 test; 128 visual words, 10 topics. Each of five seeds draws 15/85 of the training rows as dev
part and the initial weights, so closed forms vary too. Trained aligners keep the epoch with the best sum of recalls of
exact partners on the dev rows; no class label is ever seen. The topics sum to one, so a linear map of the text has nine
dimensions.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from harness import set_threads, write_result

from weft.alignment import aligners, create_objective
from weft.data import load_dataset, make_splits
from weft.models import AlignedModel
from weft.retrieval.metrics import cross_modal_metrics
from weft.store import MemoryFeatures
from weft.training import fit_aligner

SEEDS = range(5)
DIRECTIONS = ("image->text mAP", "text->image mAP")


class Method(NamedTuple):
    """An aligner, its width and options, its objective where it is not the aligner's own, and training settings."""

    aligner: str
    dim: int
    options: dict[str, Any] = {}
    objective: str | None = None
    objective_options: dict[str, Any] = {}
    settings: dict[str, Any] = {}


METHODS = {
    "Procrustes": Method("procrustes", 9),
    "ridge (image predicts text)": Method("ridge", 9, {"target": "text", "shrinkage": 1e-2}),
    "CCA": Method("cca", 9, {"shrinkage": 1e-4}),
    "CCA, shrinkage 0.1": Method("cca", 9, {"shrinkage": 0.1}),
    "Deep CCA": Method("deep-cca", 9, {"hidden": 512}, settings={"batch_size": 512, "weight_decay": 1e-1}),
    "two-tower, InfoNCE, dim 9": Method("two-tower", 9),
    "two-tower, InfoNCE, dim 64": Method("two-tower", 64),
    "two-tower, ranking, dim 64": Method("two-tower", 64, objective="ranking"),
}


def score(embeddings: dict[str, np.ndarray], classes: np.ndarray) -> list[float]:
    """mAP of both directions, and their mean."""
    metrics = cross_modal_metrics(embeddings, classes)
    both = [metrics[direction] for direction in DIRECTIONS]
    return [*both, sum(both) / 2]


def run(method: Method, features: MemoryFeatures, seed: int) -> list[float]:
    """Fit on one dev cut, score on the test rows."""
    split = make_splits(features, "given", seed=seed)
    model = AlignedModel.build(
        dims=features.dims, aligner=method.aligner, dim=method.dim, aligner_options=method.options, seed=seed
    )
    name = method.objective or aligners.get(method.aligner).objective
    objective = create_objective(name, **method.objective_options)
    fit_aligner(model, objective, features, split, {**method.settings, "seed": seed}, progress=False)
    return score(model.embed(features, split.test), features.targets["class"][split.test])


def main() -> None:
    set_threads(1)
    data = load_dataset("multiview", sys.argv[1], file="Wikipedia")
    values = {name: np.stack(modality.values) for name, modality in data.modalities.items()}
    features = MemoryFeatures(data.ids, values, data.targets, split=data.split, task="retrieval")
    classes = features.targets["class"][np.asarray(data.split) == "test"]
    rng = np.random.default_rng(0)
    found = {"chance": [score({n: rng.normal(size=(len(classes), 9)) for n in values}, classes) for _ in SEEDS]}
    rows = []
    for label, method in [("chance", None), *METHODS.items()]:
        scores = np.array(found[label] if method is None else [run(method, features, seed) for seed in SEEDS])
        mean, deviation = scores.mean(axis=0), scores.std(axis=0, ddof=1)
        cells = [f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(mean, deviation, strict=True)]
        print("| " + " | ".join([label, *cells]) + " |", flush=True)
        rows.append({"method": label, "scores": scores.tolist(), "mean": mean.tolist(), "sd": deviation.tolist()})
    write_result("wikipedia_alignment", {"columns": [*DIRECTIONS, "mean"], "seeds": len(SEEDS), "rows": rows})


if __name__ == "__main__":
    main()
