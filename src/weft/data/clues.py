"""What the cells of a table tell of its columns: their kinds, and which may be ids, groups, times or the target."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np

from weft.data.cells import is_blank, is_numeric, learn_type, read_or_none
from weft.data.columns import Columns, words_in
from weft.data.commented_yaml import ASKED
from weft.data.entities import are_few, is_entity, names_people, why_in_time, why_not_cut, words_of
from weft.data.entities import why_category as why_no_group
from weft.data.kinds import kind_named, kinds
from weft.data.odd_cells import why_files, why_odd
from weft.data.table import SPLIT_WORDS
from weft.data.target_cells import FEW_CLASSES, classes_of, label_set, lacks_target, refuse_doubtful
from weft.data.targets import RETRIEVAL, reads_of
from weft.data.written import as_list, refuse_cut
from weft.errors import short

LOOKED_AT = 1000
"""Cells of a column that a kind is guessed from."""
KNOWN = 0.9
"""Part of the rows in which a column that is guessed to be the target is there."""
TEXT = "text"
"""The type of a column that is a modality of words."""
NONE = "none"
"""On the command line: no column in this role."""
BY_ALPHABET = "by the alphabet: put the lowest first"
"""What is said of the order of words that nobody gave."""
GUESSED = {"classification": "classes", "regression": "numbers", "multilabel": "sets", RETRIEVAL: None}
_IDS = ("id", "uid", "uuid", "guid", "key", "hash", "code", "index", "url")
_TARGETS = ("target", "targets", "label", "labels", "class", "y", "answer", "tags", "sentiment", "outcome", "score")
_TARGET_WORDS = (
    *("target", "label", "outcome", "recommended", "recommend", "survived", "churn", "churned", "default", "fraud"),
    *("approved", "converted", "clicked", "diagnosis", "sentiment", "adopted", "sold", "price", "rating", "result"),
)
_OPAQUE = re.compile(r"[0-9a-fA-F]{8,}(-[0-9a-fA-F]{4,})*|(?=\S*\d)(?=\S*[A-Za-z])[\w.:-]{2,}|\d+")


class Clues:
    """The cells of all columns, and what can be seen in them.

    Args:
        columns: of the table.
        types: ``{column: type}`` of those that are not to be guessed.
    """

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
            refuse_cut(f"{self.path}, column {name!r}", cells)
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
        if name not in self.types and (why := self._why_odd(name)) is not None:
            return why
        if name.strip().lower() in ("", "unnamed: 0", "__index_level_0__", "index") and is_numeric(there):
            numbers = [float(cell) for cell in there if str(cell).strip().lstrip("-").replace(".", "", 1).isdigit()]
            if len(numbers) == self.rows and all(a < b for a, b in pairwise(numbers)):
                return "row numbers, as pandas writes its index"
        if self.rows > 1 and len(there) == self.rows and self.distinct(name) == 1:
            return f"the same in every row: {short(there[0])!r}"
        return None

    def _why_odd(self, name: str) -> str | None:
        """Why no kind reads a column, if none does."""
        there = self.present(name)
        why = why_odd(there)
        return why or (why_files(there, self.folder) if self.kind(name) in ("tabular", "text") else None)

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
        return [read_or_none(cell, type_) for cell in self.cells[name]]

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
        if reads(task) == "classes":
            return classes_of(there)
        type_ = learn_type(there)
        if reads(task) != "numbers" or not type_.startswith("number"):
            return None
        values = [read_or_none(cell, type_) for cell in there]
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
        if any(
            as_list(cell) is not None or (isinstance(cell, str) and re.search(r"\w\s*[|;]\s*\w", cell))
            for cell in there
        ):
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


def reads(task: str) -> str | None:
    """How the target of a task is read; to look up one that is not guessed here, all tasks are imported."""
    return GUESSED[task] if task in GUESSED else reads_of(task)
