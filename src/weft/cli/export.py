"""``weft export``: a saved model for a runtime without weft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Json, Model, out_option


def export(
    model: Model,
    out: Annotated[Path, out_option("File to write; FILE.json and FILE.npz are put beside it.", folder=False)],
    to: Annotated[str, typer.Option(help="onnx or torch-export.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Weights as 8-bit numbers, where the answers stay.")] = False,
    json: Json = False,
) -> None:
    """Write a model for a runtime without weft; its answers are compared with the model's before it is called done.

    Networks, linear and boosted models, ensembles of those and aligners, with any number of rows and tokens.
    Transformers encoders of text, images and waves of sound are part of the file; of others it reads features.

    Examples:

        weft export runs/shapes/compare/winner -o shapes.onnx

        weft export runs/flickr8k/two-tower --to torch-export -o two-tower.pt2
    """
    from weft.cli.output import say, write_json
    from weft.export.write import export_model
    from weft.models.pretrained import load_model

    about = export_model(load_model(model), out, to, int8=int8)
    if json:
        write_json(about)
        return
    names = ", ".join(item["name"] for item in about["inputs"])
    say(f"{out}: {names} -> {', '.join(about['outputs'])}; largest difference from the model {about['difference']:.1e}")
    if int8:
        say(f"int8: largest difference {about['int8_difference']:.3g}; {about['bytes']['int8']:,} bytes")
