r"""How good a picture made of several is, without a reference; all on luma in 0..255.

* **MEF-SSIM** (Ma, Zeng, Wang 2015), per Gaussian window of 11 (1.5), ``x~`` a source less its mean there:

  .. math::
      R = \frac{\|\sum_k \tilde x_k\|}{\sum_k \|\tilde x_k\|}, \quad p = \tan(\tfrac{\pi}{2} R) \le 10, \quad
      \bar s \propto \sum_k \|\tilde x_k\|^p \frac{\tilde x_k}{\|\tilde x_k\|}, \quad
      \hat x = \max_k \|\tilde x_k\| \frac{\bar s}{\|\bar s\|}, \quad
      \frac{2 \sigma_{\hat x y} + C}{\sigma_{\hat x}^2 + \sigma_y^2 + C}

  and the mean over all windows, ``C = (.03 * 255)^2``.
* **Q^AB/F** (Xydeas, Petrovic 2000): how much of the Sobel edges of the sources, in strength and direction, is in the
  picture, weighted by their strength.
* **SSIM** to each source, averaged; **MI**, the mutual information with each source in bits, summed; **entropy** in
  bits; **STD** in grey levels.

Figures in papers come from several toolboxes that differ in details: compare within one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import sobel
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.systems.transmef.colour import to_ycbcr
from weft.systems.transmef.loss import WINDOW, gaussian, similarity_map
from weft.tasks.base import tasks
from weft.tasks.judge import Judge

STRENGTH, DIRECTION = (0.9994, -15.0, 0.5), (0.9879, -22.0, 0.8)
C = (0.03 * 255) ** 2


@tasks.register("exposure-fusion")
class ExposureFusionJudge(Judge):
    """The metrics above; the score of a row is its MEF-SSIM."""

    primary = "MEF-SSIM"

    def metrics(self, outputs: Sequence[np.ndarray], target: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
        rows = [score_picture(picture, sources) for picture, sources in zip(outputs, target, strict=True)]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def scores(self, outputs: Sequence[np.ndarray], target: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        return np.array(
            [mef_ssim(luma(p), [luma(s) for s in sources]) for p, sources in zip(outputs, target, strict=True)]
        )

    def figures(
        self, outputs: Sequence[np.ndarray], target: Sequence[Sequence[np.ndarray]], folder: Path
    ) -> list[Path]:
        """Sources and picture of the first rows, ``pictures.png``."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        shown = list(zip(outputs, target, strict=True))[:6]
        columns = 1 + max(len(sources) for _, sources in shown)
        figure = Figure(figsize=(3 * columns, 2.6 * len(shown)), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (picture, sources) in zip(figure.subplots(len(shown), columns, squeeze=False), shown, strict=True):
            for ax in axes:
                ax.axis("off")
            titled = {f"source {k + 1}": source for k, source in enumerate(sources)}
            titled[f"fused, MEF-SSIM {mef_ssim(luma(picture), [luma(s) for s in sources]):.3f}"] = picture
            for ax, (title, image) in zip(axes, titled.items(), strict=False):
                ax.imshow(image, cmap="gray", vmin=0, vmax=255)
                ax.set_title(title, fontsize=9)
        figure.savefig(folder / "pictures.png", dpi=110)
        return [folder / "pictures.png"]


def score_picture(picture: np.ndarray, sources: Sequence[np.ndarray]) -> dict[str, float]:
    """Every metric of one picture ``(H, W)`` or ``(H, W, 3)`` in 0..255.

    Raises:
        UserError: the sizes differ, or there is no source.
    """
    if not sources or any(source.shape[:2] != picture.shape[:2] for source in sources):
        raise UserError(
            "a picture is judged beside sources of its size",
            f"picture {picture.shape}, sources {[source.shape for source in sources]}",
            "register and resize the sources first",
        )
    y, xs = luma(picture), [luma(source) for source in sources]
    return {
        "MEF-SSIM": mef_ssim(y, xs),
        "Q^AB/F": edge_transfer(y, xs),
        "SSIM": float(np.mean([ssim(x, y) for x in xs])),
        "MI": sum(mutual_information(x, y) for x in xs),
        "entropy": entropy(y),
        "STD": float(y.std()),
    }


def luma(image: np.ndarray) -> np.ndarray:
    """``(H, W)`` float in 0..255 of a grey or colour image; of colours, ``Y'`` brought to the full range."""
    return image.astype(np.float64) if image.ndim == 2 else (to_ycbcr(image)[..., 0] - 16) * 255 / 219


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM of two grey pictures ``(H, W)`` over the windows that lie inside, Wang et al. 2004."""
    pair = (torch.from_numpy(x / 255).reshape(1, 1, *x.shape) for x in (a, b))
    edge = WINDOW // 2
    return float(similarity_map(*pair)[..., edge:-edge, edge:-edge].mean())


def mef_ssim(picture: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    """MEF-SSIM of ``(H, W)`` in 0..255."""
    line = gaussian(torch.float64)
    window = (line[:, None] * line).reshape(1, -1, 1)
    x = torch.cat([_windows(source, window) for source in sources])
    y = _windows(picture, window)[0]

    def norm(a: Tensor) -> Tensor:
        return (window * a**2).sum(dim=-2, keepdim=True).sqrt()

    strength = norm(x) + 1e-3
    consistency = (norm(x.sum(dim=0)) / strength.sum(dim=0)).clamp(0, 1)
    power = torch.tan(consistency[0] * torch.pi / 2).clamp(max=10)
    weights = strength**power
    structure = (weights / weights.sum(dim=0) * x / strength).sum(dim=0)
    desired = strength.amax(dim=0) * structure / norm(structure)[0].clamp(min=1e-12)
    covariance = (window[0] * desired * y).sum(dim=0)
    variances = (window[0] * desired**2).sum(dim=0) + (window[0] * y**2).sum(dim=0)
    return float(((2 * covariance + C) / (variances + C)).mean())


def _windows(image: np.ndarray, window: Tensor) -> Tensor:
    """Windows ``(1, 121, L)`` of an image, less their weighted means."""
    patches = F.unfold(torch.from_numpy(image).reshape(1, 1, *image.shape), WINDOW)
    return patches - (window * patches).sum(dim=1, keepdim=True)


def edge_transfer(picture: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    """Q^AB/F of pictures ``(H, W)``; 0 where no source has an edge. Borders repeat the last pixel."""
    strength_f, angle_f = _edges(picture)
    total = weight = 0.0
    for source in sources:
        strength, angle = _edges(source)
        low, high = np.minimum(strength, strength_f), np.maximum(strength, strength_f)
        ratio = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
        direction = 1 - np.abs(angle - angle_f) / (np.pi / 2)
        kept = _sigmoid(ratio, *STRENGTH) * _sigmoid(direction, *DIRECTION)
        total, weight = total + float((kept * strength).sum()), weight + float(strength.sum())
    return total / weight if weight else 0.0


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    across, down = (sobel(image, axis=axis, mode="nearest") for axis in (1, 0))
    flat = across == 0
    angle = np.where(flat, np.sign(down) * np.pi / 2, np.arctan(down / np.where(flat, 1.0, across)))
    return np.hypot(across, down), angle


def _sigmoid(x: np.ndarray, gain: float, slope: float, centre: float) -> np.ndarray:
    return gain / (1 + np.exp(slope * (x - centre)))


def entropy(image: np.ndarray) -> float:
    """Of ``(H, W)`` uint8, in bits, of 256 grey levels."""
    return _entropy(np.bincount(_levels(image).ravel(), minlength=256))


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures ``(H, W)`` uint8, in bits, of 256 grey levels each."""
    joint = np.bincount((256 * _levels(a) + _levels(b)).ravel(), minlength=65536)
    return entropy(a) + entropy(b) - _entropy(joint)


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _levels(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.int64)
