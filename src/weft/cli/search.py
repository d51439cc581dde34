"""``weft search``: find the items of one modality by an item of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Json, Model, Quiet, Root, Source


def search(
    model: Model,
    source: Source,
    query: Annotated[
        list[str],
        typer.Option(
            help="A text, a file, an .npy array (of vectors: one, or one a row). Repeat. Without: evaluate retrieval."
        ),
    ] = [],
    find: Annotated[
        list[str],
        typer.Option(help="Modality to search in (default: the one that is not text). Repeat: one pool of several."),
    ] = [],
    by: Annotated[str | None, typer.Option(help="Modality of the queries (default: the text).")] = None,
    top: Annotated[int, typer.Option(min=1, help="Hits per query.")] = 5,
    split: Annotated[str, typer.Option(help="train, dev, test (rows new to the model too) or all.")] = "test",
    index: Annotated[
        Path | None,
        typer.Option(help="Folder of the index; built there if it is not yet (default: in the model's, by content)."),
    ] = None,
    hubs: Annotated[
        str,
        typer.Option(
            help="Hubness correction: [nnn:|softmax:|gated:]SHARE by which hubs are lowered, or dev to select it."
        ),
    ] = "0",
    approximate: Annotated[bool, typer.Option(help="Use faiss (weft[ann]) instead of exact search.")] = False,
    factory: Annotated[str, typer.Option(help="faiss's name of the approximate index, e.g. IVF256,PQ32.")] = "HNSW32",
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the retrieval curve (evaluation only, equal captions per image).")
    ] = None,
    root: Root = None,
    data: Data = [],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a data set by texts or files; without a query, measure: recalls both ways, and LightCRL's curve.

    With hubs lowered the recalls are given as well. The curve is given twice: as published, where every image stands
    once per caption and only the last batch of 100 captions counts, and corrected, over all captions.

    Examples:

        weft search runs/flickr8k/lightcrl flickr8k --root data/flickr8k --query "a dog runs on the beach"

        weft search runs/flickr8k/lightcrl runs/flickr8k/store --query "a dog" --find image --find text

        weft search runs/flickr8k/lightcrl runs/flickr8k/store --figures figures
    """
    from weft.cli.output import say, write_json, write_table
    from weft.cli.source import open_rows
    from weft.models import load_model
    from weft.models.asked import kinds_of, require_aligner, rows_of, same_encoders, searched, two_sides, values_asked
    from weft.models.embed import embed_values
    from weft.models.searching import gallery, measure
    from weft.places import here

    aligner = require_aligner(load_model(model))
    rows = open_rows(source, root, data)
    same_encoders(aligner, rows, find[0] if len(find) == 1 else None)
    kinds = kinds_of(aligner, rows)
    names, by = searched(aligner, kinds, find, by) if query else two_sides(aligner, kinds, find, by)
    asked = values_asked(kinds[by], by, query)
    chosen = rows_of(rows, split, aligner)
    show = not (quiet or json)
    if not query:
        result = measure(aligner, rows, names[0], by, chosen, show, figures, hubs)
        if json:
            write_json(result)
        else:
            for title, found in result.items():
                write_table(
                    f"{title} ({source}, {split})", [{"what": k, "value": f"{v:.4f}"} for k, v in found.items()]
                )
        return
    faiss = factory if approximate else None
    built = gallery(aligner, here(model), rows, names, by, chosen, split, index, hubs, faiss, show, say)
    hits = built.search(embed_values(aligner, by, list(asked.values())), top)
    answer = [
        {"query": q, "rank": place + 1, "id": hits.ids[i, place], "score": float(hits.scores[i, place])}
        for i, q in enumerate(asked)
        for place in range(hits.ids.shape[1])
    ]
    if json:
        write_json(answer)
    else:
        write_table(f"{', '.join(names)} by {by}", [{**row, "score": f"{row['score']:.4f}"} for row in answer])
