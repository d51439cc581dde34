"""``weft compare``: which modalities matter, which fusion wins, by how much, how sure, at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.source import Data, Encoders, Json, Modalities, Quiet, Root, Source, StoreFolder, out_option, repeated
from weft.cli.systems import Judge, Name

if TYPE_CHECKING:
    from weft.compare import Comparison

OPERATORS = (
    "fusions", "only", "without", "metric", "missing", "budget", "jobs", "on", "dim", "encoder", "modality", "store"
)  # fmt: skip


def compare(
    context: typer.Context,
    source: Source,
    out: Annotated[Path | None, out_option("Result folder (default runs/SOURCE/compare).")] = None,
    fusions: Annotated[
        str | None,
        typer.Option(help="Comma-separated names or patterns, late and hybrid too (default: all that suit the data)."),
    ] = None,
    only: Annotated[list[str], repeated("--only", "Methods to run: name, pattern or family.", "METHOD")] = [],
    without: Annotated[
        list[str], repeated("--without", "Methods to leave out, e.g. boosting, late, *token*.", "METHOD")
    ] = [],
    metric: Annotated[
        str | None, typer.Option(help="Metric to select and evaluate by, e.g. auc, balanced_accuracy, mae.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Random seeds per method.")] = 5,
    missing: Annotated[
        bool, typer.Option("--missing", help="Also evaluate with modalities missing; train networks to tolerate it.")
    ] = False,
    folds: Annotated[int | None, typer.Option(help="Cross-validation folds instead of one test set.")] = None,
    budget: Annotated[
        str, typer.Option(help="Time limit for everything, e.g. 90s, 20m, 2h, or none; cheap methods run first.")
    ] = "5m",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Parallel training processes (default: one per core, as memory allows).")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Run the jobs on Ray: ray, ray://HOST:PORT, auto; folders are shared.")
    ] = None,
    dim: Annotated[int, typer.Option(help="Dimension of the fused vector.")] = 128,
    setting: Annotated[list[str], repeated("--set", "Setting.")] = [],
    system: Name = "",
    option: Annotated[list[str], repeated("--option", "System option shared by all variants.")] = [],
    variant: Annotated[
        list[str],
        repeated("--variant", "Variant of a system; the first is the reference.", "KEY=VALUE,..."),
    ] = [],
    judge: Judge = [],
    root: Root = None,
    data: Data = [],
    encoder: Encoders = [],
    modality: Modalities = [],
    store: StoreFolder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare fusions with single modalities and classical baselines; one verdict, one table, one HTML report.

    Killed comparisons resume; more budget goes on from there. The winner is a folder that `weft predict` and
    `weft.load_model` read.

    Examples:

        weft compare shapes --seeds 3

        weft compare weft.yaml --budget 20m --metric auc

        weft compare weft.yaml --without boosting --without late

        weft compare weft.yaml --missing

        weft compare runs/shapes/store --fusions "gated,*attention*" --folds 5 --json

        weft compare data/NJU2K --system rgbd-saliency --option backbone=microsoft/resnet-50 --option freeze=true
        --variant fusion=mutualformer --variant fusion=concat --folds 5
    """
    import time

    started = time.monotonic()
    from weft.cli import systems
    from weft.cli.output import say, write_json
    from weft.cli.source import open_store, settings
    from weft.compare import CompareConfig
    from weft.compare import compare as run
    from weft.compare.methods import possible, refuse_unknown
    from weft.compare.schedule import processes
    from weft.data import load_config
    from weft.files import ask_folder
    from weft.report import render_terminal, write_report

    progress = not (quiet or json)
    folder = out or Path("runs") / Path(source).stem / (f"{system}-compare" if system else "compare")
    if out is not None:
        ask_folder(out)
    if system:
        systems.refuse(context, f"the system {system!r}", OPERATORS)
        given = (settings(option, "option"), settings(setting, "set"), settings(judge, "judge"))
        how: dict[str, Any] = {"seeds": seeds, "folds": folds, "progress": progress}
        comparison: Comparison = systems.compare(system, source, folder, variant, given, root, data, **how)
    else:
        systems.refuse(context, "a comparison without --system", ("option", "variant", "judge"))
        asked = {"fusions": fusions.split(",") if fusions else None, "folds": folds, "metric": metric, "on": on}
        config = CompareConfig(
            seeds=seeds,
            dim=dim,
            jobs=jobs or 1,
            budget=None if budget == "none" else budget,
            only=only,
            without=without,
            missing=missing,
            **{k: v for k, v in asked.items() if v is not None},
            **settings(setting, "set"),
        )
        if source.endswith((".yaml", ".yml")):  # words are wrong before anything is read
            refuse_unknown(possible(list(load_config(source).modalities), config), config)
        features = open_store(source, root, data, encoder, store, progress=progress, folds=folds)
        if modality:
            features = features.subset(modality)
        config = config.model_copy(update={"jobs": jobs or processes(features)})
        comparison = run(features, config, folder, progress=progress, started=started)
    write_report(comparison, folder)
    if json:
        write_json(comparison.to_dict())
    else:
        render_terminal(comparison)
        say(f"report: {folder / 'report.html'}; winner: {folder / 'winner'}")
