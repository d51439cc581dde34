"""How verbs speak: tables for people, JSON for programs, both on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def write_json(value: Any) -> None:
    """One JSON document; NumPy scalars and arrays become plain numbers and lists."""
    print(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    for method in ("tolist", "model_dump", "to_dict"):
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)


def write_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as a table."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def say(text: str) -> None:
    """One line for a person, on standard error, so that standard output stays clean for ``--json``."""
    Console(stderr=True, highlight=False, markup=False).print(text, soft_wrap=True)
