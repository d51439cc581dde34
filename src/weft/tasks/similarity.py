r"""Semantic similarity: how well the cosine of two embeddings follows a human score from 0 to 5.

Pearson's and Spearman's correlation, and the original's tolerance curves: with the gold score ``s``, five classes
``[0, 1], (1, 2], (2, 3], (3, 4], (4, 5]`` and 100 tolerances from 0 to 1,

.. math:: \text{curve}_k(\epsilon) = \text{share of the pairs of class } k \text{ with } |\cos - s/5| \le \epsilon

The curves reward cosines on the scale of the scores and say nothing about their order; the correlations do that.

Source: the STS-B figure of Faye, Azzag, Lebbah, Bouchaffra, "Lightweight Cross-Modal Representation Learning",
ESANN 2024, arXiv 2403.04650.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weft.errors import UserError, some
from weft.tasks import plots

CLASSES = ("0 to 1", "1 to 2", "2 to 3", "3 to 4", "4 to 5")
TOLERANCES = np.linspace(0, 1, 100)


def score_classes(gold: np.ndarray) -> np.ndarray:
    """Class 0 to 4 of each gold score, ``(N,)``.

    Raises:
        UserError: a score is outside 0 to 5; the rows are named.
    """
    wrong = np.flatnonzero(~((gold >= 0) & (gold <= 5)))
    if len(wrong):
        raise UserError("gold scores are 0 to 5", f"rows {some(wrong.tolist())}", "rescale the target column")
    return np.searchsorted([1.0, 2.0, 3.0, 4.0], gold, side="left")


def tolerance_curves(scores: np.ndarray, gold: np.ndarray, tolerances: np.ndarray = TOLERANCES) -> np.ndarray:
    """``(5, E)`` shares of each class within each tolerance; NaN for a class without pairs."""
    classes = score_classes(gold)
    close = np.abs(scores - gold / 5)[:, None] <= tolerances
    return np.stack([_mean(close[classes == k]) for k in range(len(CLASSES))])


def similarity_metrics(scores: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """``Pearson``, ``Spearman``, and ``within 0.1`` and ``within 0.25``, the mean of the classes' shares there."""
    from scipy.stats import pearsonr, spearmanr

    near = tolerance_curves(scores, gold, np.array([0.1, 0.25]))
    return {
        "Pearson": float(pearsonr(scores, gold).statistic),
        "Spearman": float(spearmanr(scores, gold).statistic),
        "within 0.1": float(np.nanmean(near[:, 0])),
        "within 0.25": float(np.nanmean(near[:, 1])),
    }


def tolerance_figure(scores: Mapping[str, np.ndarray], gold: np.ndarray, folder: Path) -> Path:
    """``tolerance.png``: one panel per class, one curve per system ``{name: (N,) scores}``."""
    with plots.canvas(folder, "tolerance", columns=len(CLASSES), size=(3.4, 3.4)) as panels:
        for place, (name, values) in enumerate(scores.items()):
            style = {"color": plots.PALETTE[place % 7], "linestyle": plots.LINES[place % 4]}
            for axes, curve in zip(panels, tolerance_curves(values, gold), strict=True):
                axes.plot(TOLERANCES, curve, label=name, **style)
        counts = np.bincount(score_classes(gold), minlength=len(CLASSES))
        for axes, name, count in zip(panels, CLASSES, counts, strict=True):
            axes.set(xlabel="tolerance", title=f"score {name} ({count} pairs)", ylim=(-0.02, 1.02))
        panels[0].set_ylabel("share of pairs within it")
        lines, names = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    return folder / "tolerance.png"


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0) if len(rows) else np.full(rows.shape[1], np.nan)
