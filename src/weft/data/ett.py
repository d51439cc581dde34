"""Electricity transformer temperature: the oil temperature ahead, from windows of load and temperature.

A row is a window of ``w = window`` steps that ends at step ``t``, and the target is the oil temperature ``OT`` at
``t + horizon``. Modalities are series ``(w, C)``: ``high`` (HUFL, HULL), ``middle`` (MUFL, MULL) and ``low`` (LUFL,
LULL) load, useful and useless, and ``oil`` (OT), the history of the target. Values are raw (degrees Celsius; loads as
published); encoders scale by the training rows. Row ids are the time stamps of the targets.

``views="plot"`` gives the two modalities of ARAF in place of these: ``series`` ``(w, 7)``, all columns, and ``plot``,
the same window as a line plot (:mod:`weft.data.line_plot`) whose axes span the training windows. ``change=True`` asks
for the change of the target since the last step of the window instead of its value: errors stay the same numbers in
degrees, and no method has to learn to repeat the last value.

Split, chronological: borders at the first Mondays after 60 % and 80 % of the steps, and a window, its target included,
lies in one part, so no step is seen by two parts. Group: the calendar week of the target, because neighbouring windows
are nearly the same sample and must be resampled together. Folds by week still share up to ``w + horizon`` steps of
history at their edges; the chronological split shares none. ``split="random"`` is the leaking split of some
publications, for comparison only: neighbouring windows fall on both sides, and there are no groups.

Zhou et al. 2021, Informer (AAAI). Data: CC BY-ND 4.0.
"""

from __future__ import annotations

import csv
import gzip
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal

import numpy as np

from weft.data.dataset import SPLITS, Dataset, FolderReader, Modality, datasets
from weft.data.line_plot import LinePlots
from weft.errors import UserError, did_you_mean, some
from weft.registry import Seed

COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
VIEWS = {"high": ("HUFL", "HULL"), "middle": ("MUFL", "MULL"), "low": ("LUFL", "LULL"), "oil": ("OT",)}
SHARES = (0.6, 0.2, 0.2)


@datasets.register("ett")
class Ett(FolderReader):
    """ETT: a transformer's oil temperature some steps ahead, from four series; regression.

    Args:
        file: ``ETTh1``, ``ETTh2`` (hourly), ``ETTm1`` or ``ETTm2`` (every 15 minutes).
        window: steps that a row sees.
        horizon: how many steps after the window the target is; 24 hours by default.
        stride: steps between two rows.
        target: the column to predict.
        split: ``"chronological"`` or, leaking, ``"random"`` (60/20/20).
        seed: of the random split.
        views: ``"groups"``, the four series, or ``"plot"``, all columns and their line plot.
        change: the target is the change since the last step of the window.
    """

    paper = "Zhou et al. 2021, Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting (AAAI)"
    layout = "ETTh1.csv or ETTh1.csv.gz (columns date, HUFL, HULL, MUFL, MULL, LUFL, LULL, OT), or ETTh2, ETTm1, ETTm2"

    def __init__(
        self,
        *,
        file: str = "ETTh1",
        window: int = 96,
        horizon: int = 24,
        stride: int = 6,
        target: str = "OT",
        split: Literal["chronological", "random"] = "chronological",
        seed: Seed = 0,
        views: Literal["groups", "plot"] = "groups",
        change: bool = False,
    ) -> None:
        if min(window, horizon, stride) < 1:
            found = f"window={window}, horizon={horizon}, stride={stride}"
            raise UserError("ett: window, horizon and stride are at least 1", found, "choose positive numbers")
        if target not in COLUMNS:
            raise UserError("ett: unknown target column", target, did_you_mean(target, COLUMNS, "columns"))
        self.name, self.window, self.horizon, self.stride = file, window, horizon, stride
        self.target, self.split, self.seed = target, split, seed
        self.views, self.change = views, change

    def read(self, root: Path) -> Dataset:
        """Read ``<file>.csv`` or ``<file>.csv.gz``."""
        times, steps = _read_steps(self.file(root, f"{self.name}.csv", f"{self.name}.csv.gz"))
        starts, parts = self._windows(times, len(steps))
        answers = starts + self.window - 1 + self.horizon
        columns = {name: i for i, name in enumerate(COLUMNS)}
        if self.views == "plot":
            views = _with_plot(steps, starts, self.window, parts == "train")
        else:
            views = {
                name: Modality("series", _slices(steps[:, [columns[c] for c in names]], starts, self.window))
                for name, names in VIEWS.items()
            }
        target = steps[:, columns[self.target]].astype(np.float64)
        before = target[starts + self.window - 1] if self.change else 0.0
        chronological = self.split == "chronological"
        weeks = np.array(["{}-W{:02d}".format(*times[i].isocalendar()[:2]) for i in answers])
        return Dataset(
            name=f"ett-{self.name}",
            ids=[times[i].isoformat(sep=" ") for i in answers],
            modalities=views,
            targets={f"{self.target} change" if self.change else self.target: target[answers] - before},
            split=parts,
            group=weeks if chronological else None,
            task="regression",
        )

    def _windows(self, times: list[datetime], count: int) -> tuple[np.ndarray, np.ndarray]:
        """First step of every window, and its part."""
        span = self.window + self.horizon
        if self.split == "random":
            starts = np.arange(0, count - span + 1, self.stride)
            _refuse_short(len(starts), span, count)
            order = np.random.default_rng(self.seed).permutation(len(starts))
            ends = np.round(np.cumsum(SHARES) * len(starts)).astype(int)
            parts = np.empty(len(starts), dtype="<U5")
            parts[order] = np.array(SPLITS)[np.searchsorted(ends, np.arange(len(starts)), side="right")]
            return starts, parts
        borders = [0, *(_monday(times, round(share * count)) for share in np.cumsum(SHARES)[:2]), count]
        pieces = [np.arange(a, b - span + 1, self.stride) for a, b in pairwise(borders)]
        _refuse_short(min(len(piece) for piece in pieces), span, count)
        return np.concatenate(pieces), np.repeat(SPLITS, [len(piece) for piece in pieces])


def _read_steps(path: Path) -> tuple[list[datetime], np.ndarray]:
    """Time stamps and the ``(steps, 7)`` float32 columns."""
    opened: IO[str] = gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8")  # noqa: SIM115
    with opened as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in ("date", *COLUMNS) if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path}: missing columns", some(missing), f"expected date, {', '.join(COLUMNS)}")
    steps = np.array([[float(row[name] or "nan") for name in COLUMNS] for row in rows], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(steps).all(axis=1))
    if len(bad):
        found = some(rows[i]["date"] for i in bad)
        raise UserError(f"{path}: NaN or infinite values", f"{len(bad)} steps: {found}", "fill the gaps in the series")
    return [datetime.fromisoformat(row["date"]) for row in rows], steps


def _slices(steps: np.ndarray, starts: np.ndarray, window: int) -> list[np.ndarray]:
    """Views ``(window, C)``; nothing is copied."""
    return [steps[start : start + window] for start in starts]


def _with_plot(steps: np.ndarray, starts: np.ndarray, window: int, train: np.ndarray) -> dict[str, Modality]:
    """All columns as one series, and the line plot of the same windows."""
    windows = _slices(steps, starts, window)
    seen = np.zeros(len(steps), dtype=bool)
    for start in starts[train]:
        seen[start : start + window] = True
    low, high = steps[seen].min(axis=0), steps[seen].max(axis=0)
    return {"series": Modality("series", windows), "plot": Modality("image", LinePlots(windows, low, high))}


def _monday(times: list[datetime], step: int) -> int:
    """The first step at or after ``step`` that begins a calendar week."""
    week = times[step - 1].isocalendar()[:2]
    return next((i for i in range(step, len(times)) if times[i].isocalendar()[:2] != week), len(times))


def _refuse_short(windows: int, span: int, steps: int) -> None:
    if windows == 0:
        found = f"{span} steps of window and horizon, {steps} steps in all"
        raise UserError("ett: a part of the series is too short for one window", found, "choose a shorter window")
