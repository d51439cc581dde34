"""``weft probe``: what can be read off frozen embeddings, and what fine-tuning adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from weft.cli.aligned import Model
from weft.cli.source import Data, Json, Quiet, Root, Source

HEADS = ("official", "linear", "sklearn", "fine-tune")


def add_to(app: typer.Typer) -> None:
    app.command("probe")(probe)


def probe(
    model: Model,
    source: Source,
    head: Annotated[
        str, typer.Option(help="official (two affine layers), linear, sklearn, fine-tune (the aligner too).")
    ] = "official,linear,sklearn",
    hidden: Annotated[
        int, typer.Option(help="Width of the official head: 128 for CIFAR-100, 256 for Tiny ImageNet.")
    ] = 128,
    epochs: Annotated[
        str, typer.Option(help="When accuracy is measured; the last one ends training.")
    ] = "20,40,60,80,100",
    lr: Annotated[float, typer.Option(help="Learning rate, of SGD for heads and of AdamW for fine-tune.")] = 1e-3,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    features: Annotated[
        Literal["aligned", "frozen"], typer.Option(help="The aligner's embedding, or its backbone's mean.")
    ] = "aligned",
    target: Annotated[str | None, typer.Option(help="Target column (default: the first).")] = None,
    modality: Annotated[str | None, typer.Option(help="Which modality (default: the image).")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Store of the encoded rows.")] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train heads on an aligner's embeddings of one modality (rows of train and dev) and measure them on test.

    The original calls its head-only protocol fine-tuning; `--head official` is that, `--head fine-tune` trains the
    aligner's own encoder along, on the backbone's cached tokens.

    Examples:

        weft probe runs/coco/lightcrl cifar100 --root data/cifar100 --seeds 3

        weft probe runs/coco/lightcrl runs/cifar10/store --head fine-tune --epochs 1,2,5,10
    """
    import numpy as np

    from weft.cli.aligned import column, modality_of, open_rows
    from weft.cli.output import write_json, write_table
    from weft.cli.source import settings
    from weft.data import Dataset, make_splits
    from weft.errors import UserError, did_you_mean
    from weft.store import encode
    from weft.training import AlignedModel
    from weft.training.embed import pooled_outputs
    from weft.training.probe import fine_tune, fit_probe, sklearn_probe
    from weft.training.raw import make_encoder

    heads = [kind.strip() for kind in head.split(",")]
    unknown = [kind for kind in heads if kind not in HEADS]
    if unknown:
        raise UserError("unknown head", unknown[0], did_you_mean(unknown[0], HEADS, "heads"))
    aligner = AlignedModel.from_pretrained(model)
    name = modality_of(aligner, "image", modality)
    rows: Any = open_rows(aligner, source, root, data, name)
    if isinstance(rows, Dataset):
        made = make_encoder(name, (aligner.encoders or {})[name])
        folder = out or Path("runs") / Path(source).stem / "store"
        rows = encode(rows, {name: made}, folder, progress=not (quiet or json))
    split, label = make_splits(rows), column(rows.targets, target)
    train = np.sort(np.concatenate([split.train, split.dev]))
    classes, codes = np.unique(rows.targets[label], return_inverse=True)
    parts = {"train": train, "test": split.test}
    coded = {part: (index, codes[index]) for part, index in parts.items()}
    vectors = {}
    if heads != ["fine-tune"]:
        for part, index in parts.items():
            aligned = features == "aligned"
            vectors[part] = pooled_outputs(aligner, rows, name, index) if aligned else rows.pooled(index)[name]
    when = settings([f"epochs=[{epochs}]"], "epochs")["epochs"]
    result: dict[str, list[Any]] = {}
    fixed = {part: (vectors[part], coded[part][1]) for part in vectors}
    for kind in heads:
        result[kind] = []
        for seed in range(1 if kind == "sklearn" else seeds):
            if kind == "fine-tune":
                curve = fine_tune(aligner, rows, name, coded["train"], coded["test"], epochs=when, lr=lr, seed=seed)
            elif kind == "sklearn":
                curve = {0: {"top-1": sklearn_probe(fixed["train"], fixed["test"])}}
            else:
                shape: Literal["official", "linear"] = "official" if kind == "official" else "linear"
                curve = fit_probe(
                    fixed["train"], fixed["test"], head=shape, hidden=hidden, epochs=when, lr=lr, seed=seed
                )
            result[kind].append(curve)
    if json:
        write_json({"train": len(train), "test": len(split.test), "classes": classes, "curves": result})
        return
    table = []
    for kind, runs in result.items():
        for epoch in runs[0]:
            top = 100 * np.array([run[epoch]["top-1"] for run in runs])
            spread = f"{top.std(ddof=1):.2f}" if len(top) > 1 else ""
            table.append({"head": kind, "epoch": epoch or "", "top-1": f"{top.mean():.2f}", "sd": spread})
    write_table(
        f"{features} {name} features of {source}: {len(train)} train, {len(split.test)} test rows, percent", table
    )
