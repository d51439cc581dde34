"""``weft forecast``: persistence, linear and boosted forecasts on raw windows, beside a comparison's methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Json, Root, out_option


def forecast(
    source: Annotated[str, typer.Argument(help="A data set whose target is the future of a series, e.g. ett.")],
    against: Annotated[
        Path | None, typer.Option(help="predictions.csv of `weft compare`, made with --set 'show=[...]'.")
    ] = None,
    modality: Annotated[str, typer.Option(help="The series that holds the history of the target.")] = "series",
    channel: Annotated[int, typer.Option(help="Its channel; -1 is the last.")] = -1,
    change: Annotated[bool, typer.Option(help="The target is the change since the last step.")] = False,
    root: Root = None,
    data: Data = [],
    out: Annotated[Path | None, out_option("Folder for forecast.json and the figures.")] = None,
    json: Json = False,
) -> None:
    """What a forecast has to beat: errors of simple forecasts, and of a comparison's methods on the same test rows.

    Examples:

        weft forecast ett --root data/ETT-small --data views=plot --data horizon=1

        weft forecast ett --root data/ETT-small --modality oil --against runs/ett/compare/predictions.csv --json
    """
    from weft.cli.output import write_json, write_table
    from weft.cli.source import read_source
    from weft.compare.forecasts import forecast_table
    from weft.data import make_splits
    from weft.files import write_json as write_file

    dataset = read_source(source, root, data)
    rows, best = forecast_table(dataset, make_splits(dataset), modality, channel, change, against, out)
    found = {"best_on_dev": best, "rows": [row.to_dict() for row in rows]}
    if out is not None:
        write_file(out / "forecast.json", found)
    if json:
        write_json(found)
        return
    write_table(f"{dataset.name}: test rows, in the units of the target", [row.cells(best) for row in rows])
