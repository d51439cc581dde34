r"""Salient object detection: what trains a saliency map, and what judges it.

Losses, of logits :math:`z` and masks :math:`g \in [0, 1]`, ``(B, 1, H, W)``, with :math:`p = \sigma(z)`:

.. math::
    w &= 1 + 5\,|\mathrm{avgpool}_{31}(g) - g| \\
    \text{structure} &= \frac{\sum w\,\mathrm{bce}(z, g)}{\sum w}
        + 1 - \frac{\sum w p g + 1}{\sum w (p + g) - \sum w p g + 1} \\
    \text{focal} &= \mathrm{mean}\big( (1 - p_g)^\gamma\,\mathrm{bce}(z, g) \big), \qquad p_g = p g + (1 - p)(1 - g)

with sums over the pixels of an image. F3Net's code averages the cross-entropy before weighting it, so that the weights
cancel; here they count. Wei et al. 2020, F3Net (AAAI); Lin et al. 2017, Focal Loss (ICCV).

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

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError

EPS = float(np.spacing(1))
BETA2 = 0.3


def structure_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """The structure loss ``(B, K)`` of ``K`` maps of every image: logits ``(B, K, H, W)``, mask ``(B, 1, H, W)``."""
    around = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))
    weight = 1 + 5 * (around - mask).abs()
    bce = F.binary_cross_entropy_with_logits(logits, mask.expand_as(logits), reduction="none")
    p = logits.sigmoid()
    common = (weight * p * mask).sum(dim=(2, 3))
    union = (weight * (p + mask)).sum(dim=(2, 3)) - common
    return (weight * bce).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)) + 1 - (common + 1) / (union + 1)


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """The binary focal loss ``(B, K)`` of ``K`` maps of every image, shapes as for :func:`structure_loss`."""
    mask = mask.expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    p = logits.sigmoid()
    wrong = p * (1 - mask) + (1 - p) * mask
    return (wrong**gamma * bce).mean(dim=(2, 3))


def saliency_loss(
    finals: Sequence[Tensor],
    sides: Sequence[Tensor],
    auxiliary: Sequence[Tensor],
    mask: Tensor,
    focal_weight: float = 0.3,
) -> Tensor:
    """Loss of every image, ``(B,)``: mean structure loss of the final maps, that of side ``i`` times ``2^-i``, focal.

    Args:
        finals, sides, auxiliary: logits ``(B, 1, H, W)``; the finest of ``sides`` first.
        mask: ``(B, 1, H, W)`` in [0, 1].
        focal_weight: of the focal loss of each auxiliary map; published as a regularisation without its weight.
    """
    weights = [1 / len(finals)] * len(finals) + [2.0**-i for i in range(1, len(sides) + 1)]
    loss = structure_loss(torch.cat([*finals, *sides], dim=1), mask) @ mask.new_tensor(weights)
    if not auxiliary:
        return loss
    return loss + focal_weight * focal_loss(torch.cat(list(auxiliary), dim=1), mask).sum(dim=1)


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
            "resize the map (weft.data.rgbd_saliency.resized)",
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


def predict_probability(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """One image's probabilities ``(H, W)`` float32 at ``size``, from logits ``(1, h, w)``."""
    scaled = F.interpolate(logits.unsqueeze(0).float(), size, mode="bilinear", align_corners=False)
    return torch.sigmoid(scaled)[0, 0].cpu().numpy()


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
