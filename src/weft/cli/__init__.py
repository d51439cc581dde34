"""The command line: one file per verb; heavy imports happen inside the verb, so ``weft --help`` never imports torch."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from weft.allocator import keep_freed_memory
from weft.cli import (
    align,
    check,
    compare,
    encode,
    encoders,
    evaluate,
    export,
    fit,
    forecast,
    init,
    inspect,
    list,
    mine,
    moved,
    predict,
    push,
    run,
    search,
    serve,
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

VERBS: dict[str, dict[str, Callable[..., None]]] = {
    "Data": {
        "init": init.init,
        "check": check.check,
        "encode": encode.encode,
        "encoders": encoders.encoders,
        "inspect": inspect.inspect,
    },
    "Models": {
        "compare": compare.compare,
        "fit": fit.fit,
        "predict": predict.predict,
        "evaluate": evaluate.evaluate,
        "forecast": forecast.forecast,
        "export": export.export,
        "serve": serve.serve,
        "push": push.push,
    },
    "Aligned spaces": {"align": align.align, "search": search.search, "mine": mine.mine},
    "Everything there is": {"list": list.list_registered, "run": run.run},
}
for group, verbs in VERBS.items():
    for name, verb in verbs.items():
        app.command(name, rich_help_panel=group)(verb)
moved.add_to(app)

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main() -> None:
    """Entry point of the ``weft`` command: a user's mistake ends in its message and status 2, not in a traceback."""
    keep_freed_memory()
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"weft: {error}\n")
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            sys.stderr.write("weft: stopped. encode, fit and compare go on from here by the same command.\n")
        elif not end.code:
            _leave_group()
        raise


def _leave_group() -> None:
    """Of several processes that trained together, this one leaves: its threads may abort a process that just ends."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
