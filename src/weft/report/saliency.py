"""A figure of saliency maps: photo, depth, truth and prediction of a few rows, one row of the figure each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.data.rgbd_saliency import RgbdSaliency

COLUMNS = ("photo", "depth (near is bright)", "truth", "prediction")


def draw_maps(
    data: RgbdSaliency, rows: Sequence[int], maps: Sequence[np.ndarray], s: Sequence[float], path: Path
) -> Path:
    """Draw rows, their maps ``(H, W)`` in [0, 1] and their S-measures to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shapes = [data.mask(row).shape for row in rows]
    figure = Figure(figsize=(11, sum(2.6 * h / w + 0.25 for h, w in shapes)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False)
    for axes, row, prediction, score in zip(grid, rows, maps, s, strict=True):
        images = (data.photo(row), data.depth(row), data.mask(row), prediction)
        for ax, title, image in zip(axes, COLUMNS, images, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(title if ax is not axes[-1] else f"{title}, S = {score:.2f}", fontsize=9)
        axes[0].set_ylabel(data.ids[row][-24:], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def spread(scores: Sequence[float], count: int = 5) -> list[int]:
    """Positions of the best, the worst and evenly spaced ranks between, best first."""
    order = np.argsort(scores)[::-1]
    return [int(order[i]) for i in np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))]
