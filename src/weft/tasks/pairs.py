"""Pair similarity: is this pair a match, judged by the cosine of its two embeddings?

``score_i = cos(a_i, b_i)``; a pair is called similar iff ``score >= threshold``, 0.9 in the original, fixed and not
tuned. Precision, recall and F1 are given for both classes (0/0 is 0), as in the original's tables. A fixed threshold
says as much about the scale of the cosines as about the model, so the area under the ROC curve and the average
precision, which need none, are always beside it.

Source: the QQP and MRPC tables of Faye, Azzag, Lebbah, Bouchaffra, "Lightweight Cross-Modal Representation Learning",
ESANN 2024, arXiv 2403.04650.
"""

from __future__ import annotations

import numpy as np

from weft.errors import UserError, some

THRESHOLD = 0.9
CLASSES = ("dissimilar", "similar")


def pair_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine ``(N,)`` of the rows of ``a`` and ``b`` ``(N, D)``; 0 where either is zero.

    Raises:
        UserError: the shapes differ, or values are not finite (the rows are named).
    """
    if a.shape != b.shape or a.ndim != 2:
        raise UserError("pairs are rows of two arrays (N, D)", f"{a.shape} and {b.shape}", "embed both in one space")
    bad = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)).all(axis=1))
    if len(bad):
        raise UserError("embeddings are NaN or infinite", f"rows {some(bad.tolist())}", "check the features")
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, 1e-12)


def pair_metrics(scores: np.ndarray, labels: np.ndarray, threshold: float = THRESHOLD) -> dict[str, float]:
    """The table's row for scores and labels (0 or 1), ``(N,)`` both.

    Returns:
        ``accuracy``; ``precision``, ``recall`` and ``F1`` of ``dissimilar`` and ``similar``; ``AUC`` and ``average
        precision`` of the class similar. Shares are in [0, 1].

    Raises:
        UserError: labels are not 0 and 1, or one of the two is missing.
    """
    from sklearn.metrics import accuracy_score, average_precision_score, precision_recall_fscore_support, roc_auc_score

    found = np.unique(labels)
    if found.tolist() != [0, 1]:
        raise UserError("labels of pairs are 0 and 1, both present", some(found.tolist()), "check the target column")
    guess = (scores >= threshold).astype(int)
    table = precision_recall_fscore_support(labels, guess, labels=[0, 1], zero_division=0)
    row = {"accuracy": float(accuracy_score(labels, guess))}
    for k, name in enumerate(CLASSES):
        row |= {f"{name} {metric}": float(table[m][k]) for m, metric in enumerate(("precision", "recall", "F1"))}
    row["AUC"] = float(roc_auc_score(labels, scores))
    row["average precision"] = float(average_precision_score(labels, scores))
    return row
