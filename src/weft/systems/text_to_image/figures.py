"""Grids of drawn images under their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def draw_grid(columns: Sequence[str], rows: Mapping[str, np.ndarray], path: Path) -> Path:
    """One column per caption, one row per model (or per noise), each image with a thin border.

    Args:
        columns: ``n`` captions.
        rows: ``{name: (n, size, size, 3) uint8}``.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.25 * len(columns) + 1, 1.3 * len(rows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(textwrap.fill(name, 14), fontsize=8)
    for axis, caption in zip(axes[0], columns, strict=True):
        axis.set_title(textwrap.fill(caption, 20), fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
