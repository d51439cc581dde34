"""``weft saliency``: RGB-D salient object detection, from photos with depth to maps and their metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.source import Json, Quiet

if TYPE_CHECKING:
    import numpy as np

    from weft.data.rgbd_saliency import RgbdSaliency

Root = Annotated[Path, typer.Argument(help="RGB/, depth/, GT/ and train.txt, test.txt; or a folder of several such.")]
Near = Annotated[
    list[str],
    typer.Option("--near", help="How near is stored in the depth: bright or dark; of one set: SET=dark. Repeat."),
]
Part = Annotated[str, typer.Option("--split", help="train, dev, test or all.")]
Freeze = Annotated[bool, typer.Option("--freeze", help="Train only what follows the backbones, on their kept maps.")]
Seed = Annotated[int, typer.Option(help="Of the rows held out of train.txt for the choice of the epoch.")]

FUSIONS = ["mutualformer", "attention", "concat", "rgb", "depth"]

verbs = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="RGB-D salient object detection: fit, predict, evaluate, compare.",
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(verbs, name="saliency")


@verbs.command()
def fit(
    root: Root,
    backbone: Annotated[str, typer.Option(help="A transformers vision model: hub name or folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")] = Path("runs/saliency"),
    fusion: Annotated[str, typer.Option(help="mutualformer, attention, concat, rgb or depth.")] = "mutualformer",
    size: Annotated[int, typer.Option(help="Side of the square the network sees, in pixels.")] = 320,
    width: Annotated[int, typer.Option(help="Channels of the fused maps and the decoder.")] = 64,
    stride: Annotated[list[int], typer.Option(help="Level with a fusion block: 4, 8, 16 or 32. Repeat.")] = [32, 16],  # noqa: B006
    option: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="Option of the block, e.g. alpha=0.4. Repeat.")
    ] = [],  # noqa: B006
    freeze: Freeze = False,
    focal: Annotated[float, typer.Option(help="Weight of the focal regularisation.")] = 0.3,
    augment: Annotated[bool, typer.Option(help="Flip and cut training images (frozen backbones: only flip).")] = True,
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Training setting, e.g. epochs=50. Repeat.")
    ] = [],  # noqa: B006
    near: Near = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a saliency network; killed runs resume exactly. Without dev rows, some are held out of the training rows.

    Example:

        weft saliency fit data/NJU2K --backbone microsoft/resnet-50 -o runs/nju2k --set epochs=50 --set batch_size=11
    """
    from weft.cli.output import say, write_json
    from weft.cli.source import settings
    from weft.data import make_splits
    from weft.training.config import TrainConfig
    from weft.training.saliency import SaliencyModel, fit_saliency

    data = _read(root, near, masks=True)
    config = TrainConfig.of({"lr": 1e-4, "batch_size": 11, **settings(setting, "set")})
    shape: dict[str, Any] = {"width": width, "strides": tuple(stride), "block": settings(option, "option")}
    model = SaliencyModel(backbone, size=size, seed=config.seed, fusion=fusion, freeze=freeze, **shape)
    split = make_splits(data, seed=seed)
    progress = not (quiet or json)
    history = fit_saliency(model, data, split, config, out, progress, augment=augment, focal_weight=focal)
    figures = {"folder": str(out), "rows": [len(part) for part in split], **history.best}
    if json:
        write_json(figures)
    else:
        say(f"best epoch {history.best_epoch + 1}, dev S-measure {history.best['dev_score']:.4f}, model: {out}")


@verbs.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    root: Root,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the maps go, one PNG per row.")] = Path("maps"),
    split: Part = "test",
    near: Near = [],  # noqa: B006
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(help="Images of a forward pass.", min=1)] = 8,
    json: Json = False,
) -> None:
    """Write saliency maps as 8-bit PNG, 255 where the image stands out, at the size of the mask or photo.

    Example:

        weft saliency predict runs/nju2k data/SIP -o maps/SIP --split all
    """
    import numpy as np
    import torch
    from PIL import Image

    from weft.cli.output import say, write_json
    from weft.training.saliency import SaliencyModel

    data = _read(root, near, masks=False)
    rows = _rows(data, split, seed)
    network = SaliencyModel.from_pretrained(model).to("cuda" if torch.cuda.is_available() else "cpu")
    for row, values in network.predict(data, rows, batch_size):
        path = out / f"{data.ids[row]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(values * 255).astype(np.uint8)).save(path)
    if json:
        write_json({"folder": str(out), "maps": len(rows)})
    else:
        say(f"{len(rows)} maps in {out}. Next: weft saliency evaluate {out} {root} --split {split}")


@verbs.command()
def evaluate(
    maps: Annotated[Path, typer.Argument(help="Folder of maps, by `weft saliency predict` or anybody's.")],
    root: Root,
    split: Part = "test",
    figure: Annotated[
        Path | None, typer.Option(help="Draw the best, the worst and some between, with --near as given.")
    ] = None,
    near: Near = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """S-measure, maximal F and E, and mean absolute error of maps; a map of another size than its mask is resized.

    Example:

        weft saliency evaluate maps/SIP data/SIP --split all --figure sip.png
    """
    from weft.cli.output import write_json, write_table
    from weft.data.files import read_grey
    from weft.data.rgbd_saliency import resized
    from weft.errors import UserError, some
    from weft.tasks.saliency import score_map, summarise

    data = _read(root, near, masks=True)
    rows = _rows(data, split, seed)
    gone = [data.ids[row] for row in rows if not (maps / f"{data.ids[row]}.png").is_file()]
    if gone:
        raise UserError(
            "every row has a map of its name",
            f"{len(gone)} of {len(rows)} rows have none in {maps}: {some(gone)}",
            "choose the split that was predicted, or predict again",
        )

    def read(row: int) -> np.ndarray:
        values = read_grey(maps / f"{data.ids[row]}.png", f"map of row {data.ids[row]!r}") / 255
        return resized(values, data.mask(row).shape)

    scores = [score_map(read(row), data.mask(row)) for row in rows]
    figures = summarise(scores)
    if figure is not None:
        from weft.report.saliency import draw_maps, spread

        chosen = spread([score.s for score in scores])
        shown = [int(rows[i]) for i in chosen]
        maps_of, s_of = [read(row) for row in shown], [scores[i].s for i in chosen]
        draw_maps(data, shown, {"prediction": maps_of}, {"prediction": s_of}, figure)
    if json:
        write_json({"rows": len(rows), **figures})
    else:
        table = [{"metric": name, "value": f"{value:.4f}"} for name, value in figures.items()]
        write_table(f"{maps.name} on {root.name}, {split}, {len(rows)} images", table)


@verbs.command()
def compare(
    root: Root,
    backbone: Annotated[str, typer.Option(help="A transformers vision model: hub name or folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Maps, jobs and comparison.json.")] = Path("runs/saliency"),
    fusion: Annotated[list[str], typer.Option(help="The first is compared with each other one. Repeat.")] = FUSIONS,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every fusion in every fold.")] = 3,
    folds: Annotated[int | None, typer.Option(help="Cross-validation folds instead of test.txt.")] = None,
    scenes: Annotated[
        Path | None, typer.Option(help="Text file, ids of one scene per line: a scene stays in one fold, and together.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the square the network sees, in pixels.")] = 320,
    width: Annotated[int, typer.Option(help="Channels of the fused maps and the decoder.")] = 64,
    freeze: Freeze = False,
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Training setting, e.g. epochs=50. Repeat.")
    ] = [],  # noqa: B006
    near: Near = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fusions at equal backbone and budget, with paired tests by image; killed comparisons resume.

    Example:

        weft saliency compare data/NJU2K --backbone microsoft/resnet-50 --folds 5 --freeze -o runs/compare
    """
    from dataclasses import asdict, replace

    from weft.cli.output import write_json, write_table
    from weft.cli.source import settings
    from weft.compare.saliency import compare_saliency
    from weft.data import make_folds, make_splits
    from weft.files import write_json as keep_json
    from weft.training.config import TrainConfig

    data = _read(root, near, masks=True, scenes=scenes)
    splits = make_folds(data, folds, seed) if folds else [make_splits(replace(data, group=None), seed=seed)]
    config = TrainConfig.of({"lr": 1e-4, "batch_size": 11, **settings(setting, "set")})
    shared = {"backbone": backbone, "size": size, "width": width, "freeze": freeze}
    methods = {name: {"fusion": name} for name in fusion}
    progress = not (quiet or json)
    found = compare_saliency(data, splits, methods, seeds, config, out, model=shared, fit={}, progress=progress)
    keep_json(out / "comparison.json", asdict(found))
    if json:
        write_json(asdict(found))
        return
    table: list[dict[str, str]] = []
    for name, metrics in found.metrics.items():
        figures = {key: f"{sum(v) / seeds:.4f} ({min(v):.4f} to {max(v):.4f})" for key, v in metrics.items()}
        test = found.gains.get(name, {}).get("S")
        paired = "" if test is None else f"{-test['gain']:+.4f}, p {test['p_holm']:.4f}"
        table.append({"fusion": name, **figures, f"S against {fusion[0]}": paired})
    write_table(f"{root.name}: {len(found.rows)} images, {len(splits)} folds, {seeds} seeds (lowest to highest)", table)


def _read(root: Path, near: list[str], masks: bool, scenes: Path | None = None) -> RgbdSaliency:
    from weft.cli.source import settings
    from weft.data.rgbd_saliency import read_rgbd_saliency

    named = settings([value for value in near if "=" in value], "near")
    plain = [value for value in near if "=" not in value]
    stored = plain[0] if plain and not named else named
    return read_rgbd_saliency(root, near=stored, masks=masks, scenes=scenes)


def _rows(data: RgbdSaliency, split: str, seed: int) -> np.ndarray:
    """The rows of a part, as ``fit`` divided them; all of a set without lists is its own test part."""
    import numpy as np

    from weft.data import make_splits
    from weft.errors import UserError, did_you_mean

    if split == "all":
        return np.arange(len(data))
    if split not in ("train", "dev", "test"):
        raise UserError("unknown part", split, did_you_mean(split, ["train", "dev", "test", "all"], "parts"))
    if data.split is not None and split == "test":
        rows = np.flatnonzero(data.split == "test")
    else:
        rows = np.asarray(getattr(make_splits(data, seed=seed), split))
    if not len(rows):
        raise UserError(f"{data.name} has no {split} rows", "0 rows", "choose another --split, or --split all")
    return rows
