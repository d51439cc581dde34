r"""A line plot of a window of a series as an image: a second modality that shows the same numbers.

Every channel is one line of its own colour on white, the last channel on top. Column ``x`` of ``size`` stands at step
``x (T - 1) / (size - 1)`` (linear interpolation between steps), a value :math:`v` at row

.. math:: \mathrm{round}\big((size - 1)(1 - \mathrm{clip}(\tfrac{v - low_c}{high_c - low_c}, 0, 1))\big)

and a line fills all rows between its neighbouring columns. The range is given, not taken from the window: the plots of
a data set share their axes, so the level can be read off and not the shape alone. No axes, ticks or words are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (0, 114, 178), (213, 94, 0), (0, 0, 0)],
    dtype=np.uint8,
)
"""Okabe and Ito 2008; the last ``C`` serve ``C`` channels."""


def line_plot(window: np.ndarray, low: np.ndarray, high: np.ndarray, size: int = 112) -> np.ndarray:
    """The plot ``(size, size, 3)`` uint8 of a window ``(T, C)``, ``C`` at most 7.

    Args:
        window: the values.
        low, high: ``(C,)`` values at the lower and upper edge; values beyond lie on the edge.
        size: pixels per side, at least 2.
    """
    steps, channels = window.shape
    image = np.full((size, size, 3), 255, dtype=np.uint8)
    place = np.linspace(0, steps - 1, size)
    rows = np.arange(size)[:, None]
    for channel, colour in enumerate(COLOURS[len(COLOURS) - channels :]):
        span = max(float(high[channel] - low[channel]), 1e-12)
        heights = np.clip((window[:, channel] - low[channel]) / span, 0, 1)
        row = np.round((size - 1) * (1 - np.interp(place, np.arange(steps), heights))).astype(int)
        before = np.r_[row[0], row[:-1]]
        top, bottom = np.minimum(row, before), np.maximum(row, before)
        image[(rows >= top) & (rows <= bottom)] = colour
    return image


@dataclass(frozen=True)
class LinePlots(Sequence[np.ndarray]):
    """Plots of windows, drawn when asked for.

    Attributes:
        windows: each ``(T, C)``.
        low, high, size: see :func:`line_plot`.
    """

    windows: Sequence[np.ndarray]
    low: np.ndarray
    high: np.ndarray
    size: int = 112

    def __len__(self) -> int:
        return len(self.windows)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return LinePlots(self.windows[index], self.low, self.high, self.size)
        return line_plot(self.windows[index], self.low, self.high, self.size)
