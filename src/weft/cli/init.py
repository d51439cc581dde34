"""``weft init``: look at a table and write a commented configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    table: Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL; one row per sample, one column per modality.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML to write.")] = Path("weft.yaml"),
    target: Annotated[
        list[str],
        typer.Option(help="Column to predict; none: retrieval. Two for survival: TIME,EVENT. Repeat for several."),
    ] = [],
    task: Annotated[
        str | None, typer.Option(help="What is asked of it: ordinal, regression, ... (default: guess).")
    ] = None,
    id: Annotated[str | None, typer.Option(help="Column of row ids; none: rows are numbered.")] = None,
    group: Annotated[str | None, typer.Option(help="Rows of one value stay in one split; none: no groups.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of dates to split by; none: rows have no order.")] = None,
    drop: Annotated[list[str], typer.Option("--drop", help="Column to leave out. Repeat.")] = [],
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Look at a table's columns and write a YAML that says what each one is; edit it, then `weft compare weft.yaml`.

    What it guesses, it says, and why.

    Examples:

        weft init reviews.csv

        weft init pets.csv --target AdoptionSpeed --group RescuerID --drop Name --force

        weft init patients.csv --target duration,event --task survival
    """
    from weft.cli.output import say
    from weft.data import propose_table, to_commented_yaml
    from weft.errors import UserError
    from weft.files import ask_file

    if out.exists() and not force:
        raise UserError("the configuration exists already", str(out), "choose another --out, or pass --force")
    ask_file(out)
    proposal = propose_table(table, target=target or None, id=id, group=group, time=time, drop=drop, task=task)
    config = proposal.config
    out.write_text(to_commented_yaml(config, out.parent, proposal), encoding="utf-8")
    for role in ("target", "task", "id", "group", "split", "time"):
        say(proposal.about(role))
    if config.split is None and config.splits is not None:
        say(f"rows are split: {config.splits.method}")
    for name, modality in config.modalities.items():
        several = f" of {', '.join(modality.names)}" if modality.columns else ""
        say(f"modality {name}: {modality.kind}{several}")
    for line in proposal.columns():
        say(line)
    for warning in [*proposal.warnings, *proposal.unread]:
        say(f"warning: {warning}")
    roles = "--target, --task, --id, --group, --time, --drop"
    say(f"Other roles: {roles}. Written: {out}. Next: weft check {out}, weft compare {out}")
