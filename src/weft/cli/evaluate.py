"""``weft evaluate``: a saved model on held-out rows, with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Model, Quiet, Root, is_store, repeated
from weft.cli.systems import BatchSize, Judge


def evaluate(
    model: Model,
    source: Annotated[
        str, typer.Argument(help="A store, a table of the same columns with the target, a YAML, or a data set.")
    ],
    split: Annotated[
        str,
        typer.Option(help="Rows by their role in training: train, dev, test (held out or new), new, all."),
    ] = "test",
    figures: Annotated[Path | None, typer.Option(help="Folder for the task's figures.")] = None,
    judge: Judge = [],
    system: Annotated[str, typer.Option(help="MODEL is a folder of predictions for this system.")] = "",
    protocol: Annotated[str, typer.Option(help="Published evaluation protocol (weft list --kind protocol).")] = "",
    option: Annotated[list[str], repeated("--option", "Option of the protocol.")] = [],
    batch_size: BatchSize = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Permutation importance of each modality, as a share of the metric.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Also by pattern of missing modalities, as they occur and simulated.")
    ] = False,
    root: Root = None,
    data: Data = [],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Metrics of a saved model on rows of a store, a table or a data set: by default those it was not trained on.

    Examples:

        weft evaluate runs/shapes/gated runs/shapes/store --figures figures

        weft evaluate runs/weft/compare/winner weft.yaml --json

        weft evaluate runs/weft/compare/winner later.csv

        weft evaluate runs/nju2k data/SIP --figures sip

        weft evaluate maps/SIP data/SIP --system rgbd-saliency --split all

        weft evaluate runs/coco/lightcrl cifar10 --root data/cifar10 --protocol zero-shot --option prompt=photo

        weft evaluate runs/coco/lightcrl cifar100 --root data/cifar100 --protocol probe --option seeds=3

        weft evaluate runs/pairs/lightcrl stsb --root data/STS-B --protocol pairs --split dev --figures figures
    """
    from weft.cli import systems
    from weft.cli.output import say, write_json, write_table
    from weft.cli.source import encoded, open_rows, read_new_rows, settings
    from weft.errors import UserError
    from weft.models.predictor import Predictor
    from weft.models.pretrained import load_model
    from weft.models.protocol import protocols
    from weft.models.rows import with_target
    from weft.models.seen import rows_for
    from weft.store import Features, Store
    from weft.tasks.metrics import why_undefined
    from weft.tasks.vqa_accuracy import metric_of_annotators
    from weft.training.system import System
    from weft.training.system import systems as registry
    from weft.training.system_rows import judge_files

    if option and not protocol:
        raise UserError("--option is for a protocol", option[0], "name one: --protocol (weft list --kind protocol)")
    if protocol:
        way = protocols.create(protocol, **settings(option, "option"))
        report = way.run(load_model(model), open_rows(source, root, data), split, figures, progress=not (quiet or json))
        if json:
            write_json(report.values)
        else:
            write_table(f"{source}: {report.title}", report.table)
        for file in report.files:
            say(f"figure: {file}")
        return
    options, patterns, why = settings(judge, "judge"), {}, ""
    loaded: Any = None if system else load_model(model)
    if (explain or missing) and not isinstance(loaded, Predictor):
        remedy = "leave them out, or give a model of weft fit or weft compare"
        raise UserError("--explain and --missing are for models that predict a target", str(model), remedy)
    if system:
        cls = registry.get(system)
        dataset = systems.read_rows(cls, source, root, data)
        count, metrics = judge_files(cls, Path(model), dataset, split, figures, options)
    elif isinstance(loaded, System):
        dataset = systems.read_rows(type(loaded), source, root, data)
        count, metrics = systems.evaluate(loaded, dataset, split, figures, options, batch_size=batch_size)
    else:
        features: Features
        if is_store(source):
            features = Store.open(source)
        else:
            features = encoded(loaded, read_new_rows(loaded.table, source, root, data), not (quiet or json))
        rows = rows_for(loaded.seen, features, split)
        if isinstance(loaded, Predictor):
            told = with_target(features, loaded.target_of(features), rows)
            if len(told) < len(rows):
                say(f"left out: {len(rows) - len(told)} of {len(rows)} rows, which have no target")
            rows, why = told, f" ({why_undefined(loaded.target_of(features)[told])})"
        count, metrics = len(rows), loaded.evaluate(features, rows, figures=figures)
        if "answers" in features.targets:
            metrics |= metric_of_annotators(features.targets, rows, loaded.predict(features, rows)["prediction"])
        if explain:
            from weft.models.explain import perceptual_scores

            scores = perceptual_scores(loaded, features, rows)
            metrics |= {f"perceptual score of {name}": value for name, value in scores.items()}
        if missing:
            from weft.models.missing import come_table, hidden_table, scores_as_they_come, scores_hidden

            come, made = scores_as_they_come(loaded, features, rows), scores_hidden(loaded, features, rows)
            patterns = {"as they come": come, "hidden": made}
    if json:
        write_json({"split": split, "rows": count, **metrics, **({"missing": patterns} if patterns else {})})
    else:
        write_table(
            f"{model} on {split} ({count} rows)",
            [{"metric": key, "value": "" if value != value else f"{value:.4f}"} for key, value in metrics.items()],
        )
        if lost := [name for name, value in metrics.items() if value != value]:
            say(f"not defined on these rows: {', '.join(lost)}{why}")
        if patterns:
            write_table(f"rows as they come: {loaded.task.primary}", come_table(come, loaded.task.primary))
            if made:
                write_table(f"modalities hidden: {loaded.task.primary}", hidden_table(made))
        if figures:
            say(f"figures: {figures}")
