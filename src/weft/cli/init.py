"""``weft init``: look at a table and write a commented configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    table: Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL; one row per sample, one column per modality.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML to write.")] = Path("weft.yaml"),
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Look at a table's columns and write a YAML that says what each one is; edit it, then `weft compare weft.yaml`.

    Examples:

        weft init reviews.csv

        weft init sensors.parquet --out sensors.yaml
    """
    from weft.cli.output import say
    from weft.data import guess_table, to_commented_yaml
    from weft.errors import UserError
    from weft.files import write_bytes

    if out.exists() and not force:
        raise UserError("the configuration exists already", str(out), "choose another --out, or pass --force")
    config = guess_table(table)
    write_bytes(out, to_commented_yaml(config, out.parent).encode())
    say(f"{out}: {', '.join(f'{n} ({m.kind})' for n, m in config.modalities.items())}. Next: weft compare {out}")
