r"""Whether one column alone tells the target, better than a fair column would: a leak, unless it is known beforehand.

.. math:: s = 2\,\mathrm{AUC} - 1 \ \text{(mean over the classes, by their rows)}, \qquad
          s = R^2 \ \text{(numbers)}

of a look-up table from the column's value to the mean target, learned on one half of the rows and asked about the
other, in turn; numbers and dates are cut into 20 values. A column is suspected where it knows (nearly) everything,
``s >= 0.99``, or where ``s >= 0.85`` and the other columns do not come near: half of them have less than half of it. In
a table whose columns all predict well (sizes of a tumour, of a flower) a strong one is nothing strange. Features that a
network gave for the rows it was trained on are such columns, many at once: those of CMU-MOSI's text have an AUC of .99
on its training rows and of .80 on its test rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime, time
from typing import Any

import numpy as np

from weft.errors import some

KNOWS_ALL, STRONG = 0.99, 0.85
BINS, EACH = 20, 10
"""Values that numbers are cut into; at least so many rows each, on average, in the half that is learned from."""
FEWEST, LOOKED_AT = 20, 5000
"""Rows below which nothing is suspected, and rows that are looked at."""
SHOWN = 5
"""Columns that are named."""
PRIOR = 1.0
"""Rows' worth of the mean of all that a mean of few rows is drawn to."""


def why_given_away(columns: Mapping[str, Sequence[Any]], name: str, target: np.ndarray) -> str | None:
    """What to say of the columns under suspicion, the strongest first; None where there is none.

    Args:
        columns: ``{column: cells}``, each a float, str, datetime, time or None.
        name: of the target.
        target: ``(N,)``; floats are numbers, all else is classes.
    """
    rows = rows_looked_at(len(target))
    if len(rows) < FEWEST or target.ndim != 1:
        return None
    classes = target.dtype.kind != "f"
    answers = _one_hot(target[rows]) if classes else target[rows, None]
    found = {column: _strength([cells[row] for row in rows], answers, classes) for column, cells in columns.items()}
    suspects = [c for c, s in found.items() if s >= KNOWS_ALL or (s >= STRONG and _stands_out(c, found))]
    if not suspects:
        return None
    suspects.sort(key=lambda column: -found[column])
    best = found[suspects[0]]
    figure = f"AUC {(1 + best) / 2:.3f}" if classes else f"{best:.1%} of its variance"
    which = (
        f"column {suspects[0]!r} alone tells"
        if len(suspects) == 1
        else f"columns {some(suspects, SHOWN)} each alone tell"
    )
    drop = " ".join(f"--drop {column!r}" for column in suspects[:SHOWN]) + (" ..." if len(suspects) > SHOWN else "")
    return (
        f"{which} {name!r} ({figure}, on rows it was not learned from): if that is known only after the target, or was "
        f"made with its help, leave {'it' if len(suspects) == 1 else 'them'} out "
        f"(weft init {drop}; in Python: drop={suspects[:SHOWN]!r})"
    )


def rows_looked_at(count: int) -> np.ndarray:
    """Rows of a table in random order, not all of many."""
    return np.random.default_rng(0).permutation(count)[:LOOKED_AT]


def _stands_out(column: str, found: Mapping[str, float]) -> bool:
    others = [strength for name, strength in found.items() if name != column]
    return not others or float(np.median(others)) < found[column] / 2


def _one_hot(target: np.ndarray) -> np.ndarray:
    names, code = np.unique(target.astype(str), return_inverse=True)
    return np.eye(len(names))[code]


def _strength(cells: Sequence[Any], answers: np.ndarray, classes: bool) -> float:
    """``s`` of a column; ``answers`` are ``(N, K)``, the rows in random order."""
    cut = _cut(cells)
    codes = {value: code for code, value in enumerate(dict.fromkeys(cut))}
    code = np.array([codes[value] for value in cut])
    told, half = np.empty_like(answers), np.arange(len(code)) % 2 == 0
    for learn in (half, ~half):
        mean = answers[learn].mean(axis=0)
        sums, counts = np.zeros((len(codes), answers.shape[1])), np.bincount(code[learn], minlength=len(codes))
        np.add.at(sums, code[learn], answers[learn])
        told[~learn] = ((sums + PRIOR * mean) / (counts + PRIOR)[:, None])[code[~learn]]
    if classes:
        count = answers.sum(axis=0)
        able = (count > 0) & (count < len(answers))
        areas = [_area(told[:, k], answers[:, k] > 0) for k in np.flatnonzero(able)]
        return 2 * float(np.average(areas, weights=count[able])) - 1 if areas else 0.0
    spread = float(((answers - answers.mean()) ** 2).sum())
    return 1 - float(((told - answers) ** 2).sum()) / spread if spread else 0.0


def _area(score: np.ndarray, true: np.ndarray) -> float:
    """Under the ROC curve; ties count half."""
    _, code, counts = np.unique(score, return_inverse=True, return_counts=True)
    positive = np.bincount(code[true], minlength=len(counts))
    negative = counts - positive
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def _as_number(cell: Any) -> Any:
    if isinstance(cell, time):
        return 60 * (60 * cell.hour + cell.minute) + cell.second
    return cell.timestamp() if isinstance(cell, datetime) else cell


def _cut(cells: Sequence[Any]) -> list[Hashable]:
    """Cells as few values: numbers and dates of many values by their quantile."""
    numbers = [_as_number(cell) for cell in cells]
    present = [n for n in numbers if isinstance(n, float | int)]
    bins = max(2, min(BINS, len(present) // (2 * EACH)))
    if len(set(present)) <= bins or any(isinstance(n, str) for n in numbers):
        return list(numbers)
    edges = np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1])
    return [None if n is None else int(np.searchsorted(edges, n, side="right")) for n in numbers]
