"""``weft inspect``: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Json


def add_to(app: typer.Typer) -> None:
    app.command("inspect")(inspect)


def inspect(
    store: Annotated[Path, typer.Argument(help="Folder written by `weft encode`.")],
    json: Json = False,
) -> None:
    """Rows, widths, presence, norms, duplicates, and rows that leak across splits. Every shard's hash is checked.

    Examples:

        weft inspect runs/shapes/store

        weft inspect runs/shapes/store --json
    """
    from weft.cli.output import write_json
    from weft.store import inspect_store

    report = inspect_store(store)
    if json:
        write_json(report.to_dict())
    else:
        from rich.console import Console

        Console().print(report.render())
