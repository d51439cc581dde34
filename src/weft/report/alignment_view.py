r"""How two modalities come together inside a trained ARAF: four stages in three dimensions, and three numbers for each.

Stages, one point per row and modality: ``raw``, the mean of the features the model is given; ``encoded``, the mean of
its tokens after projection and MFE; ``aligned``, the mean of the tokens with which it asked and was answered;
``enhanced``, the mean of its term of the shared tokens. Raw widths may differ and are then padded with zeros: gap and
separability say there only that the spaces are different ones.

Numbers, for points :math:`a, b` ``(N, D)`` of two modalities of the same rows:

.. math::
    gap &= \lVert \mathrm{mean}_i\, a_i / \lVert a_i \rVert - \mathrm{mean}_i\, b_i / \lVert b_i \rVert \rVert
        && \in [0, 2] \\
    CKA &= \lVert B^\top A \rVert_F^2 / (\lVert A^\top A \rVert_F \lVert B^\top B \rVert_F)
        && A, B\ \text{centred},\ \in [0, 1] \\
    separability &= \text{accuracy of a linear classifier that tells a from b} && 0.5:\ \text{interleaved}

the last in five folds of rows (both points of a row in one fold), logistic regression on standardised coordinates.

Sources: Liang et al., "Mind the Gap", NeurIPS 2022; Kornblith et al., "Similarity of Neural Network Representations
Revisited", ICML 2019. The figure is that of ARAF (2023); its projection is not stated, here it is PCA of every stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weft.errors import UserError
from weft.fusion.araf import ARAF
from weft.models import FusedModel
from weft.store import Features
from weft.tasks.plots import PALETTE, canvas
from weft.tokens import mean_pool

Points = dict[str, dict[str, np.ndarray]]
MARKERS = ("o", "^", "s", "D", "v", "P")
FOLDS = 5


def modality_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the mean directions of ``(N, D)`` and ``(N, D)``."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of ``(N, D)`` and ``(N, E)``, row by row of the same samples; NaN where one is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return float(np.linalg.norm(b.T @ a) ** 2 / norm) if norm else float("nan")


def linear_separability(a: np.ndarray, b: np.ndarray) -> float:
    """Cross-validated accuracy of telling the rows of ``(N, D)`` from those of ``(N, D)``."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    rows = np.tile(np.arange(len(a)), 2)
    which = np.repeat([0, 1], len(a))
    return float(cross_val_score(model, np.concatenate([a, b]), which, groups=rows, cv=GroupKFold(FOLDS)).mean())


@torch.no_grad()
def alignment_stages(model: FusedModel, features: Features, rows: np.ndarray, *, batch_size: int = 256) -> Points:
    """``{stage: {modality: (n, D)}}`` of the rows that have every modality.

    Raises:
        UserError: the model's fusion is no ARAF in which every modality asks, or fewer than ten rows are complete.
    """
    if not isinstance(model.fusion, ARAF) or model.fusion.variant != "paper" or len(model.fusion.askers) == 1:
        fusion = "none" if model.fusion is None else type(model.fusion).__name__
        raise UserError(
            "the view of the alignment needs an ARAF in which every modality asks",
            f"fusion {fusion}" + ("" if fusion != "ARAF" else ", of which one modality asks, or the official variant"),
            "train it with: weft fit ... --fusion araf --option symmetric=true",
        )
    features = features.subset(model.names)
    rows = rows[features.presence[rows].all(axis=1)]
    if len(rows) < 2 * FOLDS:
        raise UserError(
            f"the view of the alignment needs {2 * FOLDS} rows that have every modality",
            f"{len(rows)}: the pairs do not match",
            "choose a split with complete rows",
        )
    model.eval()
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for start in range(0, len(rows), batch_size):
        inputs = model.standardise(features.gather(rows[start : start + batch_size]))
        stages = {"raw": {name: mean_pool(tokens) for name, tokens in inputs.items()}, **model.fusion.stages(inputs)}
        for stage, points in stages.items():
            for name, values in points.items():
                parts.setdefault(stage, {}).setdefault(name, []).append(values.numpy().astype(np.float64))
    return {stage: _padded({n: np.concatenate(v) for n, v in points.items()}) for stage, points in parts.items()}


def measure_stages(stages: Points) -> list[dict[str, float | str]]:
    """One row per stage and pair of modalities: ``stage``, ``pair``, ``gap``, ``cka``, ``separability``."""
    return [
        {
            "stage": stage,
            "pair": f"{first} / {second}",
            "gap": modality_gap(points[first], points[second]),
            "cka": linear_cka(points[first], points[second]),
            "separability": linear_separability(points[first], points[second]),
        }
        for stage, points in stages.items()
        for first, second in combinations(points, 2)
    ]


def draw_stages(stages: Points, folder: Path, *, most: int = 500) -> Path:
    """``alignment.png``: a 3-D scatter per stage, axes by PCA of all its points; ``most`` rows are drawn."""
    with canvas(folder, "alignment", columns=len(stages), size=(4.0, 4.4), projection="3d") as panels:
        for axes, (stage, points) in zip(panels, stages.items(), strict=True):
            together = np.concatenate(list(points.values()))
            projection = PCA(3, random_state=0).fit(together)
            for place, (name, values) in enumerate(points.items()):
                x = projection.transform(values[:most])
                colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
                axes.scatter(*x.T, s=12, alpha=0.55, color=colour, marker=marker, linewidths=0, label=name)
            share = projection.explained_variance_ratio_.sum()
            axes.set_title(f"{stage}, {share:.0%} of the variance")
            axes.set(xticklabels=[], yticklabels=[], zticklabels=[])
        panels[0].legend(loc="upper left")
    return folder / "alignment.png"


def _padded(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Points of one width; the narrower ones get zeros."""
    width = max(values.shape[1] for values in points.values())
    return {name: np.pad(values, ((0, 0), (0, width - values.shape[1]))) for name, values in points.items()}
