"""``weft predict``: a saved model on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Quiet, Root
from weft.cli.systems import BatchSize


def add_to(app: typer.Typer) -> None:
    app.command("predict")(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="Model folder of `weft fit`, or the winner of `weft compare`.")],
    source: Annotated[
        str, typer.Argument(help="A new table of the same columns (targets may be missing), or a data set.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV of id, prediction, probabilities; or a folder of files.")
    ] = None,
    row: Annotated[
        list[str], typer.Option("--row", metavar="YAML", help='Instead: a row, e.g. "text: a red circle". Repeat.')
    ] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="Rows that were train, dev, test or new to a system; or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Of what is drawn, where predictions are samples.")] = 0,
    sets: Annotated[
        float | None, typer.Option(help="Sets or intervals that hold the truth in this share of rows: 0.8, 0.9, 0.95.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="What each modality did for each prediction: exact Shapley values.")
    ] = False,
    find: Annotated[
        str | None, typer.Option(help="Of an aligner with a closed form: the modality to predict; -o is an .npz.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="The modality it is predicted from (default: the other one).")] = None,
    batch_size: BatchSize = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict for a new table: the model's own encoders read it, absent modalities are left out.

    Systems write what they predict: a table, or a file per row (a map, an image, a sound). An aligner with a closed
    form (ridge, cca, whitened) predicts the features of one modality from another.

    Examples:

        weft predict runs/weft/compare/winner new_rows.csv

        weft predict runs/shapes/compare/winner new_rows.csv --json

        weft predict runs/nju2k data/SIP -o maps/SIP

        weft predict runs/flickr8k/ridge runs/flickr8k/store --find text --by image -o text.npz

        weft predict runs/shapes/text-to-image --row "text: a large red circle in the top left" -o drawn
    """
    import numpy as np

    from weft.cli import systems
    from weft.cli.output import ask_file, say, write_json, writing
    from weft.cli.source import read_new_rows
    from weft.errors import UserError
    from weft.models.aligned import AlignedModel
    from weft.models.outputs import write_table
    from weft.models.pretrained import load_model
    from weft.training.system import System

    loaded = load_model(model)
    if not source and not row:
        raise UserError("predict needs rows", "no source, no --row", "give a table, a data set, or --row")
    if isinstance(loaded, System):
        rows = systems.rows_by_hand(type(loaded), row) if row else systems.read_rows(type(loaded), source, root, data)
        systems.predict(loaded, rows, out, split, batch_size=batch_size, seed=seed, json=json)
        return
    if isinstance(loaded, AlignedModel):
        predict_modality(loaded, source, out, find, by, split, root, data, json=json, progress=not (quiet or json))
        return
    place = out or Path("predictions.csv")
    if not json:
        ask_file(place)
    dataset = read_new_rows(loaded.table, source, root, data)
    features = loaded.encode(dataset, progress=not (quiet or json))
    result = loaded.predict(features, sets=sets)
    if explain:
        from weft.models.explain import row_shapley

        shares = row_shapley(loaded, features, np.arange(len(features)))
        result |= {f"shapley_{name}": shares[:, k] for k, name in enumerate(loaded.names)}
    if json:
        write_json(result)
        return
    with writing(place):
        write_table("label", place, result.pop("id"), result, loaded.task.labels)
    say(f"{len(dataset)} predictions in {place}")


def predict_modality(
    aligner: Any,
    source: str,
    out: Path | None,
    find: str | None,
    by: str | None,
    split: str,
    root: Path | None,
    data: list[str],
    *,
    json: bool,
    progress: bool,
) -> None:
    """Features of one modality as another lets expect them, in an .npz; and how much of the true ones they explain."""
    import io

    import numpy as np

    from weft.cli.output import ask_file, say, write_json, writing
    from weft.cli.source import open_rows
    from weft.data import Dataset
    from weft.errors import UserError
    from weft.files import write_bytes
    from weft.models.asked import rows_of, same_encoders

    others = [name for name in aligner.names if name != find]
    if find is None or (by is None and len(others) != 1):
        found = f"--find {find or '?'}, --by {by or '?'}; {', '.join(aligner.names)}"
        raise UserError(
            "name the modality to predict, and the one it is predicted from", found, "--find text --by image"
        )
    place = out or Path(f"{find}.npz")
    ask_file(place)
    data_set = open_rows(source, root, data)
    same_encoders(aligner, data_set, by or others[0])
    rows = rows_of(data_set, split, aligner)
    features = aligner.encode(data_set, progress=progress) if isinstance(data_set, Dataset) else data_set
    predicted = aligner.predict_modality(features, by or others[0], find, rows)
    ids = np.array([features.ids[row] for row in rows.tolist()])
    file = io.BytesIO()
    np.savez(file, id=ids, prediction=predicted)
    with writing(place):
        write_bytes(place, file.getvalue())
    result = {"rows": len(rows), "width": predicted.shape[1], "file": str(place)}
    if find in features.dims:
        result["explained"] = explained(features.pooled(rows)[find], predicted, aligner.standardise.statistics(find)[0])
    if json:
        write_json(result)
        return
    share = f"; they explain {result['explained']:.3f} of the variance" if "explained" in result else ""
    say(f"{len(rows)} predictions of {find} in {place}{share}")


def explained(truth: Any, predicted: Any, mean: Any) -> float:
    """Share of the variance around the training mean, over all features; rows that lack a side are left out."""
    import numpy as np

    there = np.isfinite(truth).all(axis=1) & np.isfinite(predicted).all(axis=1)
    around = truth[there] - mean.cpu().numpy()
    return float(1 - np.square(truth[there] - predicted[there]).sum() / np.square(around).sum())
