"""What is compared on what: features and target checked, splits and tasks fixed, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.config import CompareConfig
from weft.compare.jobs import Setup
from weft.compare.ledger import Ledger
from weft.data import Split, make_folds, make_splits
from weft.errors import UserError, did_you_mean
from weft.files import sha256
from weft.models.rows import refuse_empty_rows
from weft.store import Features
from weft.tasks.base import Task, create_task, guess_task


def prepare(features: Features, config: CompareConfig, folder: Path) -> Setup:
    """Check the features and the target, and fix splits and tasks, before anything is trained.

    Raises:
        UserError: retrieval data, no or an unknown target column, or rows that cannot be split.
    """
    if features.task == "retrieval":
        raise UserError(
            "a comparison judges predictions of a target",
            "features for retrieval",
            "train aligners with `weft fit` and compare their recall, or give a table with a target",
        )
    if not features.targets:
        raise UserError("a comparison needs a target", "no target column", "name one in the table's configuration")
    column = config.target or next(iter(features.targets))
    if column not in features.targets:
        raise UserError(
            "there is no such target column", repr(column), did_you_mean(column, features.targets, "target columns")
        )
    target = features.targets[column]
    name = config.task or (features.task if column == next(iter(features.targets)) else guess_task(target))
    if config.folds is None:
        splits = [make_splits(features, fractions=config.fractions, seed=config.split_seed)]
    else:
        splits = make_folds(features, config.folds, config.split_seed)
    asked = {"metric": config.metric, "class_weights": config.class_weights, "labels": features.labels.get(column)}
    tasks = [_fit_task(name, features, target, splits[0], asked)]
    asked["metric"] = tasks[0].primary  # of every fold, whatever its own rows would suggest
    tasks += [_fit_task(name, features, target, split, asked) for split in splits[1:]]
    identity = {
        "features": features.fingerprint,
        "column": column,
        "tasks": [task.config() for task in tasks],
        "splits": [sha256(rows.tobytes())[:16] for split in splits for rows in split],
    }
    teachers = [split.train for split in splits]
    return Setup(features, target, column, splits, tasks, config, Ledger(folder, identity, config), teachers)


def _fit_task(name: str, features: Features, target: np.ndarray, split: Split, asked: dict[str, Any]) -> Task:
    for part, rows in split._asdict().items():
        if not len(rows):
            raise UserError(
                f"the {part} part of the split has no rows",
                ", ".join(f"{n}: {len(r)}" for n, r in split._asdict().items()),
                "a comparison trains on train, chooses on dev and tests on test: give each of them rows",
            )
        refuse_empty_rows(features, rows)
    task = create_task(name, target[split.train], **asked)
    for rows in (split.dev, split.test):
        task.encode(target[rows])
    return task
