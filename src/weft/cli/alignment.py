"""``weft alignment``: how the modalities come together inside a trained ARAF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Json


def add_to(app: typer.Typer) -> None:
    app.command("alignment")(alignment)


def alignment(
    model: Annotated[Path, typer.Argument(help="Model folder of `weft fit --fusion araf --option symmetric=true`.")],
    store: Annotated[Path, typer.Argument(help="Features of `weft encode`.")],
    split: Annotated[str, typer.Option(help="train, dev, test (rows new to the model too) or all.")] = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figure and the table.")] = Path("alignment"),
    json: Json = False,
) -> None:
    """Four stages of an ARAF in three dimensions, with modality gap, CKA and linear separability of each.

    Examples:

        weft alignment runs/vqa/symmetric runs/vqa/store -o runs/vqa/alignment

        weft alignment runs/vqa/symmetric runs/vqa/store --split dev --json
    """
    from weft.cli.aligned import rows_of
    from weft.cli.output import say, write_json, write_table
    from weft.files import write_json as write_file
    from weft.report.alignment_view import alignment_stages, draw_stages, measure_stages
    from weft.store import Store
    from weft.training import FusedModel

    features = Store.open(store)
    fused = FusedModel.from_pretrained(model)
    stages = alignment_stages(fused, features, rows_of(features, split, fused))
    rows = measure_stages(stages)
    out.mkdir(parents=True, exist_ok=True)
    figure = draw_stages(stages, out)
    write_file(out / "alignment.json", rows)
    if json:
        write_json(rows)
        return
    cells = [{key: f"{v:.3f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    write_table(f"{model} on {split}", cells)
    say(f"figure: {figure}")
