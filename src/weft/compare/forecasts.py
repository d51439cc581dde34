"""A comparison's forecasts beside persistence, linear and boosted forecasts on the raw windows, with paired tests."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.statistics import holm, paired_gain
from weft.data import Dataset, Split
from weft.errors import UserError, did_you_mean, some
from weft.tasks import plots
from weft.tasks.forecast import forecasts


@dataclass(frozen=True)
class ForecastRow:
    """One forecast on the test rows, in the units of the target.

    Attributes:
        name: baseline, or method of the comparison.
        mse, mae: mean over seeds.
        mse_sd, mae_sd: standard deviation between seeds; None for what has no seed.
        seeds: how many.
        p_holm: paired test of the squared errors (mean over seeds) against the best baseline on dev, Holm over the
            methods; None for baselines.
    """

    name: str
    mse: float
    mae: float
    mse_sd: float | None = None
    mae_sd: float | None = None
    seeds: int = 1
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def cells(self, best: str) -> dict[str, Any]:
        """A line of the table for people; ``best`` is what ``p_holm`` is against."""
        return {
            "forecast": self.name,
            "MSE": f"{self.mse:.4g}" + (f" ± {self.mse_sd:.2g}" if self.mse_sd is not None else ""),
            "MAE": f"{self.mae:.4g}" + (f" ± {self.mae_sd:.2g}" if self.mae_sd is not None else ""),
            "seeds": self.seeds if self.mse_sd is not None else None,
            f"p (Holm) against {best}": None if self.p_holm is None else f"{self.p_holm:.2g}",
        }


def forecast_table(
    dataset: Dataset,
    split: Split,
    modality: str,
    channel: int,
    change: bool,
    predictions: Path | None = None,
    figures: Path | None = None,
) -> tuple[list[ForecastRow], str]:
    """Baselines and, where there are predictions of a comparison, its methods; best first.

    Args:
        dataset: with a series modality and a target that is a channel's future, or its change.
        split: its rows.
        modality, channel: where the history of the target is.
        change: the target is the change since the last step.
        predictions: ``predictions.csv`` of a comparison of the same rows.
        figures: folder for ``predicted-methods.png`` and ``residuals-methods.png``: the best baseline on dev and the
            first three methods of the file at their first seed, as values of the channel even where the target is its
            change.

    Returns:
        The rows, and the name of the baseline that is best on dev.

    Raises:
        UserError: no such series, windows of unequal length, or predictions of other rows.
    """
    target = next(iter(dataset.targets.values()))
    windows = _windows(dataset, modality)
    found = forecasts(windows, channel, target, split, change=change)
    best = min(found, key=lambda forecast: forecast.dev)
    errors = {forecast.name: (forecast.prediction - target)[split.test][None] for forecast in found}
    methods = {} if predictions is None else read_errors(predictions, [dataset.ids[i] for i in split.test])
    if figures is not None:
        level = target[split.test] + (windows[split.test, -1, channel] if change else 0.0)
        drawn = list({best.name: errors[best.name], **methods}.items())[: plots.ROW]
        guess = {name: level + e[0] for name, e in drawn}
        plots.predicted_panels(level, guess, figures)
        plots.residual_panels(level, guess, figures)
    group = None if dataset.group is None else dataset.group[split.test]
    p = [paired_gain(-(e**2), -(errors[best.name] ** 2), group).p for e in methods.values()]
    adjusted = dict(zip(methods, holm(np.array(p)).tolist(), strict=True)) if methods else {}
    rows = [_row(name, e, adjusted.get(name)) for name, e in {**errors, **methods}.items()]
    return sorted(rows, key=lambda row: row.mse), best.name


def read_errors(path: Path, ids: list[str]) -> dict[str, np.ndarray]:
    """``{method: (seeds, N)}`` errors of a comparison's ``predictions.csv``, for test rows of these ids.

    Raises:
        UserError: the file is not there, holds other rows, or its predictions are no numbers.
    """
    if not path.is_file():
        raise UserError("the comparison has no predictions", str(path), "run weft compare with --set 'show=[...]'")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if [line["id"] for line in lines] != ids:
        theirs = {line["id"] for line in lines}
        odd = [row for row in ids if row not in theirs] or [row for row in theirs if row not in set(ids)]
        raise UserError(
            f"{path}: predictions of other test rows",
            f"{len(lines)} there, {len(ids)} here; unmatched: {some(odd) or 'none, but in another order'}",
            "give the data the options it had when it was compared",
        )
    seeds: dict[str, list[np.ndarray]] = defaultdict(list)
    try:
        target = np.array([float(line["target"]) for line in lines])
        for column in lines[0]:
            name, mark, _ = column.rpartition("#")
            if mark:
                seeds[name].append(np.array([float(line[column]) for line in lines]) - target)
    except ValueError as error:
        raise UserError(f"{path}: forecasts are numbers", str(error), "compare a regression target") from None
    return {name: np.stack(errors) for name, errors in seeds.items()}


def _windows(dataset: Dataset, modality: str) -> np.ndarray:
    series = {name: m for name, m in dataset.modalities.items() if m.kind == "series"}
    if modality not in series:
        raise UserError("no series of this name", modality, did_you_mean(modality, series, "series"))
    values = series[modality].values
    shapes = {None if value is None else value.shape for value in values}
    if len(shapes) != 1 or None in shapes:
        raise UserError(
            "forecasts on raw windows need one window of one length in every row", some(map(str, shapes)), "cut them"
        )
    return np.stack(list(values))


def _row(name: str, errors: np.ndarray, p: float | None) -> ForecastRow:
    mse, mae = (errors**2).mean(axis=1), np.abs(errors).mean(axis=1)
    if p is None:
        return ForecastRow(name, float(mse[0]), float(mae[0]))
    spread = (float(mse.std()), float(mae.std()))
    return ForecastRow(name, float(mse.mean()), float(mae.mean()), *spread, len(errors), p)
