"""The figures of tasks, in one style: a palette that colour-blind readers can tell apart, sizes that survive print.

Every function draws one PNG into ``folder`` and gives its path. Figures are built by matplotlib's object-oriented
interface on the Agg canvas: no pyplot, no state shared between figures. Colours: Okabe and Ito 2008.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
ROW = 4
"""Panels beside one another; more go below."""
FEW_CURVES = 3
"""Curves that can lie over one another and still be told apart."""
LINES = ("-", "--", "-.", ":")


@contextmanager
def canvas(
    folder: Path, name: str, columns: int = 1, size: tuple[float, float] = (4.8, 4.2), projection: str | None = None
) -> Iterator[Any]:
    """Axes ``(columns,)`` to draw on, at most four in a row; saved as ``folder/name.png`` when the block ends.

    ``size`` is that of one of them in inches, ``projection`` theirs (``"3d"``).
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "text.parse_math": False,  # names are data: a "$" is a dollar
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "lines.linewidth": 1.8,
    }
    with rc_context(style):
        wide, rows = min(columns, ROW), -(-columns // ROW)
        figure = Figure(figsize=(size[0] * wide, size[1] * rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, wide, squeeze=False, subplot_kw={"projection": projection}).ravel()
        for axes in panels[columns:]:
            axes.remove()
        yield panels[:columns]
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=150)


def confusion(counts: np.ndarray, names: Sequence[str], folder: Path) -> Path:
    """Confusion matrix ``(K, K)``, rows actual, coloured by the share of each row; numbers up to 15 classes."""
    k = len(names)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.55 * k + 2.2, 4.2, 12.0))
    with canvas(folder, "confusion", size=(side + 0.9, side)) as (axes,):
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        labels = shorts(names)
        shown = np.arange(0, k, max(1, k // 30))
        turn = any(len(label) > 3 for label in labels)
        axes.set_xticks(shown, [labels[i] for i in shown], rotation=45 if turn else 0, ha="right" if turn else "center")
        axes.set_yticks(shown, [labels[i] for i in shown])
        if k <= 15:
            for i in range(k):
                for j in range(k):
                    colour = "white" if share[i, j] > 0.55 else "black"
                    axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=10)
        axes.set(xlabel="predicted", ylabel="actual", title="Confusion matrix")
        axes.figure.colorbar(image, ax=axes, label="share of the actual class", shrink=0.8)
    return folder / "confusion.png"


def roc(truth: np.ndarray, p: np.ndarray, names: Sequence[str], folder: Path) -> Path:
    """ROC curves of ``K`` yes-or-no questions, from truth and probabilities ``(N, K)``.

    Questions without both positive and negative rows are left out. Up to three have a curve each; more are shown by
    their mean, the range of all, and beside it the area of each, lowest first (at most 30).
    """
    from sklearn.metrics import auc, roc_curve

    columns = [k for k in range(truth.shape[1]) if 0 < truth[:, k].sum() < len(truth)]
    curves = {k: roc_curve(truth[:, k], p[:, k])[:2] for k in columns}
    area = {k: auc(*curve) for k, curve in curves.items()}
    worst, many = sorted(columns, key=area.__getitem__), len(columns) > FEW_CURVES
    labels = shorts(names)
    with canvas(folder, "roc", columns=1 + many, size=(4.8, max(4.6, 0.24 * len(worst[:30]) + 1.2))) as panels:
        axes = panels[0]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        for place, k in enumerate([] if many else columns):
            style = {"color": PALETTE[place], "linestyle": LINES[place]}
            axes.plot(*curves[k], label=f"{labels[k]}, AUC {area[k]:.3f}", **style)
        if len(columns) > 1:
            _mean_curve(axes, [curves[k] for k in columns], float(np.mean(list(area.values()))), many)
        title = "ROC" + (", each against the rest" if len(columns) > 1 else "")
        axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title, box_aspect=1)
        axes.legend(loc="lower right")
        if many:
            shown = worst[:30]
            panels[1].hlines(range(len(shown)), 0.5, [area[k] for k in shown], color=PALETTE[0], alpha=0.35)
            panels[1].plot([area[k] for k in shown], range(len(shown)), "o", color=PALETTE[0])
            panels[1].set_yticks(range(len(shown)), shorts([names[k] for k in shown], 30))
            panels[1].set_ylim(len(shown) - 0.5, -0.5)
            title = "Area of each" + (
                f", the lowest {len(shown)} of {len(columns)}" if len(columns) > len(shown) else ""
            )
            panels[1].set(xlabel="AUC", title=title)
            panels[1].grid(axis="x", alpha=0.25)
    return folder / "roc.png"


def _mean_curve(axes: Any, curves: Sequence[tuple[np.ndarray, np.ndarray]], area: float, spread: bool) -> None:
    """The vertical mean of ROC curves, and the range they fill."""
    grid = np.linspace(0, 1, 501)
    all_curves = np.stack([np.interp(grid, *curve) for curve in curves])
    mean, label = all_curves.mean(axis=0), f"mean of {len(curves)}, AUC {area:.3f}"
    axes.plot(np.r_[0, grid], np.r_[0, mean], color="black", linewidth=2.4, label=label)
    if spread:
        low, high = all_curves.min(axis=0), all_curves.max(axis=0)
        axes.fill_between(grid, low, high, color=PALETTE[0], alpha=0.18, linewidth=0, label="range of all")


def roc_panels(truth: np.ndarray, p: Mapping[str, np.ndarray], names: Sequence[str], folder: Path) -> Path:
    """One panel per method with a curve for each of ``K`` yes-or-no questions, the vertical mean over ``S`` seeds.

    Args:
        truth: ``(N, K)``, 0 or 1; columns of one kind only are left out.
        p: ``{method: (S, N, K)}`` probabilities.
        names: of the questions; more than three are shown by mean and range.
        folder: where ``roc-methods.png`` goes.

    Areas are means over the seeds, with the standard deviation between them.
    """
    from sklearn.metrics import auc, roc_curve

    columns = [k for k in range(truth.shape[1]) if 0 < truth[:, k].sum() < len(truth)]
    grid, labels = np.linspace(0, 1, 501), shorts(names)
    with canvas(folder, "roc-methods", columns=len(p), size=(4.4, 4.9)) as panels:
        for axes, method, seeds in zip(panels, shorts([*p], 28), p.values(), strict=True):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
            areas = np.zeros((len(seeds), len(columns)))
            for place, k in enumerate(columns):
                drawn = [roc_curve(truth[:, k], one[:, k])[:2] for one in seeds]
                areas[:, place] = [auc(*curve) for curve in drawn]
                mean = np.mean([np.interp(grid, *curve) for curve in drawn], axis=0)
                if len(columns) <= FEW_CURVES:
                    style = {"color": PALETTE[place], "linestyle": LINES[place % len(LINES)]}
                    axes.plot(
                        np.r_[0, grid],
                        np.r_[0, mean],
                        label=f"{labels[k]}, {areas[:, place].mean():.3f}",
                        **style,
                    )
            if len(columns) > FEW_CURVES:
                first = [roc_curve(truth[:, k], seeds[0][:, k])[:2] for k in columns]
                _mean_curve(axes, first, float(areas.mean()), True)
            means = areas.mean(axis=1)
            axes.set_title(f"{method}\nmean AUC {means.mean():.3f}, sd {means.std():.3f} over {len(seeds)} seeds")
            axes.set(xlabel="false positive rate")
            axes.legend(loc="lower right", title="class, AUC" if len(columns) <= FEW_CURVES else None)
        for axes in panels[::ROW]:
            axes.set(ylabel="true positive rate")
    return folder / "roc-methods.png"


def reliability(confidence: np.ndarray, right: np.ndarray, folder: Path) -> Path:
    """Reliability diagram: share of ``right`` rows ``(n,)`` against confidence ``(n,)``, and how many rows each bin
    holds.
    """
    from weft.tasks.calibration import expected_calibration_error, reliability_curve

    curve = reliability_curve(confidence, right)
    width = curve.edges[1]
    with canvas(folder, "reliability", columns=2, size=(4.6, 4.2)) as (axes, counts):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="perfectly calibrated")
        axes.plot(curve.confidence, curve.accuracy, "o-", color=PALETTE[0], label="model")
        ece = expected_calibration_error(confidence, right)
        axes.set(xlabel="confidence", ylabel="share right", title=f"Reliability, ECE {ece:.3f}")
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.legend(loc="upper left")
        counts.bar(curve.edges[curve.bins], curve.rows, width=width, align="edge", color=PALETTE[0], edgecolor="white")
        counts.set(xlabel="confidence", ylabel="rows", title="Rows per bin", xlim=(0, 1))
    return folder / "reliability.png"


def predicted(truth: np.ndarray, guess: np.ndarray, folder: Path) -> Path:
    """Predicted against actual, ``(N, K)`` both, one panel for each of the first four targets."""
    with canvas(folder, "predicted", columns=min(truth.shape[1], 4)) as panels:
        for k, axes in enumerate(panels):
            low, high = min(truth[:, k].min(), guess[:, k].min()), max(truth[:, k].max(), guess[:, k].max())
            axes.plot([low, high], [low, high], color="black", linewidth=1.2, linestyle="--", zorder=3)
            axes.scatter(truth[:, k], guess[:, k], **_dots(len(truth)))
            axes.set(xlabel="actual", ylabel="predicted", title=_panel_title("Predicted against actual", k, truth))
    return folder / "predicted.png"


def residuals(truth: np.ndarray, guess: np.ndarray, folder: Path) -> Path:
    """Residuals (predicted minus actual) against the prediction, ``(N, K)``, for each of the first four targets."""
    with canvas(folder, "residuals", columns=min(truth.shape[1], 4)) as panels:
        for k, axes in enumerate(panels):
            axes.axhline(0, color="black", linewidth=1.2, linestyle="--", zorder=3)
            axes.scatter(guess[:, k], guess[:, k] - truth[:, k], **_dots(len(truth)))
            axes.set(xlabel="predicted", ylabel="predicted - actual", title=_panel_title("Residuals", k, truth))
    return folder / "residuals.png"


def predicted_panels(truth: np.ndarray, guess: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Predicted against actual, ``(N,)`` both, one panel per method, all on the same axes."""
    low = min(truth.min(), *(g.min() for g in guess.values()))
    high = max(truth.max(), *(g.max() for g in guess.values()))
    with canvas(folder, "predicted-methods", columns=len(guess), size=(4.2, 4.2)) as panels:
        for axes, (method, values) in zip(panels, guess.items(), strict=True):
            axes.plot([low, high], [low, high], color="black", linewidth=1.2, linestyle="--", zorder=3)
            axes.scatter(truth, values, **_dots(len(truth)))
            mae = np.abs(values - truth).mean()
            axes.set(xlabel="actual", title=f"{short(method, 28)}, MAE {mae:.3g}", xlim=(low, high), ylim=(low, high))
        for axes in panels[::ROW]:
            axes.set(ylabel="predicted")
    return folder / "predicted-methods.png"


def residual_panels(truth: np.ndarray, guess: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Residuals (predicted minus actual) against the actual value, ``(N,)`` both, one panel per method."""
    most = max(np.abs(g - truth).max() for g in guess.values()) * 1.05
    with canvas(folder, "residuals-methods", columns=len(guess), size=(4.2, 3.6)) as panels:
        for axes, (method, values) in zip(panels, guess.items(), strict=True):
            axes.axhline(0, color="black", linewidth=1.2, linestyle="--", zorder=3)
            axes.scatter(truth, values - truth, **_dots(len(truth)))
            axes.set(xlabel="actual", title=short(method, 28), ylim=(-most, most))
        for axes in panels[::ROW]:
            axes.set(ylabel="predicted - actual")
    return folder / "residuals-methods.png"


def curves(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str, folder: Path, **labels: str) -> Path:
    """Lines ``{label: (x, y)}`` on one pair of axes, ``x`` on a log scale; ``labels`` are xlabel, ylabel, title."""
    with canvas(folder, name, size=(5.6, 4.2)) as (axes,):
        for place, (label, (x, y)) in enumerate(lines.items()):
            colour, style = PALETTE[place % len(PALETTE)], LINES[place % len(LINES)]
            axes.plot(x, y, color=colour, linestyle=style, label=label)
        axes.set(xscale="log", ylim=(-0.02, 1.02), **labels)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.25)
        axes.legend(loc="best")
    return folder / f"{name}.png"


def steps(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str, folder: Path, **labels: str) -> Path:
    """Step curves ``{label: (x, y)}`` on one pair of axes, each value holding until the next ``x``."""
    with canvas(folder, name, size=(5.6, 4.2)) as (axes,):
        for place, (label, (x, y)) in enumerate(lines.items()):
            style = {"color": PALETTE[place % len(PALETTE)], "linestyle": LINES[place % len(LINES)]}
            axes.step(x, y, where="post", label=label, **style)
        axes.set(ylim=(-0.02, 1.02), **labels)
        axes.grid(alpha=0.25)
        axes.legend(loc="best")
    return folder / f"{name}.png"


def short(name: str, most: int = 18) -> str:
    """A label on one line, no longer than ``most`` characters: its beginning and its end.

    A leading "_" would hide it from legends, so a space goes before it.
    """
    name = " ".join(name.split()) or "''"
    name = f" {name}" if name.startswith("_") else name
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"


def shorts(names: Sequence[str], most: int = 18) -> list[str]:
    """Labels of one figure, each as :func:`short` has it, and longer where two names would look alike."""
    found = [short(name, most) for name in names]
    alike = len({*found}) < len({*names}) and most < max(map(len, names))
    return shorts(names, most + 6) if alike else found


def _dots(rows: int) -> dict[str, Any]:
    return {"s": 14, "alpha": float(np.clip(12 / np.sqrt(rows), 0.05, 0.8)), "color": PALETTE[0], "linewidths": 0}


def _panel_title(title: str, k: int, truth: np.ndarray) -> str:
    return title if truth.shape[1] == 1 else f"{title}, target {k}"
