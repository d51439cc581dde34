"""``weft mine``: pairs of captions that mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Root, Source


def add_to(app: typer.Typer) -> None:
    app.command("mine")(mine)


def mine(
    source: Source,
    encoder: Annotated[str, typer.Option(help="Sentence encoder, e.g. hf:sentence-transformers/all-MiniLM-L6-v2.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="CSV to write; a YAML of that name is put beside it.")
    ] = Path("pairs.csv"),
    threshold: Annotated[float, typer.Option(help="Least cosine of a pair.")] = 0.7,
    identical: Annotated[bool, typer.Option(help="Keep the pairs of a caption with itself.")] = True,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Mine positive text pairs from captions: two captions of one image whose sentence vectors are close.

    Examples:

        weft mine flickr8k --root data/flickr8k --encoder hf:sentence-transformers/all-MiniLM-L6-v2

        weft fit pairs.yaml --fusion lightcrl --encoder first=hf:roberta-base --encoder second=hf:bert-base-uncased
    """
    import csv

    import numpy as np
    import yaml

    from weft.cli.output import say, write_json
    from weft.cli.source import read_source
    from weft.data.caption_pairs import positive_pairs
    from weft.encoders import create_encoder
    from weft.encoders.pooled import pooled_vectors
    from weft.errors import UserError
    from weft.files import write_bytes

    dataset = read_source(source, root, data)
    texts = [modality for modality in dataset.modalities.values() if modality.kind == "text"]
    if dataset.group is None or len(texts) != 1:
        found = f"{len(texts)} text modalities, {'no ' if dataset.group is None else ''}groups"
        raise UserError(
            "pairs are mined from captions, grouped by image", found, "use a data set such as flickr8k, coco"
        )
    present = np.flatnonzero(texts[0].presence)
    rows = {group: present[dataset.group[present] == group] for group in dict.fromkeys(dataset.group[present].tolist())}
    groups = list(rows)
    captions = [[texts[0].values[i] for i in rows[group]] for group in groups]
    made = create_encoder(encoder, "text")
    mined = list(positive_pairs(captions, lambda t: pooled_vectors(made, t), threshold, identical=identical))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "first", "second", *(["split"] if dataset.split is not None else [])])
        for image, i, j in mined:
            group, pair = groups[image], (captions[image][i], captions[image][j])
            part = [] if dataset.split is None else [dataset.split[rows[group][0]]]
            writer.writerow([f"{group}#{i}-{j}", group, *pair, *part])
    config: dict[str, Any] = {"table": out.name, "id": "id", "group": "image", "task": "retrieval"}
    config |= {"split": "split"} if dataset.split is not None else {}
    config["modalities"] = {name: {"kind": "text", "column": name} for name in ("first", "second")}
    write_bytes(out.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False).encode())
    same = sum(pair.first == pair.second for pair in mined)
    if json:
        write_json({"pairs": len(mined), "identical": same, "images": len(groups), "table": str(out)})
    else:
        say(f"{len(mined)} pairs ({same} of a caption with itself) of {len(groups)} images in {out}")
