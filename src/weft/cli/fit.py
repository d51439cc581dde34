"""``weft fit``: train one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from weft.cli.source import Data, Encoders, Json, Modalities, Quiet, Root, Source, StoreFolder, out_option, repeated
from weft.cli.systems import Name

Settings = Annotated[list[str], repeated("--set", "Training setting, e.g. lr=0.001, epochs=50.")]

OPERATORS = (
    "fusion", "dim", "metric", "class_weights", "objective", "objective_option", "decision", "rule", "dropout",
    "train_towers", "encoder", "modality", "store",
)  # fmt: skip


def fit(
    context: typer.Context,
    source: Source,
    out: Annotated[Path | None, out_option("Model folder (default runs/SOURCE/FUSION).")] = None,
    fusion: Annotated[str, typer.Option(help="Operator (weft list), or an aligner for retrieval data.")] = "",
    dim: Annotated[int, typer.Option(help="Dimension of the fused vector.")] = 128,
    option: Annotated[list[str], repeated("--option", "Option of the operator or system.")] = [],
    metric: Annotated[str, typer.Option(help="Metric that selects the epoch (default: what suits the target).")] = "",
    class_weights: Annotated[str, typer.Option(help="'balanced': weight all classes equally in the loss.")] = "",
    objective: Annotated[str, typer.Option(help="Of an aligner (weft list --kind objective; default: its own).")] = "",
    objective_option: Annotated[list[str], repeated("--objective-option", "Option of the objective.")] = [],
    decision: Annotated[Literal["joint", "late", "hybrid"], typer.Option(help="Where modalities are fused.")] = "joint",
    rule: Annotated[
        str, typer.Option(help="Combination rule of late and hybrid fusion: mean, weighted (learned), product, ...")
    ] = "mean",
    dropout: Annotated[float, typer.Option(min=0, max=1, help="Before every layer of a head (fusions only).")] = 0.1,
    train_towers: Annotated[
        bool, typer.Option("--train-towers", help="Fine-tune the encoders (hf:...) with the aligner, from raw data.")
    ] = False,
    system: Name = "",
    setting: Settings = [],
    root: Root = None,
    data: Data = [],
    encoder: Encoders = [],
    modality: Modalities = [],
    store: StoreFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one fusion (for retrieval data, one aligner), or a system, into a folder. Killed runs resume exactly.

    Examples:

        weft fit shapes --fusion gated

        weft fit weft.yaml --fusion cross-attention --set lr=0.0003 --set epochs=30

        weft fit shapes --decision late --rule product

        weft fit flickr8k --root data/flickr8k --fusion two-tower

        weft fit flickr8k --root data/flickr8k --fusion cca --dim 64

        weft fit flickr8k --root data/flickr8k --fusion convirt --train-towers --encoder image=hf:microsoft/resnet-50
        --encoder text=hf:bert-base-uncased --set lr=0.0001 --set batch_size=256 --set chunk=32

        weft fit data/NJU2K --system rgbd-saliency --option backbone=microsoft/resnet-50 --set epochs=50
    """
    from weft.cli import systems
    from weft.cli.output import say, write_json, write_table
    from weft.cli.source import open_raw, open_store, settings
    from weft.files import ask_folder

    if system:
        systems.refuse(context, f"the system {system!r}", OPERATORS)
        options, training = settings(option, "option"), settings(setting, "set")
        systems.fit(system, source, out, options, training, root, data, json=json, quiet=quiet)
        return
    from weft.training import train_model

    progress = not (quiet or json)
    if out is not None:
        ask_folder(out)
    features: Any = (
        open_raw(source, root, data, encoder)
        if train_towers
        else open_store(source, root, data, encoder, store, progress=progress)
    )
    if modality:
        features = features.subset(modality)
    name = fusion or ("two-tower" if features.task == "retrieval" else "gated")
    title = name if decision == "joint" else decision if decision == "late" else f"{decision}-{name}"
    folder = out or Path("runs") / Path(source).stem / title
    result = train_model(
        features,
        name,
        folder,
        dim=dim,
        options=settings(option, "option"),
        decision=decision,
        rule=rule,
        dropout=dropout,
        metric=metric or None,
        class_weights=class_weights or None,
        objective=objective or None,
        objective_options=settings(objective_option, "objective-option"),
        config=settings(setting, "set"),
        progress=progress,
    )
    if json:
        write_json({"folder": str(folder), **result})
    else:
        metrics = next(iter(result.values()))
        rows = [{"metric": key, **{part: f"{result[part][key]:.4g}" for part in result}} for key in metrics]
        write_table(f"{title} on {source}", rows)
        aligner = "sum of recalls" in metrics
        say(f"model: {folder}. Next: weft {f'search {folder} DATA' if aligner else f'predict {folder} NEW_TABLE'}")
