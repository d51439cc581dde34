"""Look at a table and propose what its columns are, with the reasons; write it as a YAML that a person corrects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from weft.data.cells import CELL_TYPES, CellType, known_type, why_category
from weft.data.clues import BY_ALPHABET, LOOKED_AT, NONE, TEXT, Clues, reads
from weft.data.columns import Columns
from weft.data.commented_yaml import ASKED
from weft.data.entities import words_of
from weft.data.frame import order_of
from weft.data.kinds import kind_named
from weft.data.kinds.text import LONG
from weft.data.splits import Method
from weft.data.table_config import ModalityConfig, SplitsConfig, TableConfig
from weft.data.target_cells import dates_as_classes
from weft.data.targets import RETRIEVAL
from weft.data.warnings import table_warnings, unread, why_ordinal
from weft.errors import UserError, did_you_mean, some

ALIKE, MOST_ALIKE = 2, 4
"""Texts whose usual lengths differ by this factor at most are compared with one another, so many of them at most."""
DROPPED = "asked for (--drop)"
"""The reason of a column that was left out by no guess."""


@dataclass
class Proposal:
    """What :func:`propose_table` thinks of a table.

    Attributes:
        config: the configuration. Its table is the absolute path.
        reasons: ``{role or column: why}``, in the order to print them.
        left_out: ``{column: why}`` of columns that are no modality and have no role.
        warnings: what can spoil the work, and the way out.
        unread: rows that are left out and cells taken as missing; whoever reads the table says so again.
    """

    config: TableConfig
    reasons: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def about(self, role: str) -> str:
        """Which column has a role, and why."""
        why, found = self.reasons.get(role), getattr(self.config, role) or "none"
        return f"{role}: {found if isinstance(found, str) else ', '.join(found)}{f' ({why})' if why else ''}"

    def doubts(self) -> list[str]:
        """What is to be said even to somebody who sees no YAML: columns that are no features by a guess or are not read
        as they look, and the warnings.
        """
        guessed = [
            role
            for role in ("id", "group", "split", "time")
            if getattr(self.config, role) and self.reasons[role] != ASKED
        ]
        return [*map(self.about, guessed), *self.columns(), *self.warnings]

    def columns(self) -> list[str]:
        """The columns that are left out by a guess, and those that are not read as they look."""
        left = [
            f"left out: {column or '(a column without a name)'} ({why})"
            for column, why in self.left_out.items()
            if why != DROPPED
        ]
        return left + [f"{what}: {why}" for what, why in self.reasons.items() if what.startswith("column ")]


def guess_table(path: str | Path, **chosen: Any) -> TableConfig:
    """The configuration that :func:`propose_table` proposes."""
    return propose_table(path, **chosen).config


def propose_table(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    id: str | None = None,
    group: str | None = None,
    time: str | None = None,
    drop: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
) -> Proposal:
    """Propose a configuration from the names and cells of a table's columns.

    The split column is the one whose words are splits. A target goes by its name, then by being 0 and 1, then by
    standing last. Columns that say nothing of a new row are left out: row numbers, unique ids, hashes, one value only.
    A group is a column named like one, a column of ids that stand for entities and not for a category
    (:mod:`weft.data.entities`), or a photo or long text that comes again in many rows. Rows that happened in time, by a
    column of dates, are split by time. The rest become modalities, by the kind that is surest of them; numbers and
    categories make one together.

    Args:
        source: a CSV, Parquet or JSONL file, or a table in memory.
        target, id, group, time: columns for these roles; ``"none"``: no column. None: guess. Several targets, as a
            list or with commas between them, stand in their order: ``["time", "event"]`` for survival.
        drop: columns to leave out.
        types: ``{column: type}`` of features that are not to be guessed: how cells are read, see
            :mod:`weft.data.cells`, or ``"text"``.
        task: what is asked of the target. None: guess.
        labels: names of the answers, in their order (ordinal: lowest first). None: the order of an ordered column of
            pandas; else sorted, where the task needs some.

    Raises:
        UserError: the file cannot be read, there is no such column, no such task, or no column can be a modality; or a
            task of two columns has another number of targets.
    """
    columns = Columns(source)
    totals = columns.leave_out_totals()
    types = dict(types or {})
    table, path = Clues(columns, types), columns.path
    targets = _targets(target, table.cells)
    for column in [name for name in (*targets, id, group, time) if name not in (None, NONE)] + [*drop, *types]:
        if column not in table.cells:
            remedy = did_you_mean(str(column), table.cells, "columns")
            raise UserError(f"{path}: no column {column!r}", f"columns {some(table.cells, 20)}", remedy)
    _refuse_types(types, [*targets, id, *drop])
    _refuse_number_of(targets, task)
    proposal = Proposal.__new__(Proposal)
    proposal.reasons, proposal.left_out, proposal.warnings = {}, dict.fromkeys(drop, DROPPED), []
    roles: dict[str, str | None] = {"id": None, "group": None, "target": None, "split": None}
    for role, name in (("target", next(iter(targets), None)), ("id", id), ("group", group)):
        if name is not None:
            roles[role] = None if name == NONE else name
            proposal.reasons[role] = ASKED
    free = [name for name in table.cells if name not in {*drop, *roles.values(), *targets}]

    def take(role: str, found: tuple[str, str] | None) -> None:
        if role not in proposal.reasons and found is not None:
            roles[role], proposal.reasons[role] = found
            free.remove(found[0])

    split = next((name for name in free if table.is_split(name)), None)
    take("split", None if split is None else (split, "its words are those of splits"))
    for name in list(free):
        why = table.says_nothing(name)
        if why is not None:
            proposal.left_out[name] = why
            free.remove(name)
    take("id", table.find_id([name for name in free if name not in types]))
    take("target", table.find_target(free))
    for name in list(free):
        why = table.names_rows(name)
        if why is not None and name not in types:
            proposal.left_out[name] = why
            free.remove(name)
    found = table.find_group([name for name in free if name not in types])
    take_group = found is not None and "group" not in proposal.reasons
    if take_group and found is not None:
        roles["group"], proposal.reasons["group"] = found
        if not table.is_content(found[0]):
            free.remove(found[0])
    modalities = _modalities(table, free, proposal) | _alike(table, free, proposal, roles["target"] is not None)
    if not modalities:
        left = [f"; {name!r} is left out: {said}" for name, said in proposal.left_out.items() if said != DROPPED]
        found_columns = f"columns {some(table.cells, 20)}{''.join(left[:3])}"
        raise UserError(
            f"{path}: no column can be a modality", found_columns, "add a text, file, list or number column"
        )
    if task is not None:
        proposal.reasons["task"] = ASKED
    elif roles["target"] is None:
        task, proposal.reasons["task"] = RETRIEVAL, "no target"
    else:
        task, proposal.reasons["task"] = table.guess_task(roles["target"])
    if labels is not None and reads(task) not in ("classes", "sets"):
        remedy = "leave labels out, or ask for task: ordinal"
        raise UserError("labels are of a target of classes", f"task {task}, labels {some(labels)}", remedy)
    order = None if roles["target"] is None else order_of(source, roles["target"])
    labels = list(labels) if labels is not None else order if task == "ordinal" else None
    if labels is None and roles["target"] is not None:
        labels, reason = table.labels(roles["target"], task)
        proposal.reasons |= {"labels": reason} if reason else {}
    used = [name for modality in modalities.values() for name in modality.names]
    for column, fields in columns.unpacked.items():
        proposal.reasons[f"column {column!r}"] = f"its fields are columns of their own: {some(fields)}"
    for column in columns.renamed.keys() & set(used):
        proposal.reasons[f"column {column!r}"] = f"another column is called {columns.renamed[column]!r}, too"
    for column in table.categories.keys() & set(used):
        proposal.reasons[f"column {column!r}"] = table.categories[column]
    moments = table.find_time(time, used, roles, task)
    if moments is not None:
        proposal.reasons["time"] = moments[1]
    proposal.config = TableConfig(
        table=str(Path(path).absolute()),
        **{**roles, "target": targets if len(targets) > 1 else roles["target"]},
        time=None if moments is None else moments[0],
        task=task,
        labels=labels,
        modalities=modalities,
        splits=SplitsConfig(method=_guess_split(roles, task, moments is not None and moments[0] is not None)),
    )
    if labels is not None and "labels" in proposal.reasons:
        proposal.warnings.append(f"the labels of {roles['target']!r} are in order {BY_ALPHABET}: {some(labels, 20)}")
    answers = table.answers(roles["target"], task)
    proposal.warnings += table_warnings(table.cells, proposal.config, answers)
    proposal.unread = totals + unread(table.cells, proposal.config)
    if roles["target"] is not None and reads(task) == "classes":
        proposal.unread += dates_as_classes(roles["target"], table.told(roles["target"])[1])
    if answers is not None and proposal.reasons["task"] != ASKED:
        proposal.warnings += why_ordinal(proposal.config.target_names[0], answers, order)
    return proposal


def _targets(target: str | Sequence[str] | None, columns: Collection[str]) -> list[str]:
    """The target columns that are asked for; commas part them where no column is called so."""
    asked = [] if target is None else [target] if isinstance(target, str) else list(target)
    return [name for text in asked for name in ([text] if text in columns else text.split(","))]


def _refuse_number_of(targets: Sequence[str], task: str | None) -> None:
    """Refuse a task of two columns side by side that has another number of them.

    Raises:
        UserError: saying which two.
    """
    if task is not None and reads(task) == "columns" and len(targets) != 2:
        found = some(targets) if targets else "no target"
        remedy = '--target TIME,EVENT (in Python: target=["TIME", "EVENT"])'
        raise UserError(f"the target of {task} is two columns, time and event", found, remedy)


def _modalities(table: Clues, free: Sequence[str], proposal: Proposal) -> dict[str, ModalityConfig]:
    """Every free column by the kind that is surest; ``tabular`` columns together."""
    modalities: dict[str, ModalityConfig] = {}
    plain: list[str] = []
    for name in free:
        kind = table.kind(name)
        asked = name in table.types
        why = why_category(table.present(name)[:LOOKED_AT]) if kind == "text" and not asked else None
        if why is not None:
            proposal.reasons[f"column {name!r}"] = f"text, not numbers: {why}"
        if kind == "text" and table.lists_words(name):
            proposal.reasons[f"column {name!r}"] = "lists of words, each read as a text of them"
        if kind == "text" and table.is_hash(name) and not asked:
            proposal.left_out[name] = "hashes say nothing of a new row"
        elif kind == "tabular":
            plain.append(name)
        else:
            types = _types(table, [name]) if kind_named(kind).typed else {}
            modalities[name] = ModalityConfig(kind=kind, column=name, types=types)
    if plain:
        name = next(n for n in ("tabular", "columns", *(f"columns {i}" for i in range(99))) if n not in modalities)
        modalities[name] = ModalityConfig(kind="tabular", columns=plain, types=_types(table, plain))
        for column in plain:
            why = None if column in table.types else why_category(table.cells[column])
            if why is not None:
                proposal.reasons[f"column {column!r}"] = f"categories, not numbers: {why}"
    return modalities


def _alike(table: Clues, free: Sequence[str], proposal: Proposal, asked: bool) -> dict[str, ModalityConfig]:
    """Texts of like length, such as two sentences, beside one another, where a target is asked for.

    Without one they are the two sides of a retrieval, which this would give away.
    """
    texts = {n: _words(table.present(n)) for n in free if table.kind(n) == "text" and n not in proposal.left_out}
    alike = [n for n, count in texts.items() if count >= LONG and count * ALIKE >= max(texts.values())]
    if not asked or not 2 <= len(alike) <= MOST_ALIKE:
        return {}
    name = next(n for n in ("likeness", *(f"likeness {i}" for i in range(99))) if n not in free)
    proposal.reasons[f"modality {name!r}"] = f"{some(alike)} are texts of like length: how alike they are may count"
    return {name: ModalityConfig(kind="texts", columns=alike)}


def _words(cells: Sequence[Any]) -> float:
    """How many words a text usually has."""
    return float(np.median([len(str(cell).split()) for cell in islice(cells, LOOKED_AT)])) if cells else 0.0


def _types(table: Clues, columns: Sequence[str]) -> dict[str, CellType]:
    """How the cells of each column are read, by all rows of the table; ids that are numbers are categories."""
    types: dict[str, CellType] = {}
    for name in columns:
        types[name] = table.type_of(name)
        words = words_of(name)
        if (
            name not in table.types
            and types[name].startswith("number")
            and words
            and words[-1] in ("id", "uid", "code", "zip", "postcode")
        ):
            types[name] = "category"
    return types


def _refuse_types(types: Mapping[str, str], taken: Sequence[str | None]) -> None:
    """Refuse types that there are not, and those of columns that are no features.

    Raises:
        UserError: naming the column.
    """
    for column, type_ in types.items():
        if column in taken:
            found = f"{column!r} is the target, the id or left out"
            raise UserError("'types' are of columns that are features", found, f"take {column!r} out of 'types'")
        if type_ == TEXT:
            continue
        try:
            known_type(str(type_))
        except ValueError:
            remedy = did_you_mean(str(type_), [*CELL_TYPES, TEXT], "types")
            raise UserError(f"no such type of the cells of column {column!r}", repr(type_), remedy) from None


def _guess_split(roles: Mapping[str, str | None], task: str, in_time: bool) -> Method:
    if roles["split"] is not None:
        return "given"
    if in_time:
        return "temporal"
    if roles["group"] is not None:
        return "grouped"
    return "stratified" if reads(task) == "classes" else "random"
