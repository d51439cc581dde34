"""How verbs speak: tables for people, JSON for programs, both on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft.errors import UserError
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


def ask_file(path: Path) -> None:
    """Whether a file can be written there, asked before the work begins; its folder is made.

    Raises:
        UserError: it cannot.
    """
    there = path.exists()
    if path.is_dir():
        raise UserError("the output is a file", f"{path} is a folder", "name a file in it")
    if there and not path.is_file():  # a device or a pipe: opening it could wait for its reader
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not there:
            path.unlink()


def ask_folder(path: Path) -> None:
    """Whether files can be written into a folder, asked before the work begins; it is made.

    Raises:
        UserError: they cannot.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says into a UserError."""
    try:
        yield
    except OSError as error:
        remedy = "choose another --out, free some space, or ask for the right to write there"
        raise UserError("the output cannot be written", f"{path}: {error.strerror or error}", remedy) from error
