"""A figure of saliency maps: photo, depth, truth and the maps of some methods, a row of the figure for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def draw_maps(
    shown: Sequence[Mapping[str, np.ndarray]],
    ids: Sequence[str],
    maps: Mapping[str, Sequence[np.ndarray]],
    s: Mapping[str, Sequence[float]],
    path: Path,
) -> Path:
    """Draw rows to a PNG.

    Args:
        shown: per row ``{title: image}``: photo, depth, truth.
        ids: of the rows.
        maps: per method the maps ``(H, W)`` in [0, 1], a column of the figure.
        s: their S-measures.
        path: of the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(shown[0]) + len(maps)
    shapes = [next(iter(maps.values()))[i].shape for i in range(len(ids))]
    height = sum(10.4 / columns * h / w + 0.25 for h, w in shapes)
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(ids), columns, squeeze=False)
    for i, axes in enumerate(grid):
        predicted = {f"{method}, S {s[method][i]:.2f}": maps[method][i] for method in maps}
        for ax, (title, image) in zip(axes, {**shown[i], **predicted}.items(), strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(title, fontsize=9 if columns == 4 else 7)
        axes[0].set_ylabel(ids[i][-24:], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def spread(scores: Sequence[float], count: int = 5) -> list[int]:
    """Positions of the best, the worst and evenly spaced ranks between, best first."""
    order = np.argsort(scores)[::-1]
    return [int(order[i]) for i in np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))]
