"""Look at a table and propose what its columns are, with the reasons; write it as a YAML that a person corrects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from weft.data.cells import CELL_TYPES, CellType, is_blank, is_numeric, known_type, learn_type, read_cell, why_category
from weft.data.columns import Columns, as_list, words_in
from weft.data.commented_yaml import ASKED
from weft.data.entities import are_few, is_entity, names_people, why_in_time, why_not_cut, words_of
from weft.data.entities import why_category as why_no_group
from weft.data.frame import order_of
from weft.data.kinds import kind_named, kinds
from weft.data.kinds.text import LONG
from weft.data.splits import Method
from weft.data.table import SPLIT_WORDS
from weft.data.table_config import ModalityConfig, SplitsConfig, TableConfig
from weft.data.target_cells import FEW_CLASSES, classes_of, label_set, lacks_target, refuse_doubtful
from weft.data.targets import RETRIEVAL, reads_of
from weft.data.warnings import table_warnings, unread, why_ordinal
from weft.errors import UserError, did_you_mean, short, some

LOOKED_AT = 1000
"""Cells of a column that a kind is guessed from."""
ALIKE, MOST_ALIKE = 2, 4
"""Texts whose usual lengths differ by this factor at most are compared with one another, so many of them at most."""
KNOWN = 0.9
"""Part of the rows in which a column that is guessed to be the target is there."""
TEXT = "text"
"""The type of a column that is a modality of words."""
NONE = "none"
"""On the command line: no column in this role."""
BY_ALPHABET = "by the alphabet: put the lowest first"
"""What is said of the order of words that nobody gave."""
DROPPED = "asked for (--drop)"
"""The reason of a column that was left out by no guess."""

GUESSED = {"classification": "classes", "regression": "numbers", "multilabel": "sets", RETRIEVAL: None}
_IDS = ("id", "uid", "uuid", "guid", "key", "hash", "code", "index", "url")
_TARGETS = ("target", "targets", "label", "labels", "class", "y", "answer", "tags", "sentiment", "outcome", "score")
_TARGET_WORDS = (
    *("target", "label", "outcome", "recommended", "recommend", "survived", "churn", "churned", "default", "fraud"),
    *("approved", "converted", "clicked", "diagnosis", "sentiment", "adopted", "sold", "price", "rating", "result"),
)
_OPAQUE = re.compile(r"[0-9a-fA-F]{8,}(-[0-9a-fA-F]{4,})*|(?=\S*\d)(?=\S*[A-Za-z])[\w.:-]{2,}|\d+")


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
        why = self.reasons.get(role)
        return f"{role}: {getattr(self.config, role) or 'none'}{f' ({why})' if why else ''}"

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
    target: str | None = None,
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
        target, id, group, time: columns for these roles; ``"none"``: no column. None: guess.
        drop: columns to leave out.
        types: ``{column: type}`` of features that are not to be guessed: how cells are read, see
            :mod:`weft.data.cells`, or ``"text"``.
        task: what is asked of the target. None: guess.
        labels: names of the answers, in their order (ordinal: lowest first). None: the order of an ordered column of
            pandas; else sorted, where the task needs some.

    Raises:
        UserError: the file cannot be read, there is no such column, no such task, or no column can be a modality.
    """
    columns = Columns(source)
    totals = columns.leave_out_totals()
    types = dict(types or {})
    table, path = _Table(columns, types), columns.path
    for column in [name for name in (target, id, group, time) if name not in (None, NONE)] + [*drop, *types]:
        if column not in table.cells:
            remedy = did_you_mean(str(column), table.cells, "columns")
            raise UserError(f"{path}: no column {column!r}", f"columns {some(table.cells, 20)}", remedy)
    _refuse_types(types, [target, id, *drop])
    proposal = Proposal.__new__(Proposal)
    proposal.reasons, proposal.left_out, proposal.warnings = {}, dict.fromkeys(drop, DROPPED), []
    roles: dict[str, str | None] = {"id": None, "group": None, "target": None, "split": None}
    for role, name in (("target", target), ("id", id), ("group", group)):
        if name is not None:
            roles[role] = None if name == NONE else name
            proposal.reasons[role] = ASKED
    free = [name for name in table.cells if name not in drop and name not in roles.values()]

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
        found_columns = f"columns {some(table.cells, 20)}"
        raise UserError(
            f"{path}: no column can be a modality", found_columns, "add a text, file, list or number column"
        )
    if task is not None:
        proposal.reasons["task"] = ASKED
    elif roles["target"] is None:
        task, proposal.reasons["task"] = RETRIEVAL, "no target"
    else:
        task, proposal.reasons["task"] = table.guess_task(roles["target"])
    if labels is not None and _reads(task) not in ("classes", "sets"):
        remedy = "leave labels out, or ask for task: ordinal"
        raise UserError("labels are of a target of classes", f"task {task}, labels {some(labels)}", remedy)
    order = None if roles["target"] is None else order_of(source, roles["target"])
    labels = list(labels) if labels is not None else order if task == "ordinal" else None
    if labels is None and roles["target"] is not None:
        labels, reason = table.labels(roles["target"], task)
        proposal.reasons |= {"labels": reason} if reason else {}
    used = [name for modality in modalities.values() for name in modality.names]
    for column in columns.renamed.keys() & set(used):
        proposal.reasons[f"column {column!r}"] = f"another column is called {columns.renamed[column]!r}, too"
    for column in table.categories.keys() & set(used):
        proposal.reasons[f"column {column!r}"] = table.categories[column]
    moments = table.find_time(time, used, roles, task)
    if moments is not None:
        proposal.reasons["time"] = moments[1]
    proposal.config = TableConfig(
        table=str(Path(path).absolute()),
        **roles,
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
    if answers is not None and proposal.reasons["task"] != ASKED:
        proposal.warnings += why_ordinal(proposal.config.target_names[0], answers, order)
    return proposal


class _Table:
    """The cells of all columns, and what can be seen in them."""

    def __init__(self, columns: Columns, types: Mapping[str, str]) -> None:
        self.path, self.folder, self.rows, self.types = columns.path, columns.path.parent, columns.rows, types
        self.cells = {name: columns.cells(name, "guess") for name in columns.names}
        self._kinds: dict[str, str] = {}
        self._present: dict[str, list[Any]] = {}
        self.categories: dict[str, str] = {}
        """Columns of ids that are no group, and why; see :meth:`find_group`."""

    def present(self, name: str) -> list[Any]:
        if name not in self._present:
            self._present[name] = [cell for cell in self.cells[name] if not is_blank(cell)]
        return self._present[name]

    def kind(self, name: str) -> str:
        """The kind of the type that is asked for; else the surest one, which are asked in the order of their names."""
        if name in self.types:
            kind = self.types[name].partition(",")[0]
            return kind if kind in (TEXT, "date") else "tabular"
        if name not in self._kinds:
            cells = list(islice(self.present(name), LOOKED_AT))
            sure = {kind: kind_named(kind).looks(cells, self.folder) for kind in kinds.names()}
            self._kinds[name] = max(sure, key=sure.__getitem__)
        return self._kinds[name]

    def is_split(self, name: str) -> bool:
        """Whether a column says train, test and perhaps dev, and nothing else."""
        words = {str(cell).strip().lower() for cell in self.cells[name]}
        return words <= set(SPLIT_WORDS) and {"train", "test"} <= {SPLIT_WORDS[word] for word in words}

    def distinct(self, name: str) -> int:
        return len({str(cell).strip() for cell in self.present(name)})

    def says_nothing(self, name: str) -> str | None:
        """Why a column cannot be of use at all."""
        there = self.present(name)
        if not there:
            return "empty"
        if name.strip().lower() in ("", "unnamed: 0", "__index_level_0__", "index") and is_numeric(there):
            numbers = [float(cell) for cell in there if str(cell).strip().lstrip("-").replace(".", "", 1).isdigit()]
            if len(numbers) == self.rows and all(a < b for a, b in pairwise(numbers)):
                return "row numbers, as pandas writes its index"
        if self.rows > 1 and len(there) == self.rows and self.distinct(name) == 1:
            return f"the same in every row: {short(there[0])!r}"
        return None

    def find_id(self, free: Sequence[str]) -> tuple[str, str] | None:
        """A column named like an id that is there and different in every row."""
        named = [
            n for n in free if words_of(n) and (words_of(n)[-1] in ("id", "uid", "uuid", "key") or n.lower() in _IDS)
        ]
        for name in sorted(named, key=lambda n: n.lower() not in ("id", "uid", "key", "sample_id", "row_id")):
            if self.unique(name) and self.kind(name) in ("tabular", "text"):
                return name, "named like an id, and different in every row"
        return None

    def unique(self, name: str) -> bool:
        return None not in self.cells[name] and self.distinct(name) == self.rows

    def opaque(self, name: str) -> bool:
        """Whether the cells are codes: hashes, letters with digits, whole numbers."""
        there = [str(cell).strip() for cell in islice(self.present(name), LOOKED_AT)]
        return sum(_OPAQUE.fullmatch(cell) is not None for cell in there) >= 0.9 * len(there)

    def lists_words(self, name: str) -> bool:
        return any(map(words_in, islice(self.present(name), LOOKED_AT)))

    def is_hash(self, name: str) -> bool:
        there = [str(cell).strip() for cell in islice(self.present(name), LOOKED_AT)]
        hashes = [re.fullmatch(r"[0-9a-fA-F]{8,}(-[0-9a-fA-F]+)*", c) and re.search("[a-fA-F]", c) for c in there]
        return sum(map(bool, hashes)) >= 0.9 * len(there)

    def names_rows(self, name: str) -> str | None:
        """Why a column is an id and no feature: codes, different in (nearly) every row."""
        if self.rows < 3 or self.kind(name) not in ("tabular", "text") or not self.opaque(name):
            return None
        there, distinct = len(self.present(name)), self.distinct(name)
        words = words_of(name)
        named = bool(words) and any(word in _IDS for word in (words[0], words[-1]))
        letters = any(re.search("[A-Za-z]", str(cell)) for cell in islice(self.present(name), 50))
        if distinct == there and (named or letters):
            return "an id: another code in every row"
        return None

    def is_content(self, name: str) -> bool:
        """Whether a column says something of a row beside who it belongs to: a photo, a text."""
        if self.kind(name) not in ("tabular", "text"):
            return True
        return not self.opaque(name) and not names_people(name)  # groups of test rows are strangers

    def find_group(self, free: Sequence[str]) -> tuple[str, str] | None:
        """A column whose values come again in rows and stand for one source: by name, then ids, then content."""
        for name in free:
            if names_people(name) and 3 <= self.distinct(name) < self.rows:
                return name, "named like a group"
        for name in free:
            words, there = words_of(name), self.present(name)
            repeats = Counter(str(cell).strip() for cell in there)
            again = sum(count for count in repeats.values() if count > 1)
            if self.rows < 6 or again < 0.2 * self.rows or len(repeats) < 3 or are_few(len(repeats), self.rows):
                continue
            if len(there) < self.rows and not self.is_content(name):
                continue  # rows without a photo stand alone; rows without an id may belong to anybody
            an_id = self.opaque(name) and (
                (bool(words) and words[-1] in ("id", "uid", "uuid", "key", "hash")) or self.is_hash(name)
            )
            long = (
                self.kind(name) == "text"
                and not self.lists_words(name)
                and sum(len(str(c).split()) > 3 for c in there) > 0.5 * len(there)
            )
            if an_id and not is_entity(repeats):
                self.categories[name] = why_no_group(repeats)
            elif an_id or long or kind_named(self.kind(name)).files:
                share = f"{again} of {self.rows} rows share their value with another ({len(repeats)} values)"
                return name, f"{share}, so test rows would be known from training"
        return None

    def find_time(
        self, asked: str | None, free: Sequence[str], roles: Mapping[str, str | None], task: str
    ) -> tuple[str | None, str] | None:
        """The column of dates that rows are to be split by, and why; or None, and why not by the one there is."""
        if asked is not None:
            return None if asked == NONE else asked, ASKED
        if roles["target"] is None or roles["split"] is not None:
            return None
        found = {name: why for name in free if self.kind(name) == "date" and (why := self._why_in_time(name))}
        if not found:
            return None
        name = min(found, key=lambda name: "order" not in found[name])
        classes = [str(cell) for cell in self.cells[roles["target"]]] if task == "classification" else None
        group = None if roles["group"] is None else [str(cell) for cell in self.cells[roles["group"]]]
        hindered = why_not_cut(self._moments(name), classes, group)
        if hindered is not None:
            return None, f"no split by {name!r}: {hindered}"
        return name, f"{found[name]}; the earliest train, the latest test, as new rows come later"

    def type_of(self, name: str) -> str:
        """How the cells of a column are read: as asked for, or by all rows."""
        return self.types.get(name) or learn_type(self.cells[name])

    def _moments(self, name: str) -> list[Any]:
        type_ = self.type_of(name)
        return [_value(cell, type_) for cell in self.cells[name]]

    def _why_in_time(self, name: str) -> str | None:
        return why_in_time(name, self._moments(name))

    def find_target(self, free: Sequence[str]) -> tuple[str, str] | None:
        """The likeliest column to predict, and why."""
        best: tuple[float, str, str] | None = None
        for place, name in enumerate(free):
            there, sure = self.present(name), 0.0
            why: list[str] = []
            lists = any(as_list(cell) is not None for cell in there)
            if not (lists and name.lower() in _TARGETS) and self.kind(name) != "tabular":
                continue
            if (
                (len(free) < 2 and name.lower() not in _TARGETS)
                or self.distinct(name) < 2
                or (self.unique(name) and not is_numeric(there))
            ):
                continue
            if name.lower() in _TARGETS:
                sure, why = sure + 5 - 0.1 * _TARGETS.index(name.lower()), [*why, "by its name"]
            elif set(words_of(name)) & set(_TARGET_WORDS):
                sure, why = sure + 2, [*why, "by a word of its name"]
            if {str(cell).strip().lower() for cell in there} in ({"0", "1"}, {"true", "false"}, {"yes", "no"}):
                sure, why = sure + 2, [*why, "two values"]
            if place == len(free) - 1:
                sure, why = sure + 1.5, [*why, "the last column"]
            if len(there) < self.rows:
                sure, why = sure - 1, [*why, f"missing in {self.rows - len(there)} rows, which are left out"]
            if name.lower().startswith(("is_", "is ", "has_", "has ")):
                sure += 0.5
            sure += place / (10 * len(free))
            if sure > 0 and len(there) > KNOWN * self.rows and (best is None or sure > best[0]):
                best = (sure, name, ", ".join(why) or "the last column of numbers or few words")
        return None if best is None else (best[1], best[2])

    def answers(self, target: str | None, task: str) -> np.ndarray | None:
        """A target of classes or numbers, of the rows that have one; None of others."""
        there = [] if target is None else self.told(target)[1]
        if not there:
            return None
        if _reads(task) == "classes":
            return classes_of(there)
        type_ = learn_type(there)
        if _reads(task) != "numbers" or not type_.startswith("number"):
            return None
        values = [_value(cell, type_) for cell in there]
        return None if None in values else np.array(values, dtype=np.float64)

    def told(self, target: str) -> tuple[list[int], list[Any]]:
        """Rows that have a target, and their cells."""
        cells = self.cells[target]
        rows = np.flatnonzero(~lacks_target(cells)).tolist()
        return rows, [cells[row] for row in rows]

    def labels(self, target: str, task: str) -> tuple[list[str] | None, str | None]:
        """The labels of a task that needs some, and what is to be said of their order."""
        if task == "multilabel":
            return sorted(set().union(*(label_set(cell) for cell in self.cells[target]))), None
        if task != "ordinal" or is_numeric(self.told(target)[1]):
            return None, None
        return sorted({str(label) for label in classes_of(self.told(target)[1])}), BY_ALPHABET

    def guess_task(self, target: str) -> tuple[str, str]:
        """What is asked of a target, and why.

        Raises:
            UserError: dates, or numbers with words among them.
        """
        rows, there = self.told(target)
        if any(as_list(cell) is not None or (isinstance(cell, str) and re.search(r"\w[|;]\w", cell)) for cell in there):
            return "multilabel", "cells hold several labels"
        comma = is_numeric(there, comma=True)
        if not is_numeric(there) and not comma:
            refuse_doubtful(str(self.path), target, there, rows)
            return "classification", f"{self.distinct(target)} different words"
        classes = classes_of(there)
        levels = sorted({*classes.tolist()})
        if classes.dtype.kind == "i" and len(levels) <= FEW_CLASSES:
            return "classification", f"{len(levels)} different whole numbers"
        return "regression", "numbers"


def _modalities(table: _Table, free: Sequence[str], proposal: Proposal) -> dict[str, ModalityConfig]:
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


def _alike(table: _Table, free: Sequence[str], proposal: Proposal, asked: bool) -> dict[str, ModalityConfig]:
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


def _types(table: _Table, columns: Sequence[str]) -> dict[str, CellType]:
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


def _reads(task: str) -> str | None:
    """How the target of a task is read; to look up one that is not guessed here, all tasks are imported."""
    return GUESSED[task] if task in GUESSED else reads_of(task)


def _value(cell: Any, type_: str) -> Any:
    try:
        return read_cell(cell, type_)
    except ValueError:
        return None


def _guess_split(roles: Mapping[str, str | None], task: str, in_time: bool) -> Method:
    if roles["split"] is not None:
        return "given"
    if in_time:
        return "temporal"
    if roles["group"] is not None:
        return "grouped"
    return "stratified" if _reads(task) == "classes" else "random"
