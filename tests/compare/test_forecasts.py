"""The table of forecasts: errors by hand, and predictions that do not belong."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.compare.cases import quick, small
from weft.compare import compare
from weft.compare.forecasts import forecast_table, read_errors
from weft.data import Dataset, Modality, Split, make_splits
from weft.errors import UserError
from weft.report import write_report

SPLIT = Split(np.arange(40), np.arange(40, 60), np.arange(60, 80))


def walk() -> Dataset:
    rng = np.random.default_rng(1)
    windows = rng.normal(size=(80, 6, 1)).cumsum(axis=1)
    target = windows[:, -1, 0] + 0.1 * rng.normal(size=80)
    series = {"oil": Modality("series", list(windows))}
    return Dataset("walk", [f"r{i}" for i in range(80)], series, {"y": target}, None, None, "regression")


def write(path: Path, ids: list[str], target: np.ndarray, columns: dict[str, np.ndarray]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "target", *columns])
        writer.writerows(zip(ids, target, *columns.values(), strict=True))
    return path


def test_errors_by_hand(tmp_path: Path) -> None:
    data = walk()
    ids, target = [data.ids[i] for i in SPLIT.test], data.targets["y"][SPLIT.test]
    columns = {"net#0": target + 1, "net#1": target - 3, "odd#name#0": target}
    path = write(tmp_path / "p.csv", ids, target, columns)
    rows, best = forecast_table(data, SPLIT, "oil", 0, False, path)
    found = {row.name: row for row in rows}
    net = found["net"]
    assert (net.mse, net.mae, net.mse_sd, net.mae_sd, net.seeds) == pytest.approx((5, 2, 4, 1, 2))
    assert found["odd#name"].mse == 0
    assert rows[0].name == "odd#name"
    assert best in ("persistence", "nlinear", "nlinear, all channels")
    last = np.array([data.modalities["oil"].values[i][-1, 0] for i in SPLIT.test])
    assert found["persistence"].mae == pytest.approx(np.abs(last - target).mean())
    assert net.p_holm is not None
    assert net.p_holm < 0.01
    assert found["persistence"].p_holm is None


def test_figures_show_the_level_whatever_the_target(tmp_path: Path) -> None:
    data = walk()
    last = np.array([value[-1, 0] for value in data.modalities["oil"].values])
    change = replace(data, targets={"y": data.targets["y"] - last})
    ids = [data.ids[i] for i in SPLIT.test]
    pictures = []
    for name, given, base in (("level", data, 0.0), ("change", change, last[SPLIT.test])):
        target = given.targets["y"][SPLIT.test]
        path = write(tmp_path / f"{name}.csv", ids, target, {"net#0": data.targets["y"][SPLIT.test] + 1 - base})
        forecast_table(given, SPLIT, "oil", 0, name == "change", path, tmp_path / name)
        pictures.append([(tmp_path / name / f"{f}-methods.png").read_bytes() for f in ("predicted", "residuals")])
    assert pictures[0] == pictures[1]
    assert pictures[0][0] != pictures[0][1]


def test_figures_show_the_first_three_methods(tmp_path: Path) -> None:
    data = walk()
    ids, target = [data.ids[i] for i in SPLIT.test], data.targets["y"][SPLIT.test]
    pictures = []
    for count in (3, 5):
        path = write(tmp_path / f"{count}.csv", ids, target, {f"net {k}#0": target + k for k in range(count)})
        forecast_table(data, SPLIT, "oil", 0, False, path, tmp_path / str(count))
        pictures.append((tmp_path / str(count) / "predicted-methods.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_predictions_of_a_comparison_are_read_back(tmp_path: Path) -> None:
    features = small("regression", rows=80)
    found = compare(features, quick(fusions=["concat"], show=["concat", "a"]), tmp_path, progress=False)
    write_report(found, tmp_path)
    test = make_splits(features).test
    errors = read_errors(tmp_path / "predictions.csv", [features.ids[i] for i in test])
    assert {name: e.shape for name, e in errors.items()} == {"concat": (2, len(test)), "a": (2, len(test))}
    row = next(row for row in found.rows if row.method == "concat")
    assert (errors["concat"] ** 2).mean() == pytest.approx(row.metrics["mse"], rel=1e-5)


def test_bad_predictions(tmp_path: Path) -> None:
    data = walk()
    ids, target = [data.ids[i] for i in SPLIT.test], data.targets["y"][SPLIT.test]
    with pytest.raises(UserError, match="no predictions"):
        forecast_table(data, SPLIT, "oil", 0, False, tmp_path / "none.csv")
    path = write(tmp_path / "p.csv", [*ids[1:], "r99"], target, {"net#0": target})
    with pytest.raises(UserError, match="unmatched: 'r60'"):
        forecast_table(data, SPLIT, "oil", 0, False, path)
    path = write(tmp_path / "p.csv", ids, target, {"net#0": np.array(["yes"] * len(ids))})
    with pytest.raises(UserError, match="numbers"):
        forecast_table(data, SPLIT, "oil", 0, False, path)
    with pytest.raises(UserError, match="no series of this name"):
        forecast_table(data, SPLIT, "oill", 0, False)
