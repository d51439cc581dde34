r"""Salient object detection: what judges a saliency map.

Metrics, of a map ``(H, W)`` in [0, 1] and a mask ``(H, W)`` of the same size. The map is first stretched to [0, 1] (a
constant one stays as it is).

* ``MAE``: mean of :math:`|p - g|`.
* ``S``: :math:`\tfrac12 S_{object} + \tfrac12 S_{region}` (Fan et al. 2017, Structure-measure, ICCV).
* ``F``: 256 values, :math:`1.3\,P R / (0.3\,P + R)` of the pixels with ``floor(255 p) >= t``, from t = 255 down.
* ``E``: 256 values of the same thresholds: mean of :math:`(1 + \xi)^2 / 4`, :math:`\xi` the alignment of map and mask
  about their means (Fan et al. 2018, Enhanced-alignment measure, IJCAI), divided by ``HW - 1`` as its authors do.

Over images, ``MAE`` and ``S`` are means; ``max F`` and ``max E`` are the maxima of the mean curves. A mask without
foreground: ``S = 1 - mean p``, ``F = 0`` everywhere, ``E`` the share of pixels left empty; a mask without background:
``S = mean p``, ``E`` the share of pixels filled. These are the values of PySODMetrics, which the field reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from weft.data import Dataset
from weft.errors import UserError
from weft.systems.images import resized
from weft.systems.rgbd_saliency.figures import draw_maps, spread
from weft.systems.rgbd_saliency.reader import depth, mask, photo
from weft.tasks.base import tasks
from weft.tasks.judge import Judge

EPS = float(np.spacing(1))
BETA2 = 0.3


class Masks(Sequence[np.ndarray]):
    """The masks of some rows ``(H, W)`` bool, read when asked for, with the photos and depths a figure shows.

    Args:
        data: raw rows.
        rows: their numbers.
        columns: of ``rgb``, ``depth`` and ``mask``.
    """

    def __init__(self, data: Dataset, rows: np.ndarray, columns: dict[str, str]) -> None:
        self.data, self.rows, self.columns = data, [int(row) for row in rows], columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> np.ndarray:  # type: ignore[override]
        return mask(self.data, self.rows[place], self.columns["mask"])

    def shown(self, place: int) -> dict[str, np.ndarray]:
        """Photo ``(H, W, 3)``, depth and truth ``(H, W)`` under the titles of a figure."""
        row, columns = self.rows[place], self.columns
        return {
            "photo": photo(self.data, row, columns["rgb"]),
            "depth (near is bright)": depth(self.data, row, columns["depth"]),
            "truth": self[place],
        }

    def id(self, place: int) -> str:
        """Of the row."""
        return self.data.ids[self.rows[place]]


@tasks.register("saliency")
class SaliencyJudge(Judge):
    """S-measure, maximal F and E, and mean absolute error of maps; the score of a row is its S-measure."""

    primary = "S"

    def metrics(self, outputs: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> dict[str, float]:
        return summarise(score_all(outputs, target))

    def scores(self, outputs: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([row.s for row in score_all(outputs, target)])

    def row_scores(self, outputs: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """``{metric: (n,)}``, larger is better: the S-measure, and minus the mean absolute error."""
        found = list(score_all(outputs, target))
        return {"S": np.array([row.s for row in found]), "MAE": np.array([-row.mae for row in found])}

    def figures(self, outputs: Sequence[np.ndarray], target: Masks, folder: Path) -> list[Path]:
        """The best, the worst and some between, ``maps.png``."""
        scores = self.scores(outputs, target)
        chosen = spread(scores.tolist())
        maps, s = [outputs[i] for i in chosen], [float(scores[i]) for i in chosen]
        shown, ids = [target.shown(i) for i in chosen], [target.id(i) for i in chosen]
        return [draw_maps(shown, ids, {"prediction": maps}, {"prediction": s}, folder / "maps.png")]


class Scores(NamedTuple):
    """Metrics of one image: ``mae``, ``s`` numbers; ``f``, ``e`` curves ``(256,)``, thresholds 255 down to 0."""

    mae: float
    s: float
    f: np.ndarray
    e: np.ndarray


def score_map(prediction: np.ndarray, mask: np.ndarray) -> Scores:
    """Every metric of one map.

    Args:
        prediction: ``(H, W)`` float in [0, 1], or uint8.
        mask: ``(H, W)`` bool.

    Raises:
        UserError: the sizes differ, or the map has values outside [0, 1].
    """
    if prediction.shape != mask.shape or prediction.ndim != 2 or not prediction.size:
        raise UserError(
            "a map is judged at the size of its mask, (H, W)",
            f"map {prediction.shape}, mask {mask.shape}",
            "resize the map (weft.systems.images.resized)",
        )
    p = prediction / 255.0 if prediction.dtype == np.uint8 else prediction.astype(np.float64)
    g = mask.astype(bool)
    if not (p.min() >= 0 and p.max() <= 1):
        raise UserError(
            "a saliency map holds probabilities", f"values {p.min():.3g} to {p.max():.3g}", "apply the sigmoid"
        )
    if p.max() != p.min():
        p = (p - p.min()) / (p.max() - p.min())
    found, chosen = _counts(p, g)
    return Scores(float(np.abs(p - g).mean()), _s_measure(p, g), _f_curve(found, chosen, g), _e_curve(found, chosen, g))


def score_all(outputs: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> Iterator[Scores]:
    """Every metric of every map ``(H, W)``; one of another size than its mask is resized."""
    for one, truth in zip(outputs, target, strict=True):
        yield score_map(one if one.shape == truth.shape else resized(one, truth.shape), truth)


def summarise(scores: Iterable[Scores]) -> dict[str, float]:
    """``S``, ``max F``, ``max E`` and ``MAE`` of a set of images.

    Raises:
        UserError: no image.
    """
    rows = list(scores)
    if not rows:
        raise UserError("metrics need an image", "0 images", "choose a part of the data with rows")
    mae, s = float(np.mean([row.mae for row in rows])), float(np.mean([row.s for row in rows]))
    f, e = np.mean([row.f for row in rows], axis=0), np.mean([row.e for row in rows], axis=0)
    return {"S": s, "max F": float(f.max()), "max E": float(e.max()), "MAE": mae}


def _counts(p: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Foreground pixels found, and pixels chosen, at every threshold from 255 down to 0."""
    level = (p * 255).astype(np.uint8)
    found = np.bincount(level[g], minlength=256)[::-1].cumsum()
    return found, found + np.bincount(level[~g], minlength=256)[::-1].cumsum()


def _f_curve(found: np.ndarray, chosen: np.ndarray, g: np.ndarray) -> np.ndarray:
    precision, recall = found / np.maximum(chosen, 1), found / max(int(g.sum()), 1)
    numerator = (1 + BETA2) * precision * recall
    return numerator / np.where(numerator == 0, 1, BETA2 * precision + recall)


def _e_curve(found: np.ndarray, chosen: np.ndarray, g: np.ndarray) -> np.ndarray:
    size, area = g.size, int(g.sum())
    if area == 0:
        total = (size - chosen).astype(np.float64)
    elif area == size:
        total = chosen.astype(np.float64)
    else:
        share, mean = chosen / size, area / size
        parts = (
            (found, 1 - share, 1 - mean),
            (chosen - found, 1 - share, -mean),
            (area - found, -share, 1 - mean),
            (size - chosen - (area - found), -share, -mean),
        )
        total = np.sum([n * ((2 * a * b / (a**2 + b**2 + EPS) + 1) ** 2 / 4) for n, a, b in parts], axis=0)
    return total / (size - 1 + EPS)


def _s_measure(p: np.ndarray, g: np.ndarray) -> float:
    mean = g.mean()
    if mean == 0:
        return float(1 - p.mean())
    if mean == 1:
        return float(p.mean())
    objects = mean * _homogeneity(p[g]) + (1 - mean) * _homogeneity(1 - p[~g])
    return float(max(0.0, 0.5 * objects + 0.5 * _region(p, g)))


def _homogeneity(x: np.ndarray) -> float:
    """High where the values are high and alike."""
    deviation = x.std(ddof=1) if x.size > 1 else 0.0
    return float(2 * x.mean() / (x.mean() ** 2 + 1 + deviation + EPS))


def _region(p: np.ndarray, g: np.ndarray) -> float:
    """Similarity of the four quadrants about the centre of the foreground, weighted by area."""
    height, width = g.shape
    y, x = (int(c) + 1 for c in np.argwhere(g).mean(axis=0).round())
    total = 0.0
    for rows in (slice(0, y), slice(y, height)):
        for columns in (slice(0, x), slice(x, width)):
            if g[rows, columns].size:
                total += _ssim(p[rows, columns], g[rows, columns]) * g[rows, columns].size / g.size
    return total


def _ssim(p: np.ndarray, g: np.ndarray) -> float:
    x, y, n = p.mean(), g.mean(), p.size - 1 + EPS
    var_x, var_y = ((p - x) ** 2).sum() / n, ((g - y) ** 2).sum() / n
    above = 4 * x * y * ((p - x) * (g - y)).sum() / n
    below = (x**2 + y**2) * (var_x + var_y)
    if above != 0:
        return float(above / (below + EPS))
    return 1.0 if below == 0 else 0.0
