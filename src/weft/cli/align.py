"""``weft align``: which aligner brings the modalities together best, by how much, at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Encoders, Json, Quiet, Root, Source, StoreFolder, out_option, repeated


def align(
    source: Source,
    out: Annotated[Path | None, out_option("Result folder (default runs/SOURCE/align).")] = None,
    aligners: Annotated[
        str | None,
        typer.Option(help="Comma-separated names (weft list --kind aligner; default: five that suit most)."),
    ] = None,
    variant: Annotated[
        list[str],
        repeated(
            "--variant",
            "Further row: an aligner with options; train (settings) and objective may stand beside them.",
            "NAME={aligner: ..., OPTION: VALUE}",
        ),
    ] = [],
    seeds: Annotated[int, typer.Option(min=1, help="Random seeds per trained aligner.")] = 3,
    dim: Annotated[int, typer.Option(min=1, help="Maximum dimension of the shared space.")] = 256,
    permutations: Annotated[int, typer.Option(min=0, help="Permutations in the test of alignment.")] = 99,
    curve: Annotated[
        str | None, typer.Option(help="Learning curve: comma-separated numbers of training groups (photos, say).")
    ] = None,
    setting: Annotated[list[str], repeated("--set", "Training setting.")] = [],
    root: Root = None,
    data: Data = [],
    encoder: Encoders = [],
    store: StoreFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare aligners: one table of recalls with intervals and paired tests, one sentence, the winner kept.

    Killed comparisons resume. The winner, which may be an ensemble, is a folder for `weft search` and `weft evaluate`.

    Examples:

        weft align flickr8k --root data/flickr8k --seeds 5

        weft align runs/flickr8k/store --aligners whitened,two-tower,lightcrl --curve 100,200,400

        weft align runs/flickr8k/store --variant "narrow={aligner: whitened, width: 64}"
        --variant "mixed={aligner: two-tower, train: {per_group: all, mix: 1.0}}"
    """
    from weft.cli.output import say, write_json, write_table
    from weft.cli.source import open_store, settings
    from weft.compare.aligners import DEFAULT, AlignConfig, compare_aligners, shown, shown_curve

    progress = not (quiet or json)
    features = open_store(source, root, data, encoder, store, progress=progress, aligned=True)
    folder = out or Path("runs") / Path(source).stem / "align"
    names = tuple(aligners.split(",")) if aligners else DEFAULT
    variants = settings(variant, "variant")
    config = AlignConfig(names, seeds, dim, settings(setting, "set"), permutations, numbers(curve), variants)
    result = compare_aligners(features, config, folder, progress=progress)
    if json:
        write_json(result)
        return
    write_table(f"Sums of recalls, percent ({source})", shown(result["table"]))
    if "curve" in result:
        write_table("By number of training groups", shown_curve(result["curve"]))
    say(result["sentence"])
    say(f"winner: {result['winner']}")


def numbers(text: str | None) -> tuple[int, ...]:
    """Whole numbers, comma-separated.

    Raises:
        UserError: a word that is no whole number.
    """
    from weft.errors import UserError

    try:
        return tuple(int(part) for part in (text or "").split(",") if part)
    except ValueError as error:
        raise UserError("--curve has whole numbers", str(text), "--curve 100,200,400") from error
