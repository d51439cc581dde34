r"""What a prediction is worth where modalities are missing; nothing is trained again.

A *pattern* is named by what it lacks, "text" or "text+audio". Its score is the metric over the rows that have some of
that and keep something else, with it hidden; beside it stands the score of the same rows with nothing hidden. A row of
which a model then sees nothing is answered by the frequencies of the training rows, or their mean.

Rows that come with a pattern of their own are scored by it, :func:`scores_as_they_come`. They may be other rows in more
than what they lack, so the two tables need not agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.models.explain import Rearranged
from weft.models.predictor import Predictor, answers
from weft.tasks.base import Task

if TYPE_CHECKING:
    from weft.store import Features

MOST = 16
"""Patterns that are taken from rows, the most frequent ones."""
Pattern = tuple[str, ...]
Scores = dict[str, dict[str, float] | None]
"""``{pattern: {"rows", "full", "hidden"}}``; None where the model refuses, or no row keeps another modality."""


def patterns_of(names: Sequence[str], presence: np.ndarray | None = None) -> list[Pattern]:
    """What to hide: each modality, then what the rows of ``presence`` ``(n, M)`` lack, the most frequent first."""
    if len(names) < 2:
        return []
    found: dict[Pattern, None] = {(name,): None for name in names}
    if presence is not None and len(presence):
        there, counts = np.unique(presence, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        rows = [row for row in there[order].tolist() if any(row) and not all(row)]
        found |= {lacking(names, row): None for row in rows[:MOST]}
    return list(found)


def lacking(names: Sequence[str], row: Iterable[bool]) -> Pattern:
    """The modalities that a row does not have."""
    return tuple(name for name, there in zip(names, row, strict=True) if not there)


def rows_for(names: Sequence[str], presence: np.ndarray, hidden: Pattern) -> np.ndarray:
    """``(n,)`` bool of the rows that have some of ``hidden`` and keep something else."""
    gone = np.array([name in hidden for name in names])
    return np.asarray(presence[:, gone].any(axis=1) & presence[:, ~gone].any(axis=1))


def score(task: Task, target: np.ndarray, full: np.ndarray, hidden: np.ndarray) -> dict[str, float] | None:
    """Of outputs ``(n, K)`` of the same rows, with nothing hidden and with something."""
    if not len(target):
        return None
    both = [task.primary_metric(outputs, target) for outputs in (full, hidden)]
    return {"rows": len(target), "full": both[0], "hidden": both[1]}


def scores_hidden(model: Predictor, features: Features, rows: np.ndarray) -> Scores:
    """The score of every pattern, by hiding it: each modality, and what rows among these lack."""
    features, target = features.subset(model.names), model.target_of(features)
    presence, found = np.asarray(features.presence)[rows], {}
    for hidden in patterns_of(model.names, presence):
        chosen = rows[rows_for(model.names, presence, hidden)]
        outputs = [] if model.needs_all or not len(chosen) else [model.outputs(features, chosen)]
        outputs += [model.outputs(Rearranged.without(features, hidden), chosen) for _ in outputs]
        found["+".join(hidden)] = score(model.task, target[chosen], *outputs) if outputs else None
    return found


def scores_as_they_come(
    model: Predictor, features: Features, rows: np.ndarray, level: float = 0.9
) -> dict[str, dict[str, Any]]:
    """``{pattern: {"rows", metrics}}`` of rows as they are, what lacks nothing under ``""``.

    Args:
        model: with sets or intervals, ``"covered"`` is the share of rows that they hold.
        features: with the target.
        rows: which.
        level: of the sets.
    """
    features, target = features.subset(model.names), model.target_of(features)
    presence, found = np.asarray(features.presence)[rows], {}
    for row in np.unique(presence, axis=0).tolist():
        chosen = rows[(presence == row).all(axis=1)]
        outputs = answers(model, features, chosen)
        entry = {"rows": len(chosen), **model.task.metrics(outputs, target[chosen])}
        if model.conformal is not None:
            there = np.tile(np.array(row, dtype=bool), (len(chosen), 1))
            inside = model.conformal.covers(model.task, outputs, target[chosen], there, level)
            entry["covered"] = float(inside.mean())
        found["+".join(lacking(model.names, row))] = entry
    return dict(sorted(found.items(), key=lambda item: -item[1]["rows"]))


def come_table(found: dict[str, dict[str, Any]], primary: str) -> list[dict[str, str]]:
    """Scores of rows as they come, a line per pattern, for people."""
    sets = any("covered" in entry for entry in found.values())
    return [
        {
            "lacks": pattern or "nothing",
            "rows": f"{entry['rows']:,}",
            primary: f"{entry[primary]:.4f}",
            **({"sets of 90 % hold": f"{entry['covered']:.3f}"} if sets else {}),
        }
        for pattern, entry in found.items()
    ]


def hidden_table(found: dict[str, dict[str, float] | None]) -> list[dict[str, str]]:
    """Scores with modalities hidden, a line per pattern, for people."""
    rows = []
    for pattern, entry in found.items():
        cells = ["", "", ""] if entry is None else [
            f"{entry['rows']:,}", f"{entry['full']:.4f}", f"{entry['hidden']:.4f}"
        ]  # fmt: skip
        rows.append(dict(zip(("without", "rows", "nothing hidden", "hidden"), (pattern, *cells), strict=True)))
    return rows
