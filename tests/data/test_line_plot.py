"""Line plots against drawing pixel by pixel, and the two modalities of ETT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from weft.data import load_dataset
from weft.data.line_plot import COLOURS, LinePlots, line_plot


def drawn(window: np.ndarray, low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    steps, channels = window.shape
    image = np.full((size, size, 3), 255)
    for channel in range(channels):
        previous = None
        for x in range(size):
            place = x * (steps - 1) / (size - 1)
            left = min(int(place), steps - 1)
            right = min(left + 1, steps - 1)
            scaled = [
                min(max((float(window[i, channel]) - low[channel]) / (high[channel] - low[channel]), 0.0), 1.0)
                for i in (left, right)
            ]
            row = int(np.round((size - 1) * (1 - (scaled[0] + (place - left) * (scaled[1] - scaled[0])))))
            previous = row if previous is None else previous
            for y in range(min(row, previous), max(row, previous) + 1):
                image[y, x] = COLOURS[len(COLOURS) - channels + channel]
            previous = row
    return image


@pytest.mark.parametrize(("steps", "channels", "size"), [(9, 1, 16), (30, 3, 21), (50, 7, 32), (1, 2, 8)])
def test_equals_drawing_pixel_by_pixel(steps: int, channels: int, size: int) -> None:
    rng = np.random.default_rng(steps)
    window = rng.normal(size=(steps, channels))
    low, high = np.full(channels, -1.3), np.full(channels, 1.1)
    found = line_plot(window, low, high, size)
    assert found.dtype == np.uint8
    assert np.array_equal(found, drawn(window, low, high, size))
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == channels + 1


def test_the_level_can_be_read_off() -> None:
    rows = [
        int(np.flatnonzero((line_plot(np.full((5, 1), v), np.zeros(1), np.ones(1), 11) == 0).all(axis=2)[:, 0])[0])
        for v in (0.0, 0.3, 1.0, 7.0)
    ]
    assert rows == [10, 7, 0, 0]


def test_plots_are_those_of_their_windows() -> None:
    windows = [np.random.default_rng(i).normal(size=(12, 2)) for i in range(4)]
    plots = LinePlots(windows, np.full(2, -3.0), np.full(2, 3.0), 24)
    assert len(plots[1:3]) == 2
    assert np.array_equal(plots[1:3][1], line_plot(windows[2], np.full(2, -3.0), np.full(2, 3.0), 24))


def test_ett_as_numbers_and_plot(data_root: Path) -> None:
    root = data_root / "ETT-small"
    options = {"window": 48, "horizon": 3, "stride": 97}
    plain = load_dataset("ett", root, **options)
    data = load_dataset("ett", root, views="plot", **options)
    change = load_dataset("ett", root, views="plot", change=True, **options)
    assert list(data.modalities) == ["series", "plot"]
    assert data.ids == plain.ids
    series, plots = data.modalities["series"].values, data.modalities["plot"].values
    last = np.array([value[-1, 6] for value in series], dtype=np.float64)
    assert np.array_equal(data.targets["OT"], plain.targets["OT"])
    assert change.targets["OT change"] == pytest.approx(data.targets["OT"] - last)
    train = np.stack([v for v, part in zip(series, data.split, strict=True) if part == "train"])
    expected = line_plot(series[-1], train.min(axis=(0, 1)), train.max(axis=(0, 1)))
    assert np.array_equal(plots[-1], expected)
