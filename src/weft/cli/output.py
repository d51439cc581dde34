"""How verbs speak: tables for people, JSON for programs, both on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.files import to_json

if TYPE_CHECKING:
    from weft.data import Failure

SHOWN = 20
"""Cells that could not be read of which the terminal shows the reason."""


def write_json(value: Any) -> None:
    """One JSON document; see :func:`weft.files.plain`."""
    print(to_json(value), end="")


def write_table(title: str, rows: Sequence[Mapping[str, Any]], *, stderr: bool = False) -> None:
    """Rows of equal keys as a table; names and cells are data, whatever brackets they hold."""
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in rows[0]:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    Console(stderr=stderr).print(table)


def say(text: str) -> None:
    """One line for a person, on standard error, so that standard output stays clean for ``--json``."""
    Console(stderr=True, highlight=False, markup=False).print(text, soft_wrap=True)


def say_failures(failures: Sequence[Failure], then: str) -> None:
    """What could not be read, as a table of the first on standard error, and what became of it."""
    shown = f", the first {SHOWN}" if len(failures) > SHOWN else ""
    title = f"{len(failures)} cells could not be read and count as absent{shown}"
    write_table(title, [failure.to_dict() for failure in failures[:SHOWN]], stderr=True)
    say(then)
