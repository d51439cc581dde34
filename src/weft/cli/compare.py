"""``weft compare``: which modalities matter, which fusion wins, by how much, how sure, at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Encoders, Json, Quiet, Root, Source, StoreFolder


def add_to(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    source: Source,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Result folder (default runs/SOURCE/compare).")
    ] = None,
    fusions: Annotated[
        str | None, typer.Option(help="Comma-separated names or patterns (default: all that suit the data).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of every method.")] = 5,
    folds: Annotated[int | None, typer.Option(help="Cross-validation folds instead of one test set.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time limit, e.g. 90s, 20m, 2h; the essentials run first.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that train at a time (default: the cores).")
    ] = None,
    dim: Annotated[int, typer.Option(help="Width of the fused vector.")] = 128,
    setting: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Comparison setting. Repeat.")] = [],  # noqa: B006
    root: Root = None,
    data: Data = [],  # noqa: B006
    encoder: Encoders = [],  # noqa: B006
    store: StoreFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare fusions with single modalities and classical baselines; one verdict, one table, one HTML report.

    Killed comparisons resume. The winner is a folder that `weft predict` and `FusedModel.from_pretrained` load.

    Examples:

        weft compare shapes --seeds 3

        weft compare weft.yaml --budget 20m

        weft compare runs/shapes/store --fusions "gated,*attention*" --folds 5 --json
    """
    from weft.cli.output import ask_folder, say, write_json
    from weft.cli.source import cores, open_store, settings
    from weft.compare import CompareConfig
    from weft.compare import compare as run
    from weft.report import render_terminal, write_report

    progress = not (quiet or json)
    folder = out or Path("runs") / Path(source).stem / "compare"
    if out is not None:
        ask_folder(out)
    features = open_store(source, root, data, encoder, store, progress=progress)
    given = {"fusions": fusions.split(",") if fusions else None, "folds": folds, "budget": budget}
    config = CompareConfig(
        seeds=seeds,
        dim=dim,
        jobs=jobs or cores(),
        **{k: v for k, v in given.items() if v is not None},
        **settings(setting, "set"),
    )
    comparison = run(features, config, folder, progress=progress)
    write_report(comparison, folder)
    if json:
        write_json(comparison.to_dict())
    else:
        render_terminal(comparison)
        say(f"report: {folder / 'report.html'}; winner: {folder / 'winner'}")
