"""Our encoded features of two real tables against scikit-learn's ten lines, under one logistic regression.

Ten lines: TfidfVectorizer for every text, OneHotEncoder for every category, StandardScaler for every number. Ours: the
encoders that `weft init` proposes, no weights. Both sides: the same columns (`weft init` chooses them), the same five
folds (whole groups where rows have such), the strength of the regression chosen by log loss on a fifth of the training
rows out of one grid, fitted again on all of them. Goal: no loss. Figures are means over the folds; `difference` is ours
less theirs with its standard error over the folds. The folder with reviews.csv and pets.csv is $WEFT_DATA/tables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from harness import cpu_seconds, set_threads, write_result
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from weft.data import Dataset, make_folds, make_splits, propose_table, read_table
from weft.encoders import create_encoder, default_encoder

DATA = Path(os.environ.get("WEFT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "tables"
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TABLES = {
    "reviews": {"target": "Recommended IND", "drop": ["Rating"], "group": "none"},
    "pets": {"target": "AdoptionSpeed", "group": "RescuerID"},
}
Sides = tuple[sparse.csr_matrix, sparse.csr_matrix]


def ten_lines(data: Dataset, types: dict[str, str], train: np.ndarray, test: np.ndarray) -> Sides:
    """Each text's n-grams, one-hot categories, scaled numbers."""
    made: list[tuple[Any, Any]] = []
    for modality in data.modalities.values():
        if modality.kind == "text":
            texts = np.array([value or "" for value in modality.values], dtype=object)
            words = TfidfVectorizer().fit(texts[train])
            made.append((words.transform(texts[train]), words.transform(texts[test])))
            continue
        cells = np.array([v or (None,) * len(modality.fields) for v in modality.values], dtype=object)
        numbers = [i for i, name in enumerate(modality.fields) if types[name].startswith("number")]
        words_of = [i for i in range(len(modality.fields)) if i not in numbers]
        for columns, step in (
            (numbers, make_pipeline(SimpleImputer(), StandardScaler())),
            (words_of, OneHotEncoder(handle_unknown="ignore")),
        ):
            if columns:
                part = cells[:, columns].astype(float) if columns is numbers else cells[:, columns].astype(str)
                step.fit(part[train])
                made.append((step.transform(part[train]), step.transform(part[test])))
    return tuple(sparse.hstack(side).tocsr() for side in zip(*made, strict=True))  # type: ignore[return-value]


def ours(data: Dataset, types: dict[str, str], train: np.ndarray, test: np.ndarray) -> Sides:
    """What the default encoders make of the same columns; an absent text is zeros."""
    made = []
    for modality in data.modalities.values():
        encoder = create_encoder(default_encoder(modality.kind), modality.kind)
        encoder.fit([modality.values[row] for row in train if modality.values[row] is not None])
        whole = np.zeros((len(data), encoder.width), np.float32)
        there = np.flatnonzero(modality.presence)
        whole[there] = np.concatenate(encoder.encode([modality.values[row] for row in there]))
        made.append((whole[train], whole[test]))
    return tuple(sparse.csr_matrix(np.hstack(side)) for side in zip(*made, strict=True))  # type: ignore[return-value]


def judged(
    x: sparse.csr_matrix, y: np.ndarray, inner: Any, other: sparse.csr_matrix, truth: np.ndarray
) -> dict[str, Any]:
    """Figures on the test rows at the strength that is best on the inner rows."""
    fit, dev = inner

    def model(strength: float, rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=2000).fit(x[rows], y[rows])

    losses = [log_loss(y[dev], model(s, fit).predict_proba(x[dev]), labels=np.unique(y)) for s in STRENGTHS]
    best = STRENGTHS[int(np.argmin(losses))]
    chosen = model(best, np.arange(len(y)))
    p = chosen.predict_proba(other)
    guess = chosen.classes_[p.argmax(axis=1)]
    area = roc_auc_score(truth, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(truth, p, multi_class="ovr")
    figures = {"accuracy": accuracy_score(truth, guess), "macro_f1": f1_score(truth, guess, average="macro")}
    return {**figures, "log_loss": log_loss(truth, p, labels=chosen.classes_), "auc": area, "strength": best}


def table(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Both sides, fold by fold."""
    config = propose_table(DATA / f"{name}.csv", **options).config.model_copy(update={"splits": None})
    data = read_table(config.table, config)
    types = {c: t for m in config.modalities.values() for c, t in m.types.items()}
    y = next(iter(data.targets.values()))
    found: dict[str, list[dict[str, float]]] = {"weft": [], "ten lines": []}
    for fold in make_folds(data, 5):
        train = np.sort(np.concatenate([fold.train, fold.dev]))
        parts = make_splits(data.take(train), fractions=(0.8, 0.2, 0.0))
        for side, make in (("weft", ours), ("ten lines", ten_lines)):
            started = cpu_seconds()
            x, other = make(data, types, train, fold.test)
            seconds = cpu_seconds() - started
            figures = judged(x, y[train], (parts.train, parts.dev), other, y[fold.test])
            found[side].append({**figures, "encode_cpu_s": seconds, "width": x.shape[1]})
    means = {side: {key: float(np.mean([f[key] for f in folds])) for key in folds[0]} for side, folds in found.items()}
    difference = {}
    for key in ("accuracy", "macro_f1", "log_loss", "auc"):
        gaps = np.array([a[key] - b[key] for a, b in zip(found["weft"], found["ten lines"], strict=True)])
        difference[key] = {"mean": float(gaps.mean()), "standard_error": float(gaps.std(ddof=1) / np.sqrt(len(gaps)))}
    return {"rows": len(data), "folds": 5, **means, "difference": difference}


def main() -> None:
    set_threads(1)
    with threadpool_limits(1):
        figures = {name: table(name, options) for name, options in TABLES.items()}
    for name, found in figures.items():
        for side in ("weft", "ten lines", "difference"):
            print(name, side, found[side])
    write_result("table_features", {"claim": __doc__.splitlines()[0], "tables": figures})


if __name__ == "__main__":
    main()
