"""``weft probe``: what can be read off frozen embeddings, and what fine-tuning adds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from weft.cli.aligned import Model
from weft.cli.source import Data, Json, Quiet, Root, Source

if TYPE_CHECKING:
    from weft.data import Dataset
    from weft.store import Store
    from weft.training import AlignedModel
    from weft.training.towers import RawRows

HEADS = ("official", "linear", "sklearn", "fine-tune", "fine-tune-all")


def add_to(app: typer.Typer) -> None:
    app.command("probe")(probe)


def probe(
    model: Model,
    source: Source,
    head: Annotated[
        str,
        typer.Option(
            help="official (two affine layers), linear, sklearn; fine-tune (the aligner too), fine-tune-all (the "
            "backbone too)."
        ),
    ] = "official,linear,sklearn",
    hidden: Annotated[
        int, typer.Option(help="Width of the official head: 128 for CIFAR-100, 256 for Tiny ImageNet.")
    ] = 128,
    epochs: Annotated[
        str, typer.Option(help="When accuracy is measured; the last one ends training.")
    ] = "20,40,60,80,100",
    lr: Annotated[float, typer.Option(help="Learning rate, of SGD for heads and of AdamW for fine-tuning.")] = 1e-3,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    features: Annotated[
        Literal["aligned", "frozen"], typer.Option(help="The aligner's embedding, or its backbone's mean.")
    ] = "aligned",
    target: Annotated[str | None, typer.Option(help="Target column (default: the first).")] = None,
    modality: Annotated[str | None, typer.Option(help="Which modality (default: the image).")] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels that fine-tune-all resizes images to (default: the model's)."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Store of the encoded rows.")] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train heads on an aligner's embeddings of one modality (rows of train and dev) and measure them on test.

    On the data that the aligner was trained on, these are its own parts. Data that are new to it are split by their
    column, or, without one, anew: 70 % to train, 15 % each to dev and test.

    The original calls its head-only protocol fine-tuning; `--head official` is that. `--head fine-tune` trains the
    aligner's own encoder along, on the backbone's cached tokens; `--head fine-tune-all` trains the backbone as well,
    from raw images: hundreds of times as costly.

    Examples:

        weft probe runs/coco/lightcrl cifar100 --root data/cifar100 --seeds 3

        weft probe runs/coco/lightcrl runs/cifar10/store --head fine-tune --epochs 1,2,5,10

        weft probe runs/coco/lightcrl cifar10 --root data/cifar10 --head fine-tune-all --lr 0.0001 --epochs 1,2,3
    """
    import numpy as np

    from weft.cli.aligned import column, load_aligner, modality_of, open_rows, rows_of, values_of
    from weft.cli.output import write_json, write_table
    from weft.cli.source import settings
    from weft.data import Dataset, make_splits
    from weft.errors import UserError, did_you_mean
    from weft.store import encode
    from weft.training.embed import pooled_outputs
    from weft.training.probe import fine_tune, fit_probe, sklearn_probe
    from weft.training.raw import make_encoder
    from weft.training.towers import TowerModel

    heads = [kind.strip() for kind in head.split(",")]
    unknown = [kind for kind in heads if kind not in HEADS]
    if unknown:
        raise UserError("unknown head", unknown[0], did_you_mean(unknown[0], HEADS, "heads"))
    show = not (quiet or json)
    aligner = load_aligner(model)
    name = modality_of(aligner, "image", modality)
    rows: Any = open_rows(aligner, source, root, data, name)
    raw: Any = rows_to_train(aligner, name, rows, size) if "fine-tune-all" in heads else None
    if isinstance(rows, Dataset) and heads != ["fine-tune-all"]:
        made = make_encoder(name, (aligner.encoders or {})[name])
        folder = out or Path("runs") / Path(source).stem / "store"
        rows = encode(rows, {name: made}, folder, progress=show)
    label = column(rows.targets, target)
    foreign = aligner.seen is not None and not aligner.seen.part_of(rows).any()
    split = make_splits(rows)._asdict() if foreign else {p: rows_of(rows, p, aligner) for p in ("train", "dev", "test")}
    there = values_of(raw.dataset if heads == ["fine-tune-all"] else rows, name)[0] >= 0
    train = np.sort(np.concatenate([split["train"], split["dev"]]))
    classes, codes = np.unique(rows.targets[label], return_inverse=True)
    parts = {"train": train[there[train]], "test": split["test"][there[split["test"]]]}
    train, test = parts.values()
    coded = {part: (index, codes[index]) for part, index in parts.items()}
    vectors = {}
    if set(heads) - {"fine-tune", "fine-tune-all"}:
        for part, index in parts.items():
            aligned = features == "aligned"
            vectors[part] = pooled_outputs(aligner, rows, name, index) if aligned else rows.pooled(index)[name]
    when = settings([f"epochs=[{epochs}]"], "epochs")["epochs"]
    result: dict[str, list[Any]] = {}
    fixed = {part: (vectors[part], coded[part][1]) for part in vectors}
    for kind in heads:
        result[kind] = []
        for seed in range(1 if kind == "sklearn" else seeds):
            if kind in ("fine-tune", "fine-tune-all"):
                trained: tuple[Any, Any] = (
                    (aligner, rows) if kind == "fine-tune" else (TowerModel.of(aligner, raw.towers), raw)
                )
                curve = fine_tune(
                    *trained, name, coded["train"], coded["test"], epochs=when, lr=lr, seed=seed, progress=show
                )
            elif kind == "sklearn":
                curve = {0: {"top-1": sklearn_probe(fixed["train"], fixed["test"])}}
            else:
                shape: Literal["official", "linear"] = "official" if kind == "official" else "linear"
                curve = fit_probe(
                    fixed["train"], fixed["test"], head=shape, hidden=hidden, epochs=when, lr=lr, seed=seed
                )
            result[kind].append(curve)
    if json:
        write_json({"train": len(train), "test": len(test), "classes": classes, "curves": result})
        return
    table = []
    for kind, runs in result.items():
        for epoch in runs[0]:
            top = 100 * np.array([run[epoch]["top-1"] for run in runs])
            spread = f"{top.std(ddof=1):.2f}" if len(top) > 1 else ""
            table.append({"head": kind, "epoch": epoch or "", "top-1": f"{top.mean():.2f}", "sd": spread})
    write_table(f"{features} {name} features of {source}: {len(train)} train, {len(test)} test rows, percent", table)


def rows_to_train(aligner: AlignedModel, name: str, rows: Store | Dataset, size: int | None) -> RawRows:
    """Raw rows under the encoder that the aligner was trained on, to be trained itself.

    Raises:
        UserError: the rows are a store's, or the encoder has no weights to train.
    """
    from weft.data import Dataset
    from weft.encoders import create_encoder
    from weft.encoders.tower import Tower
    from weft.errors import UserError
    from weft.training.raw import make_encoder
    from weft.training.towers import RawRows

    if not isinstance(rows, Dataset):
        raise UserError("fine-tune-all trains on raw images", "a store of frozen features", "give the data set")
    spec = (aligner.encoders or {})[name]
    encoder = make_encoder(name, spec)
    if size is not None:
        encoder = create_encoder(spec["spec"], spec["kind"], **{**spec["options"], "size": size})
    return RawRows(rows, {name: Tower(encoder)})
