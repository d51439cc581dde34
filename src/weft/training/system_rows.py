"""What a system is given from outside: rows written by hand, settings of its training, predictions in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from weft.data import Dataset, Modality, make_splits
from weft.data.dataset import numbered
from weft.errors import UserError, did_you_mean
from weft.models.outputs import read_files
from weft.registry import option_schema
from weft.tasks.base import tasks
from weft.training.config import TrainConfig
from weft.training.system import System


def rows_by_hand(cls: type[System], given: list[str]) -> Dataset:
    """Rows of the command line, each a YAML mapping of columns: ``"text: a red circle"``; words stay words.

    Raises:
        UserError: no mapping, or a column that the system does not read.
    """
    kinds = {role: need.kind for role, need in cls.reads.items() if not need.target}
    rows: list[dict[str, Any]] = []
    for text in given:
        row = yaml.load(text, yaml.BaseLoader)
        if not isinstance(row, dict):
            raise UserError("--row is a YAML mapping of columns", repr(text), f'--row "{next(iter(kinds))}: ..."')
        unknown = [name for name in row if name not in kinds]
        if unknown:
            raise UserError(f"{cls.__name__} reads no such column", unknown[0], did_you_mean(unknown[0], kinds))
        rows.append(row)
    columns = {name: Modality(kind, [row.get(name) for row in rows]) for name, kind in kinds.items()}
    return Dataset("rows", numbered("row", len(rows)), columns, {}, None, None, cls.judge)


def training_settings(cls: type[System], name: str, given: dict[str, Any]) -> Any:
    """The training settings, with those of the system's paper where none are given.

    Raises:
        UserError: an option of the system among the settings.
    """
    own = option_schema(cls, name).model_fields
    mixed = [key for key in given if key in own and key not in TrainConfig.model_fields]
    if mixed:
        value = given[mixed[0]]
        found = f"--set {mixed[0]}={value}"
        raise UserError(f"{mixed[0]!r} is an option of {name!r}, no training setting", found, f"--option {found[6:]}")
    return TrainConfig.of({**cls.trained_with, **given})


def judge_files(
    cls: type[System], folder: Path, dataset: Dataset, split: str, figures: Path | None, judge: dict[str, Any]
) -> tuple[int, dict[str, float]]:
    """How many rows, and the metrics of predictions in a folder, by anybody, named as the rows.

    Raises:
        UserError: an unknown split, or a file is missing.
    """
    parts = {"all": np.arange(len(dataset))}
    if split != "all":
        given = dataset.split is not None and split == "test"
        parts |= {"test": np.flatnonzero(dataset.split == "test")} if given else make_splits(dataset)._asdict()
    if split not in parts:
        raise UserError("unknown split", split, did_you_mean(split, ["train", "dev", "test", "all"], "splits"))
    rows = parts[split]
    values = read_files(cls.writes, folder, [dataset.ids[row] for row in rows])
    judged: Any = tasks.create(cls.judge, **judge)
    truth = cls.truth(dataset, rows)
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        judged.figures(values, truth, figures)
    return len(rows), judged.metrics(values, truth)


def on_device(system: System) -> None:
    """Put a system on the GPU, where there is one."""
    if torch.cuda.is_available():
        system.to("cuda")
