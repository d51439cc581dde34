"""How verbs speak: tables for people, JSON for programs, both on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.files import to_json


def write_json(value: Any) -> None:
    """One JSON document; see :func:`weft.files.plain`."""
    print(to_json(value), end="")


def write_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as a table; names and cells are data, whatever brackets they hold."""
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in rows[0]:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    Console().print(table)


def say(text: str) -> None:
    """One line for a person, on standard error, so that standard output stays clean for ``--json``."""
    Console(stderr=True, highlight=False, markup=False).print(text, soft_wrap=True)
