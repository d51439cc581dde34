"""``weft predict``: a saved model on new rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Quiet, Root


def add_to(app: typer.Typer) -> None:
    app.command("predict")(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="Model folder of `weft fit`, or the winner of `weft compare`.")],
    source: Annotated[
        str, typer.Argument(help="A new table of the same columns (targets may be missing), or a data set.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV of id, prediction, probabilities.")] = Path(
        "predictions.csv"
    ),
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict for a new table: the model's own encoders read it, absent modalities are left out.

    Examples:

        weft predict runs/weft/compare/winner new_rows.csv

        weft predict runs/shapes/compare/winner new_rows.csv --json
    """
    from weft.cli.output import ask_file, say, write_json
    from weft.cli.source import read_new_rows
    from weft.training import load_model

    fused = load_model(model)
    if not json:
        ask_file(out)
    dataset = read_new_rows(fused.table, source, root, data)
    result = fused.predict(dataset, progress=not (quiet or json))
    if json:
        write_json(result)
        return
    write_predictions(out, result, fused.task.labels)
    say(f"{len(dataset)} predictions in {out}")


def write_predictions(path: Path, result: dict[str, Any], names: Sequence[Any]) -> None:
    """One row per sample; an array with one column per output becomes columns ``probability_<name>``."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    from weft.cli.output import writing

    columns: dict[str, Any] = {}
    for key, value in result.items():
        array = np.asarray(value)
        if array.ndim == 2:
            labels = names if len(names) == array.shape[1] else range(array.shape[1])
            columns |= {f"{key}_{label}": array[:, i] for i, label in enumerate(labels)}
        else:
            columns[key] = array
    with writing(path):
        pyarrow.csv.write_csv(pa.table(columns), path)
