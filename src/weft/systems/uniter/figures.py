"""Which regions of a photo a word moves to under word-region alignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.tasks.plots import canvas

MOST = 11
"""Words drawn of a caption, beside the photo: those whose mass lies closest together."""


def heat(shares: np.ndarray, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``(H, W)``: at every pixel the largest share ``(K,)`` of the regions ``(K, 7)`` that cover it."""
    height, width = size
    found = np.zeros(size)
    for share, (left, top, right, bottom) in zip(shares, places[:, :4], strict=True):
        if right - left >= 1 and bottom - top >= 1:
            continue  # the whole picture
        rows = slice(int(top * height), max(int(np.ceil(bottom * height)), 1))
        columns = slice(int(left * width), max(int(np.ceil(right * width)), 1))
        found[rows, columns] = np.maximum(found[rows, columns], share)
    return found


def draw_alignment(
    photo: np.ndarray, words: Sequence[str], plan: np.ndarray, places: np.ndarray, folder: Path, name: str
) -> Path:
    """Draw a photo and, for each word, where its mass goes.

    Args:
        photo: ``(H, W, 3)`` uint8.
        words: ``M`` pieces.
        plan: transport plan ``(K, M)``; each column is one word's mass over the regions.
        places: of the regions, ``(K, 7)``, see :mod:`weft.systems.uniter.regions`.
        folder, name: of the PNG.
    """
    shares = plan / plan.sum(axis=0, keepdims=True).clip(1e-12)
    chosen = np.sort(np.argsort(-shares.max(axis=0), kind="stable")[:MOST])
    wide = 2.0
    tall = wide * photo.shape[0] / photo.shape[1] + 0.35
    with canvas(folder, name, 1 + len(chosen), size=(wide, tall)) as panels:
        for axes, word in zip(panels, [None, *chosen.tolist()], strict=True):
            axes.set_axis_off()
            axes.imshow(photo if word is None else photo.mean(axis=2), cmap="gray")
            if word is not None:
                drawn = heat(shares[:, word], places, photo.shape[:2])
                axes.imshow(drawn, cmap="inferno", alpha=0.55, vmin=0, vmax=max(float(drawn.max()), 1e-12))
                axes.set_title(f"{words[word]} ({shares[:, word].max():.2f})")
    return folder / f"{name}.png"
