"""The figures of a comparison, each one PNG, in the style of the task figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from weft.compare import Comparison
from weft.compare.evidence import Row
from weft.tasks.plots import GREY, PALETTE, canvas, shorts

if TYPE_CHECKING:
    from weft.tasks.base import Task

ROLES = {
    "fusion": (PALETTE[0], "o", "fusion"),
    "classical": (PALETTE[4], "s", "classical, all modalities"),
    "single": (PALETTE[1], "D", "one modality"),
    "ensemble": (PALETTE[2], "P", "ensemble"),
    "ensemble of singles": (PALETTE[5], "p", "ensemble of singles"),
    "system": (PALETTE[3], "^", "published network"),
    "chance": (GREY, "X", "chance"),
}
LINE = 0.32
"""Height of one method in inches."""
WIDE = 5.5
"""Width of a figure in inches: two stand side by side in the report."""
LABELLED = 6
MAIN = 12
"""Methods shown before anything is unfolded, besides the one that is kept and the best of each role."""


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it."""

    title: str
    caption: str
    path: Path


def draw_figures(comparison: Comparison, folder: Path) -> list[Picture]:
    """All figures the comparison has data for, as PNG files in ``folder``, in reading order."""
    done = [row for row in comparison.rows if row.test is not None]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if done:
        drawn.append(_methods(comparison, main_rows(comparison), folder))
    if any(len(row.spread) > 1 for row in done):
        drawn.append(_seeds(comparison, [row for row in done if len(row.spread) > 1], folder))
    if comparison.contributions is not None:
        drawn.append(_contributions(comparison, folder))
    hidden = [row for row in main_rows(comparison) if any(row.missing.values())]
    if hidden:
        drawn.append(_missing(comparison, hidden, folder))
    if any(row.parameters for row in done):
        drawn.append(_cost(comparison, [row for row in done if row.parameters], folder))
    if comparison.winner_outputs is not None and comparison.winner_target is not None:
        paths = comparison.task.figures(comparison.winner_outputs, comparison.winner_target, folder)
        winner = comparison.verdict.winner
        drawn += [
            Picture(path.stem.capitalize(), f"The model that is kept, {winner}, on its test rows.", path)
            for path in paths
        ]
    if comparison.shown and comparison.shown_target is not None:
        paths = cast("Task", comparison.task).figures_of_methods(comparison.shown, comparison.shown_target, folder)
        drawn += [
            Picture(path.stem.replace("-", " ").capitalize(), "Methods side by side, on the test rows.", path)
            for path in paths
        ]
    return drawn


def main_rows(comparison: Comparison) -> list[Row]:
    """The best on test, the one that is kept, and the best of each role, best first."""
    done = [row for row in comparison.rows if row.test is not None]
    wanted = {row.method for row in done[:MAIN]} | {comparison.verdict.winner, comparison.verdict.against}
    for role in dict.fromkeys(row.role for row in done):
        wanted.add(next(row.method for row in done if row.role == role))
    return [row for row in done if row.method in wanted]


def _label(comparison: Comparison) -> str:
    return f"{comparison.primary} on test ({'higher' if comparison.higher_is_better else 'lower'} is better)"


def _ladder(axes: Any, names: list[str]) -> None:
    """One line per method, the first on top."""
    axes.set_yticks(range(len(names)), shorts(names, 30))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)


def _methods(comparison: Comparison, rows: list[Row], folder: Path) -> Picture:
    with canvas(folder, "methods", size=(WIDE, 1.5 + LINE * len(rows))) as (axes,):
        for role, (colour, marker, label) in ROLES.items():
            chosen = [(place, row) for place, row in enumerate(rows) if row.role == role]
            if not chosen:
                continue
            places = [place for place, _ in chosen]
            spans = [(place, row.low, row.high) for place, row in chosen if row.low is not None]
            if spans:
                axes.hlines(*zip(*spans, strict=True), color=colour, alpha=0.55)
            axes.plot([row.test for _, row in chosen], places, marker, color=colour, markersize=7, label=label)
        other = next((row for row in rows if row.method == comparison.verdict.against), None)
        if other is not None:
            axes.axvline(other.test, color=PALETTE[1], linewidth=1, linestyle="--", zorder=0)
        _ladder(axes, [row.method for row in rows])
        axes.set(xlabel=_label(comparison))
        axes.figure.legend(loc="outside upper left", ncols=3)
    caption = "Mean over seeds with its 95 % interval over test rows and training runs."
    if other is not None:
        what = "single modality" if comparison.verdict.reference is None else "variant"
        caption += f" Dashed: {other.method}, the {what} that the others are tested against."
    return Picture("Methods", caption, folder / "methods.png")


def _seeds(comparison: Comparison, rows: list[Row], folder: Path) -> Picture:
    with canvas(folder, "seeds", size=(WIDE, 1.2 + LINE * len(rows))) as (axes,):
        for place, row in enumerate(rows):
            colour = ROLES[row.role][0]
            axes.plot(row.spread, np.full(len(row.spread), place), "o", color=colour, markersize=6, alpha=0.5, mew=0)
            axes.plot(row.test, place, "|", color="black", markersize=13, mew=1.6)
        _ladder(axes, [row.method for row in rows])
        axes.set(xlabel=_label(comparison))
    caption = "Each dot is one seed, the bar their mean: how much the chance of training matters."
    return Picture("Seeds", caption, folder / "seeds.png")


def _contributions(comparison: Comparison, folder: Path) -> Picture:
    found = comparison.contributions
    names = list(comparison.modalities)
    with canvas(folder, "contributions", size=(WIDE, 1.9 + 0.65 * len(names))) as (axes,):
        places = np.arange(len(names))
        for shift, colour, label, values in (
            (-0.19, PALETTE[0], "Shapley value", found.shapley if found else {}),
            (0.19, PALETTE[5], "leave-one-out", found.leave_one_out if found else {}),
        ):
            bars = axes.barh(places + shift, [values[name] for name in names], height=0.36, color=colour, label=label)
            axes.bar_label(bars, fmt="%+.3f", padding=4, fontsize=9.5)
        axes.axvline(0, color="black", linewidth=1)
        axes.set_yticks(places, shorts(names, 30))
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.margins(x=0.16)
        axes.set(xlabel=f"worth in {comparison.primary} (positive is better)")
        axes.figure.legend(loc="outside upper left", ncols=2)
    how = "all subsets" if found and found.exact else "random orders and their reverses"
    caption = (
        f"{found.model if found else ''} trained on {how} of the modalities. The Shapley values sum to the way from "
        "chance to all of them; leave-one-out near zero beside a large Shapley value: another modality carries the "
        "same."
    )
    return Picture("What each modality contributes", caption, folder / "contributions.png")


def _missing(comparison: Comparison, rows: list[Row], folder: Path) -> Picture:
    names = comparison.patterns
    with canvas(folder, "missing", size=(WIDE, 1.5 + LINE * len(rows))) as (axes,):
        for place, row in enumerate(rows):
            there = [entry for entry in row.missing.values() if entry]
            ends = [value for entry in there for value in (entry["full"], entry["hidden"])]
            axes.hlines(place, min(ends), max(ends), color=GREY, alpha=0.4, linewidth=1)
            full = float(np.mean([entry["full"] for entry in there]))
            axes.plot(
                full, place, "|", color="black", markersize=13, mew=1.8, label="nothing missing" if not place else None
            )
        for k, (name, label) in enumerate(zip(names, shorts(names), strict=True)):
            pairs = [(e["hidden"], p) for p, row in enumerate(rows) if (e := row.missing.get(name))]
            if pairs:
                style = {"color": PALETTE[(k + 1) % len(PALETTE)], "marker": "ovsD^P*"[k % 7]}
                axes.plot(*zip(*pairs, strict=True), linestyle="", markersize=7, label=f"without {label}", **style)
        _ladder(axes, [row.method for row in rows])
        axes.set(xlabel=_label(comparison))
        axes.figure.legend(loc="outside upper left", ncols=3)
    caption = "As trained, then tested with modalities hidden in every row that has them and keeps another."
    return Picture("A modality goes missing at test time", caption, folder / "missing.png")


def _cost(comparison: Comparison, rows: list[Row], folder: Path) -> Picture:
    sign = 1 if comparison.higher_is_better else -1
    best = sorted(rows, key=lambda row: -sign * (row.test or 0.0))[:LABELLED]
    kept = [row for row in rows if row.method == comparison.verdict.winner and row not in best]
    with canvas(folder, "cost", columns=2, size=(5.7, 4.4)) as panels:
        for axes, column, label in zip(
            panels,
            ("parameters", "train_seconds"),
            ("trainable weights", "seconds of one trial"),
            strict=True,
        ):
            for role, (colour, marker, name) in ROLES.items():
                chosen = [row for row in rows if row.role == role]
                if chosen:
                    xs = [getattr(row, column) for row in chosen]
                    ys = [row.test for row in chosen]
                    axes.plot(xs, ys, marker, color=colour, markersize=7, alpha=0.8, label=name, mew=0)
            axes.margins(x=0.22, y=0.12)
            _log_axis(axes, label)
            axes.grid(alpha=0.25)
            labels = shorts([row.method for row in best + kept])
            points = [(getattr(row, column), row.test or 0.0) for row in best + kept]
            _annotate(axes, [(*point, label) for point, label in zip(points, labels, strict=True)])
        panels[0].set(ylabel=_label(comparison))
        handles, labels = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(handles, labels, loc="outside upper left", ncols=3)
    caption = f"Networks only; the {LABELLED} best and the model that is kept are named."
    return Picture("Quality against cost", caption, folder / "cost.png")


def _log_axis(axes: Any, label: str) -> None:
    """A logarithmic x axis: 500, 20k, 1M."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    large = EngFormatter(sep="")
    axes.set(xscale="log", xlabel=label)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1, 3), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: large(x) if x >= 1000 else f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _annotate(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Names beside points, pushed apart so that none covers another."""
    low, high = axes.get_ylim()
    gap, last = (high - low) * 0.055, np.inf
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        place = min(y, last - gap)
        last = place
        link = {"arrowstyle": "-", "color": GREY, "lw": 0.6}
        axes.annotate(
            name, (x, y), xytext=(12, (place - y) / (high - low) * 300), textcoords="offset points",
            fontsize=9, va="center", arrowprops=link,
        )  # fmt: skip
