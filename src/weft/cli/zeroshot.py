"""``weft zeroshot``: classes by name alone."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli.aligned import Model
from weft.cli.source import Data, Json, Quiet, Root, Source

STYLES = ["name", "photo"]


def add_to(app: typer.Typer) -> None:
    app.command("zeroshot")(zeroshot)


def zeroshot(
    model: Model,
    source: Source,
    prompt: Annotated[
        list[str], typer.Option(help="name, photo, twice, ensemble, or a template with {}. Repeat.")
    ] = STYLES,
    target: Annotated[str | None, typer.Option(help="Target column with the class names (default: the first).")] = None,
    split: Annotated[str, typer.Option(help="train, dev, test (rows new to the model too) or all.")] = "test",
    image: Annotated[str | None, typer.Option(help="The model's image modality, if it has several.")] = None,
    text: Annotated[str | None, typer.Option(help="The model's text modality, if it has several.")] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify images by the closest class description: top-1 to top-5 for every style of prompt.

    Examples:

        weft zeroshot runs/coco/lightcrl cifar10 --root data/cifar10

        weft zeroshot runs/coco/lightcrl image_folder --root photos --prompt "a drawing of a {}" --prompt ensemble
    """
    import numpy as np

    from weft.cli.aligned import column, load_aligner, modality_of, open_rows, rows_of, values_of, vectors_of
    from weft.cli.output import write_json, write_table
    from weft.tasks.zero_shot import class_codes, class_vectors, prompts, top_hits
    from weft.training.embed import embed_values

    aligner = load_aligner(model)
    seen, read = modality_of(aligner, "image", image), modality_of(aligner, "text", text)
    rows = open_rows(aligner, source, root, data, seen)
    name, chosen = column(rows.targets, target), rows_of(rows, split, aligner)
    chosen = chosen[values_of(rows, seen)[0][chosen] >= 0]
    classes = sorted({str(label) for label in rows.targets[name]})
    codes = class_codes(rows.targets[name][chosen], classes)
    written = {style: prompts(classes, style) for style in prompt}
    images = vectors_of(aligner, rows, seen, chosen, progress=not (quiet or json))
    ks = range(1, min(5, len(classes)) + 1)
    result = {}
    for style, sentences in written.items():
        words = np.stack([embed_values(aligner, read, line) for line in sentences])
        hits = top_hits(images, class_vectors(words), codes, ks)
        result[style] = {f"top-{k}": hit / len(codes) for k, hit in zip(ks, hits, strict=True)}
    if json:
        write_json({"rows": len(codes), "classes": classes, "prompts": result})
        return
    table = [{"prompt": style, **{k: f"{100 * v:.2f}" for k, v in row.items()}} for style, row in result.items()]
    write_table(f"zero-shot on {source}, {split}, {len(codes)} images, {len(classes)} classes, percent", table)
