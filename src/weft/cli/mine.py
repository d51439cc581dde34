"""``weft mine``: pairs of captions that mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Json, Root, Source


def mine(
    source: Source,
    encoder: Annotated[str, typer.Option(help="Sentence encoder, e.g. hf:sentence-transformers/all-MiniLM-L6-v2.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="CSV to write; a YAML of that name is put beside it.")
    ] = Path("pairs.csv"),
    threshold: Annotated[float, typer.Option(help="Minimum cosine similarity of a pair.")] = 0.7,
    identical: Annotated[bool, typer.Option(help="Keep the pairs of a caption with itself.")] = True,
    root: Root = None,
    data: Data = [],
    json: Json = False,
) -> None:
    """Mine positive text pairs from captions: two captions of one image whose sentence vectors are close.

    Examples:

        weft mine flickr8k --root data/flickr8k --encoder hf:sentence-transformers/all-MiniLM-L6-v2

        weft fit pairs.yaml --fusion lightcrl --encoder first=hf:roberta-base --encoder second=hf:bert-base-uncased
    """
    from weft.cli.output import say, write_json
    from weft.cli.source import read_source
    from weft.encoders.mining import mine_pairs

    pairs, same, groups = mine_pairs(read_source(source, root, data), encoder, out, threshold, identical=identical)
    if json:
        write_json({"pairs": pairs, "identical": same, "images": groups, "table": str(out)})
    else:
        say(f"{pairs} pairs ({same} of a caption with itself) of {groups} images in {out}")
