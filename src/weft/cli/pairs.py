"""``weft pairs``: do two sentences match? Threshold tables, or correlation with human scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.source import Data, Json, Root, Source

if TYPE_CHECKING:
    import numpy as np


def add_to(app: typer.Typer) -> None:
    app.command("pairs")(pairs)


def pairs(
    source: Source,
    model: Annotated[
        list[Path], typer.Option(help="Aligner folder; each text modality, and both across. Repeat.")
    ] = [],  # noqa: B006
    encoder: Annotated[list[str], typer.Option(help="Frozen encoder, mean-pooled. Repeat.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="train, dev, test or all.")] = "all",
    threshold: Annotated[float, typer.Option(help="Least cosine that counts as similar.")] = 0.9,
    target: Annotated[str | None, typer.Option(help="Target column (default: the first).")] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="A random subset of this size, by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of the subset.")] = 0,
    figures: Annotated[Path | None, typer.Option(help="Folder for the tolerance curves (scores only).")] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Judge pairs of texts by the cosine of their embeddings: labels give tables at a threshold, scores correlations.

    Examples:

        weft pairs mrpc --root data/MRPC --encoder hf:bert-base-uncased --model runs/pairs/lightcrl --split test

        weft pairs stsb --root data/STS-B --model runs/pairs/lightcrl --split dev --figures figures
    """
    import numpy as np

    from weft.cli.aligned import column, load_aligner, rows_of
    from weft.cli.output import say, write_json, write_table
    from weft.cli.source import read_source
    from weft.errors import UserError, some
    from weft.tasks.pairs import pair_metrics, pair_scores
    from weft.tasks.similarity import similarity_metrics, tolerance_figure

    dataset = read_source(source, root, data)
    sides = [name for name, modality in dataset.modalities.items() if modality.kind == "text"]
    if len(sides) != 2:
        raise UserError(
            "pairs are two text modalities", f"{some(sides) or 'none'}", "use a data set such as mrpc, stsb"
        )
    if not model and not encoder:
        raise UserError("nothing embeds the texts", "no --model and no --encoder", "name at least one")
    aligners = {folder: load_aligner(folder) for folder in model}
    name, chosen = column(dataset.targets, target), rows_of(dataset, split, *aligners.values())
    chosen = chosen[np.all([dataset.modalities[side].presence[chosen] for side in sides], axis=0)]
    if rows is not None and rows < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, rows, replace=False))
    texts = [[dataset.modalities[side].values[i] for i in chosen] for side in sides]
    gold = dataset.targets[name][chosen]
    scores = {who: pair_scores(a, b) for who, a, b in _systems(aligners, encoder, *texts)}
    graded = dataset.task == "regression"
    result = {
        who: similarity_metrics(s, gold) if graded else pair_metrics(s, gold, threshold) for who, s in scores.items()
    }
    if figures is not None and graded:
        say(f"figure: {tolerance_figure(scores, gold, figures)}")
    if json:
        write_json({"rows": len(chosen), "threshold": None if graded else threshold, "systems": result})
        return
    table = [{"system": who, **{k: f"{v:.3f}" for k, v in row.items()}} for who, row in result.items()]
    write_table(
        f"{source}, {split}, {len(chosen)} pairs" + ("" if graded else f", similar iff cosine >= {threshold}"), table
    )


def _systems(
    models: dict[Path, Any], encoders: list[str], first: list[str], second: list[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every system's name and its vectors of both sides."""
    from weft.encoders import create_encoder
    from weft.encoders.pooled import pooled_vectors
    from weft.errors import UserError
    from weft.training.embed import embed_values

    both = [*first, *second]
    for spec in encoders:
        vectors = pooled_vectors(create_encoder(spec, "text"), both)
        yield f"{spec.rstrip('/').rpartition('/')[2]}, mean", vectors[: len(first)], vectors[len(first) :]
    for folder, aligner in models.items():
        names = [n for n in aligner.names if (aligner.encoders or {}).get(n, {}).get("kind") == "text"]
        if not names:
            raise UserError(
                "the model has no text modality", str(folder), "train one on text pairs: weft mine, weft fit"
            )
        side: dict[str, Any] = {name: embed_values(aligner, name, both) for name in names}
        for a in names:
            for b in names[names.index(a) :]:
                yield f"{folder.name}: {a} x {b}", side[a][: len(first)], side[b][len(first) :]
