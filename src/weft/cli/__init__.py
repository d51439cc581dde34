"""The command line: one file per verb; heavy imports happen inside the verb, so ``weft --help`` never imports torch."""

from __future__ import annotations

import sys

import typer

from weft.allocator import keep_freed_memory
from weft.cli import (
    alignment,
    check,
    compare,
    encode,
    evaluate,
    fit,
    forecast,
    init,
    inspect,
    list,
    mine,
    moved,
    pairs,
    predict,
    probe,
    run,
    search,
    zeroshot,
)
from weft.errors import UserError

app = typer.Typer(
    name="weft",
    help="Align and fuse modalities from frozen features, and say with evidence what helps.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `weft compare shapes`, or `weft init my_table.csv` for a table of your own.",
)

LEARN = (init, encode, inspect, fit, compare, forecast, evaluate, predict)
USE = (search, pairs, mine, zeroshot, probe, alignment, run, list, check, moved)
for verb in LEARN + USE:
    verb.add_to(app)


def main() -> None:
    """Entry point of the ``weft`` command: a user's mistake ends in its message and status 2, not in a traceback."""
    keep_freed_memory()
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"weft: {error}\n")
        sys.exit(2)
