"""``weft generate``: pictures from captions, from pairs to a generator, a grid and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from weft.cli.source import Data, Json, Quiet, Root, Source, StoreFolder

Model = Annotated[Path, typer.Argument(help="Model folder.")]

verbs = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Pictures from captions: fit, sample, evaluate."
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(verbs, name="generate")


@verbs.command()
def fit(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")] = Path("runs/generate"),
    words: Annotated[
        Literal["araf", "attention", "none"], typer.Option(help="How the words are asked between the up-blocks.")
    ] = "araf",
    size: Annotated[int, typer.Option(help="Side of the pictures, 4 times a power of two.")] = 64,
    base: Annotated[int, typer.Option(help="Channels of the last blocks; the published network has 32.")] = 32,
    longest: Annotated[int, typer.Option(help="Most tokens of a caption.")] = 64,
    option: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="noise, align_width, heads or gate. Repeat.")
    ] = [],  # noqa: B006
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Training setting, e.g. epochs=50. Repeat.")
    ] = [],  # noqa: B006
    text_encoder: Annotated[str, typer.Option(help="Frozen encoder of the captions; hf:<name or folder>.")] = "",
    root: Root = None,
    data: Data = [],  # noqa: B006
    store: StoreFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an adversarial generator on the training rows of image-caption pairs; killed runs resume exactly.

    Examples:

        weft generate fit shapes --data complete=true --base 4 --set epochs=10 --set batch_size=16

        weft generate fit cub --root data/birds --size 256 --text-encoder hf:sentence-transformers/all-MiniLM-L6-v2
    """
    from dataclasses import replace

    from weft.cli.output import say, write_json
    from weft.cli.source import read_source, settings
    from weft.data import make_splits
    from weft.encoders import create_encoder, default_encoder
    from weft.store import encode
    from weft.training.generation import GenerationConfig, build_generation, fit_generation
    from weft.training.image_pairs import modality_of

    progress = not (quiet or json)
    config = GenerationConfig.of(settings(setting, "set"))
    pairs = read_source(source, root, data)
    text = modality_of(pairs, "text")
    captions = replace(pairs, modalities={text: pairs.modalities[text]})
    encoder = create_encoder(text_encoder or default_encoder("text"), "text")
    features = encode(captions, {text: encoder}, store or out / "captions", progress=progress)
    options = {"words": words, "size": size, "base": base, "longest": longest, **settings(option, "option")}
    model = build_generation(features, seed=config.seed, **options)
    rows = make_splits(pairs).train
    history = fit_generation(model, pairs, features, rows, config, out, progress)
    if json:
        write_json({"folder": str(out), "rows": len(rows), "epochs": len(history.epochs), **history.best})
    else:
        say(f'{len(history.epochs)} epochs, model: {out}. Next: weft generate sample {out} "a caption"')


@verbs.command()
def sample(
    model: Model,
    captions: Annotated[list[str], typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The grid, a PNG.")] = Path("samples.png"),
    rows: Annotated[int, typer.Option(help="Pictures of each caption.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    json: Json = False,
) -> None:
    """Draw captions: a grid with one column per caption, and each picture as a PNG beside it.

    Example:

        weft generate sample runs/generate "a large red circle in the top left" "a small blue square in the top right"
    """
    import numpy as np
    from PIL import Image

    from weft.cli.output import say, write_json
    from weft.report.generation import draw_grid
    from weft.training.generation import GenerationModel

    loaded = GenerationModel.from_pretrained(model)
    read, places = loaded.read(captions), np.arange(len(captions))
    pictures = {f"noise {row}": loaded.draw(read, places, seed=seed + row) for row in range(rows)}
    draw_grid(captions, pictures, out)
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for row, images in enumerate(pictures.values()):
        for column, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{column}-{row}.png")
    if json:
        write_json({"grid": str(out), "pictures": str(folder), "captions": captions, "rows": rows})
    else:
        say(f"{rows} pictures of each caption: {out}, {folder}/")


@verbs.command()
def evaluate(
    model: Model,
    source: Source,
    space: Annotated[
        str, typer.Option(help="Image encoder whose pooled features distances are measured in; hf:<name or folder>.")
    ] = "",
    aligner: Annotated[
        Path | None, typer.Option(help="Model folder of `weft fit --fusion ALIGNER` on these pairs: R-precision.")
    ] = None,
    attribute: Annotated[
        list[str], typer.Option("--attribute", help="Target column that a reader of real images checks. Repeat.")
    ] = [],  # noqa: B006
    candidates: Annotated[int, typer.Option(help="Captions that R-precision chooses among.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of noise, reader and candidates.")] = 0,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Draw every test caption once and measure, beside what real images reach.

    Example:

        weft generate evaluate runs/generate shapes --data complete=true --attribute colour --attribute position
    """
    from weft.cli.output import write_json, write_table
    from weft.cli.source import read_source
    from weft.data import make_splits
    from weft.encoders import create_encoder, default_encoder
    from weft.training import AlignedModel
    from weft.training.generation import GenerationModel
    from weft.training.generation_metrics import evaluate_generation

    pairs = read_source(source, root, data)
    found = evaluate_generation(
        GenerationModel.from_pretrained(model),
        pairs,
        make_splits(pairs),
        encoder=create_encoder(space or default_encoder("image"), "image"),
        aligner=None if aligner is None else AlignedModel.from_pretrained(aligner),
        attributes=attribute,
        candidates=candidates,
        seed=seed,
    )
    if json:
        write_json(found)
        return
    table = [
        {"figure": name, **{kind: f"{flat(found[kind])[name]:.4g}" for kind in ("drawn", "real")}}
        for name in flat(found["drawn"])
    ]
    write_table(f"{found['rows']} drawn images; distances in the space of {found['space']['encoder']}", table)


def flat(figures: dict[str, float | dict[str, float]]) -> dict[str, float]:
    """``{"distance": {"kernel": 1}}`` as ``{"distance kernel": 1}``."""
    plain: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            plain |= {f"{name} {inner}": number for inner, number in value.items()}
        else:
            plain[name] = value
    return plain
