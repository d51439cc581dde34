"""``weft inspect``: what a store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli.source import Json


def inspect(
    store: Annotated[str, typer.Argument(help="Folder written by `weft encode`; user/name on the hub, or a URL.")],
    target: Annotated[
        str | None, typer.Option(help="Also report the information of pairs of modalities about this target.")
    ] = None,
    json: Json = False,
) -> None:
    """Rows, widths, presence, norms, duplicates, and rows that leak across splits. Every shard's hash is checked.

    Which layers of two encoders go together: encode several side by side (`options: {layer: [6, 4, 2]}` of a modality
    in the YAML), and the pairs that share most nearest neighbours are named, by training rows and without a label.

    Examples:

        weft inspect runs/shapes/store

        weft inspect runs/shapes/store --json

        weft inspect runs/shapes/store --target label
    """
    from weft.cli.output import write_json
    from weft.places import here
    from weft.store import inspect_store

    folder = here(store, "dataset")
    report = inspect_store(folder)
    pairs = []
    if target is not None:
        from weft.compare.information import inspect_target, render
        from weft.store import Store

        pairs = inspect_target(Store.open(folder), target)
    if json:
        about = {"target": {"column": target, "pairs": [pair.to_dict() for pair in pairs]}} if pairs else {}
        write_json({**report.to_dict(), **about})
        return
    from rich.console import Console

    console = Console()
    console.print(report.render())
    if pairs:
        console.print(render(pairs))
        for pair in pairs:
            console.print(f"- {pair.sentence}", markup=False)
