"""``weft search``: find the items of one modality by an item of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.aligned import Model
from weft.cli.source import Data, Json, Quiet, Root, Source


def add_to(app: typer.Typer) -> None:
    app.command("search")(search)


def search(
    model: Model,
    source: Source,
    query: Annotated[
        list[str], typer.Option(help="A text, or the path of a file. Repeat. None: measure instead.")
    ] = [],  # noqa: B006
    find: Annotated[str, typer.Option(help="Modality to search in.")] = "image",
    by: Annotated[str, typer.Option(help="Modality of the queries.")] = "text",
    top: Annotated[int, typer.Option(min=1, help="Hits per query.")] = 5,
    split: Annotated[str, typer.Option(help="train, dev, test or all.")] = "test",
    index: Annotated[Path | None, typer.Option(help="Folder of the index; built there if it is not yet.")] = None,
    approximate: Annotated[bool, typer.Option(help="Use faiss (weft[ann]) instead of exact search.")] = False,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the curve (measuring only, as many captions to every image).")
    ] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a data set by texts or files; without a query, measure: recalls both ways, and LightCRL's curve.

    The curve is given twice: as published, where every image stands once per caption and only the last batch of 100
    captions counts, and corrected, over all captions.

    Examples:

        weft search runs/flickr8k/lightcrl flickr8k --root data/flickr8k --query "a dog runs on the beach"

        weft search runs/flickr8k/lightcrl runs/flickr8k/store --figures figures
    """
    import numpy as np

    from weft.cli.aligned import open_rows, rows_of, vectors_of
    from weft.cli.output import write_json, write_table
    from weft.retrieval.search import ExactIndex, FaissIndex, model_fingerprint
    from weft.training import AlignedModel
    from weft.training.embed import embed_values

    aligner = AlignedModel.from_pretrained(model)
    rows = open_rows(aligner, source, root, data, find)
    chosen = rows_of(rows, split)
    show = not (quiet or json)
    if not query:
        result = measure(aligner, rows, find, by, chosen, show, figures)
        if json:
            write_json(result)
        else:
            for title, found in result.items():
                write_table(
                    f"{title} ({source}, {split})", [{"what": k, "value": f"{v:.4f}"} for k, v in found.items()]
                )
        return
    groups = chosen if rows.group is None else rows.group[chosen]
    _, first = np.unique(groups, return_index=True)
    items = chosen[np.sort(first)] if find == "image" else chosen
    kind = FaissIndex if approximate else ExactIndex
    fingerprint = model_fingerprint(aligner)
    if index is not None and (index / "index.json").is_file():
        built: Any = kind.load(index, fingerprint)
    else:
        vectors = vectors_of(aligner, rows, find, items, progress=show)
        built = kind(vectors, [rows.ids[i] for i in items], fingerprint=fingerprint)
        if index is not None:
            built.save(index)
    asked: list[Any] = [Path(q) if aligner.encoders and aligner.encoders[by]["kind"] != "text" else q for q in query]
    hits = built.search(embed_values(aligner, by, asked), top)
    answer = [
        {"query": str(q), "rank": place + 1, "id": hits.ids[i, place], "score": float(hits.scores[i, place])}
        for i, q in enumerate(asked)
        for place in range(hits.ids.shape[1])
    ]
    if json:
        write_json(answer)
    else:
        write_table(f"{find} by {by}", [{**row, "score": f"{row['score']:.4f}"} for row in answer])


def measure(
    aligner: Any, rows: Any, find: str, by: str, chosen: Any, show: bool, figures: Path | None
) -> dict[str, dict[str, float]]:
    """Recalls in both directions, and, where every image has as many captions, LightCRL's curve in both readings."""
    import numpy as np

    from weft.cli.aligned import vectors_of
    from weft.retrieval.repeated import captions_found, images_above, repeated_curve, unique_curve
    from weft.tasks import plots
    from weft.tasks.retrieval import RetrievalTask

    groups = chosen if rows.group is None else rows.group[chosen]
    order = np.argsort(groups, kind="stable")
    chosen, groups = chosen[order], groups[order]
    vectors = {name: vectors_of(aligner, rows, name, chosen, progress=show) for name in (find, by)}
    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    repeated = len(first) < len(groups) and all(
        np.array_equal(vectors[find][start : start + n], np.repeat(vectors[find][start : start + 1], n, axis=0))
        for start, n in zip(first, counts, strict=True)
    )
    task = RetrievalTask(((find, by),), unique=(find,) if repeated else ())
    result = {"retrieval": task.metrics(vectors, groups)}
    if repeated and len(set(counts.tolist())) == 1:
        images, texts, n = vectors[find][first], vectors[by], int(counts[0])
        above = images_above(images, texts)
        ks = [k for k in (1, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000) if k <= len(texts)]
        curves = {
            "corrected, unique images": lambda ks: unique_curve(above, ks),
            "corrected, repeated rows": lambda ks: repeated_curve(above, ks, n),
            "as published (last batch of 100)": lambda ks: repeated_curve(above, ks, n, last_batch=100),
        }
        for name, curve in curves.items():
            found = {f"k={k}": float(v) for k, v in zip(ks, curve(ks), strict=True)}
            result[f"{by} -> {find} curve, {name}"] = found
        if figures is not None:
            every = np.unique(np.geomspace(1, len(texts), 400).astype(int))
            lines = {name: (every, curve(every)) for name, curve in curves.items()}
            title = f"{by} to {find}: {len(texts)} texts, {len(images)} items"
            plots.curves(lines, "retrieval-curve", figures, xlabel="k", ylabel="answered within k", title=title)
        result[f"{find} -> {by}, at least j of {n} in the top {n}"] = {
            f"j={j + 1}": float(v) for j, v in enumerate(captions_found(images, texts))
        }
    return result
