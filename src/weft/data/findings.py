"""What a person should know of a data set before time is spent on it: classes, columns, and what can spoil a verdict.

Everything is read from the raw values; nothing is encoded. Which columns give the target away says
:mod:`weft.data.giveaway`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any

import numpy as np

from weft.data.cells import says_blank
from weft.data.dataset import Dataset
from weft.data.entities import is_entity, why_few
from weft.data.giveaway import why_given_away
from weft.data.kinds import kind_named
from weft.data.splits import Split, make_splits
from weft.data.targets import reads_of, tasks
from weft.data.warnings import spelt_alike, why_no_target
from weft.errors import UserError, some

FEW_ROWS = 5
SHOWN = 12
_TYPES = {float: "number", str: "category", datetime: "date", time: "time of day"}


@dataclass
class Findings:
    """Facts ``{what: found}`` and warnings, in the order to print them."""

    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def look_over(data: Dataset, split: Split | None) -> Findings:
    """Facts and warnings about a data set; ``split`` None: no split can be made."""
    found = Findings(warnings=list(data.notes))
    for name, target in data.targets.items():
        _target(data, name, target, found)
    if data.group is not None:
        counts = Counter(data.group.tolist())
        found.facts["groups"] = f"{len(counts)}, the largest of {max(counts.values())} rows"
        name = str((data.table or {}).get("group") or "group")
        found.warnings += [why] if (why := why_few(name, len(counts), len(data))) is not None else []
    for name, modality in data.modalities.items():
        keys = [None if value is None else content_key(value) for value in modality.values]
        _repeats(name, keys, data, split, found)
        if modality.fields:
            _columns(data, name, found)
    for name, target in data.targets.items():
        given_away = why_given_away({n: c for n, c in data.cells().items() if n != name}, name, target)
        found.warnings += [] if given_away is None else [given_away]
    whole = list(zip(*([content_key(v) for v in m.values] for m in data.modalities.values()), strict=True))
    twice = len(whole) - len(set(whole))
    if twice:
        found.warnings.append(f"{twice} rows equal an earlier row in every modality")
    return found


def _target(data: Dataset, name: str, target: np.ndarray, found: Findings) -> None:
    what = f"target {name}"
    if target.ndim == 2:
        labels = data.labels.get(name, tuple(map(str, range(target.shape[1]))))
        if data.task in tasks.names() and reads_of(data.task) == "columns":
            found.facts |= {f"target {label}": _numbers(column) for label, column in zip(labels, target.T, strict=True)}
            return
        counts = dict(zip(labels, target.sum(axis=0).tolist(), strict=True))
        found.facts[what] = _counted(counts)
        return
    if target.dtype.kind == "f":
        found.facts[what] = _numbers(target)
        found.warnings += [why] if (why := why_no_target(name, target)) is not None else []
        return
    classes = Counter(target.tolist())
    counts = dict(sorted(classes.items(), key=lambda pair: -pair[1]))
    found.facts[what] = f"{len(counts)} classes: {_counted(counts)}"
    if data.task not in tasks.names() or reads_of(data.task) != "classes":
        return
    if (why := why_no_target(name, target)) is not None:
        found.warnings.append(why)
        return
    try:
        tasks.get(data.task).fit(target, labels=data.labels.get(name))
    except UserError as error:
        found.warnings.append(f"{error.what}: {error.found} ({error.remedy})")
    found.warnings += spelt_alike(name, target)
    for label in counts:
        if says_blank(str(label)):
            found.warnings.append(f"{label!r} is a class of {name!r} in {counts[label]} rows: is it a missing value?")
    rare = {label: count for label, count in counts.items() if count < FEW_ROWS}
    if rare:
        kept = [label for label in sorted(classes, key=str) if label not in rare]
        found.warnings.append(
            f"classes of {name!r} with few rows: {_counted(rare)}. They can hardly be learned or tested, and one with "
            f"a single row not at all. To leave them out, list the others in the YAML: classes: {{{name!r}: {kept}}}"
        )


def _numbers(target: np.ndarray) -> str:
    if np.isin(target, (0, 1)).all():
        return f"1 in {int(target.sum())} of {len(target)} rows, else 0"
    low, middle, high = (float(np.quantile(target, q)) for q in (0, 0.5, 1))
    return f"numbers from {low:g} to {high:g}, median {middle:g}"


def _repeats(name: str, keys: Sequence[Hashable], data: Dataset, split: Split | None, found: Findings) -> None:
    """Contents that several rows share, and that stand on both sides of the split."""
    there = [key for key in keys if key is not None]
    absent = f", absent in {len(keys) - len(there)} rows" if len(there) < len(keys) else ""
    values = len(set(there))
    found.facts[f"modality {name}"] = f"{data.modalities[name].kind}, present in {len(there)} rows{absent}"
    if values < len(there):
        found.facts[f"modality {name}"] += f", {values} different"
    if split is None or data.modalities[name].fields or not there:  # cells of a table are alike by chance
        return
    if not kind_named(data.modalities[name].kind).files and not is_entity(Counter(there)):  # so are a few phrases
        return
    known = {keys[row] for row in split.train} - {None}
    leaks = [data.ids[row] for row in split.test if keys[row] in known]
    if leaks:
        found.warnings.append(
            f"{len(leaks)} of {len(split.test)} test rows have a {name!r} that training rows have too "
            f"(rows {some(leaks, 3)}): if it tells the answer, name a group"
        )


def _columns(data: Dataset, name: str, found: Findings) -> None:
    """Every column of a tabular modality: type, values, gaps; and constant ones."""
    for column, cells in data.modalities[name].cells().items():
        present = [cell for cell in cells if cell is not None]
        type_ = _TYPES.get(type(present[0]), "number") if present else "empty"
        gaps = len(cells) - len(present)
        missing = f", missing in {gaps} rows" if gaps else ""
        found.facts[f"column {column}"] = f"{type_}, {len(set(present))} different{missing}"
        if len(set(present)) < 2 and not gaps:
            found.warnings.append(f"column {column!r} is the same in every row")


def content_key(value: Any) -> Hashable:
    """Equal for equal values; files by their path."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, tuple | list):
        return tuple(content_key(part) for part in value)
    if hasattr(value, "tobytes") and hasattr(value, "size"):
        return value.size, value.tobytes()
    return value if isinstance(value, Hashable) else repr(value)


def _counted(counts: dict[Any, int]) -> str:
    shown = ", ".join(f"{label!r} {count}" for label, count in list(counts.items())[:SHOWN])
    return shown + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def read_through(dataset: Dataset) -> dict[str, Any]:
    """Every value read, and what is to be known of the rows before time is spent on them, as ``weft check`` says it.

    Raises:
        UserError: a value cannot be read; its row is named.
    """
    for name in dataset.modalities:
        dataset.verify(name)
    found: dict[str, Any] = {"rows": len(dataset), "task": dataset.task}
    try:
        split, why = make_splits(dataset), None
    except UserError as error:
        split, why = None, f"{error.what}: {error.found} ({error.remedy})"
    findings = look_over(dataset, split)
    found |= findings.facts
    if split is not None:
        found |= {f"split {part}": len(rows) for part, rows in split._asdict().items()}
    return {**found, "warnings": findings.warnings + ([f"no split can be made: {why}"] if why else [])}
