"""``weft run``: repeat a published experiment."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli.source import repeated


def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (--dry-run shows it), or a YAML of your own.")],
    setting: Annotated[list[str], repeated("--set", "A variable.", "NAME=VALUE")] = [],
    dry_run: Annotated[bool, typer.Option(help="Print the commands and do not run them.")] = False,
) -> None:
    """Run the commands of a recipe one after the other; finished encoding and training is not done again.

    Examples:

        weft run lightcrl/small-table-mrpc --set DATA=data --dry-run

        weft run my_recipe.yaml --set OUT=runs/mine
    """
    import shlex

    from weft.cli import app
    from weft.cli.output import say
    from weft.cli.source import settings
    from weft.recipes.recipe import load_recipe

    loaded = load_recipe(recipe)
    commands = loaded.commands(settings(setting, "set"))
    say(f"{loaded.title} ({loaded.source})")
    for command in commands:
        say(f"$ weft {shlex.join(command)}")
        if not dry_run:
            app(command, standalone_mode=False)
