"""What ``fit``, ``predict``, ``evaluate`` and ``compare`` do with a system, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.source import repeated

if TYPE_CHECKING:
    from weft.compare import Comparison
    from weft.data import Dataset
    from weft.training.system import System

Name = Annotated[str, typer.Option("--system", help="A published whole network (weft list --kind system).")]
Judge = Annotated[list[str], repeated("--judge", "Option of a system's judge, e.g. space=...")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows per forward pass (systems).")]


def refuse(context: typer.Context, who: str, options: Sequence[str]) -> None:
    """A UserError where the command line has one of ``options``, which ``who`` does not read."""
    from weft.errors import UserError

    for one in context.command.params:
        given = context.get_parameter_source(str(one.name))
        if one.name in options and given is not None and given.name == "COMMANDLINE":
            raise UserError(f"{who} does not read {one.opts[0]}", f"{one.opts[0]} was given", "leave it out")


def read_rows(cls: type[System], source: str, root: Path | None, data: list[str]) -> Dataset:
    """Raw rows: the folder a system was published with, a YAML, or a named data set."""
    from weft.cli.source import read_source, settings
    from weft.data import load_dataset

    if cls.reader and not source.endswith((".yaml", ".yml")) and Path(source).is_dir():
        return cls.arranged(load_dataset(cls.reader, source, **settings(data, "data")))
    return cls.arranged(read_source(source, root, data))


def fit(
    name: str,
    source: str,
    out: Path | None,
    options: dict[str, Any],
    setting: dict[str, Any],
    root: Path | None,
    data: list[str],
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Train a system and write its folder."""
    from weft.cli.output import say, write_json
    from weft.data import make_splits
    from weft.training.system import systems
    from weft.training.system_rows import training_settings
    from weft.training.system_task import fit_system, make_system

    cls = systems.get(name)
    config = training_settings(cls, name, setting)
    rows = read_rows(cls, source, root, data)
    split = make_splits(rows)
    system = make_system(name, rows, split.train, seed=config.seed, **options)
    folder = out or Path("runs") / Path(source).stem / name
    history = fit_system(system, rows, split, config, folder, not (quiet or json))
    weights = sum(p.numel() for p in system.parameters() if p.requires_grad)
    counts = {part: len(r) for part, r in split._asdict().items()}
    if json:
        write_json({"folder": str(folder), "rows": counts, "weights": weights, **history.best})
        return
    score = f", dev score {history.best['dev_score']:.4f}" if "dev_score" in history.best else ""
    say(f"{name}: {weights:,} weights, epoch {history.best_epoch + 1} of {len(history.epochs)}{score}; model: {folder}")
    say(f"next: weft evaluate {folder} {source}")


def predict(
    system: System, dataset: Dataset, out: Path | None, split: str, *, batch_size: int | None, seed: int, json: bool
) -> None:
    """Write what a system says of rows: a file each, or one table."""
    import numpy as np

    from weft.cli.output import say, write_json
    from weft.files import writing
    from weft.models.outputs import TABLE, write_files, write_table
    from weft.models.seen import rows_for
    from weft.training.system_rows import on_device

    on_device(system)
    rows = rows_for(system.seen, dataset, split)
    ids = [dataset.ids[row] for row in rows]
    values = system.predictions(dataset, rows, batch_size=batch_size, seed=seed)
    if system.writes not in TABLE:
        place = out or Path("predictions")
        with writing(place):
            write_files(system.writes, place, ids, values)
        if json:
            write_json({"folder": str(place), "written": len(rows)})
        else:
            say(f"{len(rows)} predictions in {place}/")
        return
    judge: Any = system.make_judge() if system.writes == "label" else None
    columns = judge.decide(np.stack(list(values))) if judge is not None else {"prediction": list(values)}
    if json:
        write_json({"id": ids, **columns})
        return
    place = out or Path(TABLE[system.writes])
    with writing(place):
        write_table(system.writes, place, ids, columns, () if judge is None else judge.labels)
    say(f"{len(rows)} predictions in {place}")


def evaluate(
    system: System, dataset: Dataset, split: str, figures: Path | None, judge: dict[str, Any], *, batch_size: int | None
) -> tuple[int, dict[str, float]]:
    """How many rows, and their metrics."""
    from weft.models.seen import rows_for
    from weft.training.system_rows import on_device

    on_device(system)
    rows = rows_for(system.seen, dataset, split)
    return len(rows), system.evaluate(dataset, rows, figures, batch_size=batch_size, **judge)


def compare(
    name: str,
    source: str,
    folder: Path,
    variants: Sequence[str],
    given: tuple[dict[str, Any], ...],
    root: Path | None,
    data: list[str],
    *,
    seeds: int,
    folds: int | None,
    progress: bool,
) -> Comparison:
    """Compare variants of a system; ``given``: its options, the training settings, the judge's options."""
    from weft.compare.systems import compare_systems
    from weft.data import make_folds, make_splits
    from weft.training.system import systems
    from weft.training.system_rows import training_settings

    cls, (options, setting, judge) = systems.get(name), given
    config = training_settings(cls, name, setting)
    rows = read_rows(cls, source, root, data)
    splits = make_folds(rows, folds) if folds else [make_splits(rows)]
    shared: dict[str, Any] = {"options": options, "seeds": seeds, "config": config, "judge": judge}
    return compare_systems(name, rows, splits, variants_of(cls, variants), folder=folder, progress=progress, **shared)


def variants_of(cls: type[System], given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["fusion=concat", "fusion=rgb,width=16"]`` as options by name; without any, the system's own."""
    from weft.cli.source import settings

    if not given:
        return {name: dict(options) for name, options in cls.variants.items()} or {"system": {}}
    return {text: settings(text.split(","), "variant") for text in given}
