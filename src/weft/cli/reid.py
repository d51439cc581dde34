"""``weft reid``: re-identification across spectra, from a set with identities and cameras to its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.source import Data, Json, Quiet, Root

if TYPE_CHECKING:
    from weft.data import Dataset

Source = Annotated[
    str, typer.Argument(help="spectra, rgbn300, rgbnt100, rgbnt201, or a YAML with targets identity, camera and part.")
]

verbs = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Re-identification across spectra: fit, evaluate."
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(verbs, name="reid")


@verbs.command()
def fit(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")] = Path("runs/reid"),
    encoder: Annotated[str, typer.Option(help="A transformers ViT, one copy per spectrum: hub name or folder.")] = "",
    config: Annotated[
        list[str],
        typer.Option(
            "--config", metavar="KEY=VALUE", help="Instead: a ViT with random weights, e.g. hidden_size=64. Repeat."
        ),
    ] = [],  # noqa: B006
    fusion: Annotated[
        str, typer.Option(help="mutualformer, attention, concat, cam, or one spectrum by its name.")
    ] = "mutualformer",
    size: Annotated[tuple[int, int], typer.Option(help="Height and width the network sees, in pixels.")] = (256, 256),
    option: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="Option of the block, e.g. heads=12. Repeat.")
    ] = [],  # noqa: B006
    per_identity: Annotated[int, typer.Option(help="Images of each identity in a batch.")] = 4,
    margin: Annotated[float | None, typer.Option(help="Of the triplet loss; soft without.")] = None,
    smoothing: Annotated[float, typer.Option(help="Of the identity labels.")] = 0.0,
    augment: Annotated[bool, typer.Option(help="Mirror, shift and erase in training images.")] = True,
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Training setting, e.g. epochs=120. Repeat.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Of the identities held out for the choice of the epoch.")] = 0,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on the identities of the train part, some held out to choose the epoch; killed runs resume exactly.

    Examples:

        weft reid fit spectra --config hidden_size=64 --config patch_size=8 --config num_hidden_layers=2 --size 32 32

        weft reid fit rgbnt100 --root data/RGBNT100 --encoder google/vit-base-patch16-224 -o runs/rgbnt100
    """
    import numpy as np

    from weft.cli.output import say, write_json
    from weft.cli.source import settings
    from weft.data import make_splits
    from weft.errors import UserError
    from weft.training.config import TrainConfig
    from weft.training.reid import ReIdModel, fit_reid

    if bool(encoder) == bool(config):
        raise UserError(
            "the tokens come from a ViT",
            f"encoder={encoder or None}, {len(config)} settings by --config",
            "give --encoder, or --config for one with random weights",
        )
    rows = _read(source, root, data)
    training = TrainConfig.of({"lr": 1e-4, "batch_size": 44, **settings(setting, "set")})
    split = make_splits(rows, seed=seed)
    vit: Any = encoder or {"model_type": "vit", **settings(config, "config")}
    spectra = [name for name, modality in rows.modalities.items() if modality.kind == "image"]
    classes = len(np.unique(rows.targets["identity"][split.train]))
    shape: dict[str, Any] = {"size": size, "fusion": fusion, "block": settings(option, "option")}
    model = ReIdModel(vit, spectra, classes, seed=training.seed, **shape)
    losses: dict[str, Any] = {"per_identity": per_identity, "margin": margin, "smoothing": smoothing}
    history = fit_reid(model, rows, split, training, out, not (quiet or json), augment=augment, **losses)
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    figures = {"folder": str(out), "identities": classes, "weights": weights, **history.best}
    if json:
        write_json(figures)
    else:
        say(
            f"best epoch {history.best_epoch + 1}, dev mAP {history.best['dev_score']:.4f}, model: {out}. "
            f"Next: weft reid evaluate {out} {source}"
        )


@verbs.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    source: Source,
    batch_size: Annotated[int, typer.Option(help="Images of a forward pass.", min=1)] = 64,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Every query searches the gallery, the images of its own identity by its own camera left out: mAP and CMC.

    A query whose identity no other camera shows is left out of the means, and counted.

    Example:

        weft reid evaluate runs/reid spectra
    """
    import torch

    from weft.cli.output import write_json, write_table
    from weft.training.reid import ReIdModel

    network = ReIdModel.from_pretrained(model).to("cuda" if torch.cuda.is_available() else "cpu")
    figures = network.evaluate(_read(source, root, data), batch_size)
    if json:
        write_json(figures)
        return
    counts = {name: figures.pop(name) for name in ("queries", "gallery", "left out")}
    table = [{"metric": name, "value": f"{value:.4f}"} for name, value in figures.items()]
    table += [{"metric": name, "value": f"{value:.0f}"} for name, value in counts.items()]
    write_table(f"{model.name} on {source}", table)


def _read(source: str, root: Path | None, data: list[str]) -> Dataset:
    """A set of re-identification; no identity crosses a split, whatever its table says of groups."""
    from dataclasses import replace

    from weft.cli.source import read_source
    from weft.training.reid import check_columns

    rows = read_source(source, root, data)
    check_columns(rows)
    return replace(rows, group=rows.targets["identity"].astype(str))
