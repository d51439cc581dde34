"""``weft predict``: a saved model on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from weft.cli.source import Data, Json, Model, Quiet, Root, out_option, repeated
from weft.cli.systems import BatchSize


def predict(
    model: Model,
    source: Annotated[
        str, typer.Argument(help="A new table of the same columns (targets may be missing), or a data set.")
    ] = "",
    out: Annotated[
        Path | None, out_option("CSV of id, prediction, probabilities; or a folder of files.", folder=False)
    ] = None,
    row: Annotated[list[str], repeated("--row", 'Instead: a row, e.g. "text: a red circle".', "YAML")] = [],
    split: Annotated[str, typer.Option(help="Rows by role in training: train, dev, test, new; or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Random seed, where predictions are sampled.")] = 0,
    sets: Annotated[
        float | None, typer.Option(help="Prediction sets or intervals of this coverage: 0.8, 0.9, 0.95.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Exact Shapley value of each modality per prediction; the unit is said."),
    ] = False,
    find: Annotated[
        str | None, typer.Option(help="Of an aligner with a closed form: the modality to predict; -o is an .npz.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="The modality it is predicted from (default: the other one).")] = None,
    batch_size: BatchSize = None,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="At cells that cannot be read: stop, or predict from what else is there and say which."),
    ] = "stop",
    root: Root = None,
    data: Data = [],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict for a new table: the model's own encoders read it. A modality may be absent, with all its columns.

    Cells that cannot be read (a file that is missing or damaged) stop it, and all of them are named. With --on-error
    skip they count as absent; a row with nothing else has an empty prediction.

    Systems write what they predict: a table, or a file per row (a map, an image, a sound). An aligner with a closed
    form (ridge, cca, whitened) predicts the features of one modality from another.

    Examples:

        weft predict runs/weft/compare/winner new_rows.csv

        weft predict runs/shapes/compare/winner new_rows.csv --json

        weft predict runs/nju2k data/SIP -o maps/SIP

        weft predict runs/flickr8k/ridge runs/flickr8k/store --find text --by image -o text.npz

        weft predict runs/shapes/text-to-image --row "text: a large red circle in the top left" -o drawn
    """
    import io

    import numpy as np

    from weft.cli import systems
    from weft.cli.output import say, say_failures, write_json
    from weft.cli.source import new_features, open_rows
    from weft.errors import UserError, count
    from weft.files import ask_file, write_bytes, writing
    from weft.models.aligned import AlignedModel
    from weft.models.expected import predict_modality
    from weft.models.outputs import emptied, flat_columns, write_table
    from weft.models.pretrained import load_model
    from weft.models.seen import rows_for
    from weft.training.system import System
    from weft.training.system_rows import rows_by_hand

    loaded = load_model(model)
    if on_error == "skip" and isinstance(loaded, System | AlignedModel):
        found = f"{model} holds a {type(loaded).__name__}"
        raise UserError("--on-error is for models that predict a target", found, "leave it out, and mend the rows")
    if not source and not row:
        raise UserError("predict needs rows", "no source, no --row", "give a table, a data set, or --row")
    if isinstance(loaded, System):
        rows = rows_by_hand(type(loaded), row) if row else systems.read_rows(type(loaded), source, root, data)
        systems.predict(loaded, rows, out, split, batch_size=batch_size, seed=seed, json=json)
        return
    if row:
        raise UserError("--row is for systems", f"{model} holds a {type(loaded).__name__}", "give a table with the row")
    if isinstance(loaded, AlignedModel):
        place, file = out or Path(f"{find}.npz"), io.BytesIO()
        ask_file(place)
        searched = open_rows(source, root, data)
        ids, predicted, facts = predict_modality(loaded, searched, find, by, split, progress=not (quiet or json))
        np.savez(file, id=ids, prediction=predicted)
        with writing(place):
            write_bytes(place, file.getvalue())
        share = f"; they explain {facts['explained']:.3f} of the variance" if facts else ""
        if json:
            write_json({"rows": len(ids), "width": predicted.shape[1], "file": str(place), **facts})
        else:
            say(f"{len(ids)} predictions of {find} in {place}{share}")
        return
    if find or by:
        found = f"{model} holds a {type(loaded).__name__}"
        raise UserError(
            "--find and --by are for aligners", found, "leave them out, or train one: weft fit --fusion ridge"
        )
    place = out or Path("predictions.csv")
    if not json:
        ask_file(place)
    features, failures = new_features(loaded, source, root, data, on_error, not (quiet or json))
    chosen = rows_for(loaded.seen, features, split)
    result = loaded.predict(features, chosen, sets=sets)
    if explain:
        from weft.models.explain import row_shapley, unit_of

        say(f"shapley_*: {unit_of(loaded.task)}")
        shares = row_shapley(loaded, features, chosen)
        result |= {f"shapley_{name}": shares[:, k] for k, name in enumerate(loaded.names)}
    gone = np.zeros(len(chosen), dtype=bool)
    if failures:
        failed = {failure.row for failure in failures}
        gone = np.array([features.ids[row] in failed for row in chosen]) & ~features.presence[chosen].any(axis=1)
        lost = f"{count(int(gone.sum()), 'row')} with nothing else: no prediction" if gone.any() else ""
        say_failures(failures, lost or "every row is predicted from what else is there")
    ids = result.pop("id")
    if json:
        write_json({"id": ids, **(emptied(result, gone) if failures else result)})
        return
    with writing(place):
        write_table("label", place, ids, emptied(flat_columns(result, loaded.task.labels), gone), loaded.task.labels)
    say(f"{len(chosen) - int(gone.sum())} predictions in {place}")
