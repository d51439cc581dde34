"""Errors that a user can act on: what went wrong, what was found, what to do. And warnings, at the user's own line."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(ValueError):
    """An input weft cannot accept, said in three parts.

    Args:
        what: the argument, file, column or row that is wrong, and the rule it breaks.
        found: the value, the shape or the row ids that were found.
        remedy: the way out.
    """

    def __init__(self, what: str, found: str, remedy: str) -> None:
        super().__init__(what, found, remedy)
        self.what, self.found, self.remedy = what, found, remedy

    def __str__(self) -> str:
        return f"{self.what}\n  found:  {self.found}\n  remedy: {self.remedy}"


def warn_of(notes: Iterable[str]) -> None:
    """A Python warning for each note, which points at the line outside weft that asked."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "weft":
        frame, level = frame.f_back, level + 1
    for note in notes:
        warnings.warn(note, stacklevel=level)


def did_you_mean(name: str, known: Iterable[str], label: str = "names") -> str:
    """A remedy for a misspelt name: the closest known ones, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return f"known {label}: {', '.join(known) or '(none)'}"


def count(number: int, noun: str) -> str:
    """``1 cell``, ``1,200 cells``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(cell: object, most: int = 40) -> str:
    """A cell in a message: the beginning of a long one."""
    text = str(cell)
    return text if len(text) <= most else text[: most - 1] + "…"


def some(items: Iterable[object], most: int = 5) -> str:
    """The first few of a list for an error message: ``'a', 'b' and 7 more``."""
    items = list(items)
    shown = ", ".join(repr(i) if isinstance(i, str) else str(i) for i in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def first_fault(error: ValidationError, owner: str, noun: str, known: Iterable[str], remedy: str) -> UserError:
    """The first thing pydantic found wrong.

    Args:
        error: what it raised.
        owner, noun: who has which things: ``"training"``, ``"setting"``.
        known: the names there are, for one that is misspelt.
        remedy: the way out where the name is known and the value is wrong.
    """
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "(all)"
    found = f"{name}={first.get('input')!r}"[:200]
    if first["type"] == "extra_forbidden":
        return UserError(f"{owner} has no {noun} {name!r}", found, did_you_mean(name.split(".")[-1], known, f"{noun}s"))
    return UserError(f"{noun} {name!r} of {owner}: {first['msg']}", found, remedy)
