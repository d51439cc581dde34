"""``weft encoders``: which encoder to take for each modality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Json, Quiet, Root, repeated


def encoders(
    source: Annotated[str, typer.Argument(help="A YAML of `weft init`, or a data set (weft list --kind dataset).")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the features (default runs/SOURCE/encoders).")
    ] = None,
    root: Root = None,
    data: Data = [],
    encoder: Annotated[
        list[str], repeated("--encoder", "One more to try, e.g. image=hf:facebook/dinov2-small.", "MODALITY=NAME")
    ] = [],
    rows: Annotated[int, typer.Option(min=50, help="Look at so many rows at most.")] = 2000,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare encoders on training and dev rows: a linear probe of the target, and neighbours shared across modalities.

    The built-in ones of each kind are tried, the YAML's, and those of --encoder.

    Examples:

        weft encoders weft.yaml

        weft encoders shapes --data rows=400

        weft encoders weft.yaml --encoder photo=hf:facebook/dinov2-small --encoder photo=hf:google/vit-base-patch16-224
    """
    from weft.cli.output import say, write_json, write_table
    from weft.cli.source import read_source, settings
    from weft.compare.encoders import Spec, candidates_of, compare_encoders
    from weft.data import load_config
    from weft.data.kinds import kind_named

    dataset = read_source(source, root, data, "skip")
    chosen: dict[str, list[Spec]] = {}
    if source.endswith((".yaml", ".yml")):
        modalities = load_config(source).modalities
        chosen = {name: [(m.encoder, m.options)] for name, m in modalities.items() if m.encoder is not None}
    for pair in encoder:
        for name, spec in settings([pair], "encoder").items():
            chosen.setdefault(name, []).append((spec, {}))
    folder = out or Path("runs") / Path(source).stem / "encoders"
    tries = candidates_of(dataset, chosen)
    report = compare_encoders(dataset, tries, folder, rows=rows, progress=not (quiet or json))
    if json:
        write_json(report)
        return
    lines = []
    for one in report.candidates:
        near = ", ".join(f"{other} {share:.3f}" for other, share in (one.neighbours or {}).items())
        like = " =" if one.tied and not one.taken else ""
        known = {
            "modality": one.modality,
            "encoder": ("* " if one.taken else "") + one.encoder,
            "width": one.width or "",
            "values/s": f"{one.per_second:.0f}" if one.per_second else "",
            report.metric or "probe": "" if one.score is None else f"{one.score:.3f}{like}",
            "neighbours shared with": near and f"{near} (by chance {one.chance:.3f})",
        }
        lines.append(known if one.error is None else {**known, "neighbours shared with": f"not tried: {one.error}"})
    write_table(f"encoders on {report.rows} training and dev rows (* to take, = not told apart from the best)", lines)
    print(report.sentence)
    for name, modality in dataset.modalities.items():
        better = [spec for spec in kind_named(modality.kind).better if spec not in {s for s, _ in tries[name]}]
        if better:
            say(f"usually better, where it can be had: --encoder {name}={better[0]}")
