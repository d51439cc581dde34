"""What each column of a table is: a YAML that :mod:`weft.data.guess` proposes and a person corrects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from weft.data.cells import CellType
from weft.data.files import is_file
from weft.data.kinds import kinds
from weft.data.splits import FRACTIONS, Method
from weft.data.targets import reads_of
from weft.data.words import read_words
from weft.errors import UserError, did_you_mean, first_fault


class ModalityConfig(BaseModel):
    """One modality of a table: its kind, its column or columns, its encoder and the encoder's options.

    Attributes:
        types: ``{column: type}`` of cells, where the kind has such (``tabular``, ``date``): how they are read, see
            :mod:`weft.data.cells`. Learned from the training rows where not given.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str
    column: str | None = None
    columns: list[str] | None = None
    types: dict[str, CellType] = Field(default_factory=dict)
    encoder: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in kinds.names():
            raise ValueError(f"no such kind; {did_you_mean(kind, kinds.names(), 'kinds')}")
        return kind

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.columns is None) or self.columns == []:
            raise ValueError("give either 'column' or 'columns'")
        if not kinds.get(self.kind).several and len(self.names) != 1:
            raise ValueError(f"a modality of kind {self.kind} has one column")
        wrong = [name for name in self.types if name not in self.names or not kinds.get(self.kind).typed]
        if wrong:
            raise ValueError(f"types are of columns of a tabular modality, and {wrong[0]!r} is none of this one")
        return self

    @property
    def names(self) -> list[str]:
        """The columns, one or several."""
        return [self.column] if self.column is not None else list(self.columns or ())


class SplitsConfig(BaseModel):
    """How rows are split; see :func:`weft.data.make_splits`."""

    model_config = ConfigDict(extra="forbid")

    method: Method | None = None
    fractions: tuple[float, float, float] = FRACTIONS
    seed: int = 0


class TableConfig(BaseModel):
    """What the columns of a table are.

    Attributes:
        table: path of the CSV, Parquet or JSONL file. :func:`load_config` makes it absolute.
        id, split, group: columns, if there are such. Without ``id`` the rows are numbered.
        target: the target column, or several; the first is the one asked for by default, except where the task reads
            them side by side (survival: time and event). None for retrieval.
        time: column of dates that a ``temporal`` split goes by.
        task: registered name of what is asked.
        labels: names in the order of the outputs: the labels of ``multilabel`` (None: those found, sorted), the classes
            of ``ordinal``, lowest first.
        classes: ``{target: its classes}``; rows of other classes are left out. Those found, where not given.
        modalities: in the order of the modalities everywhere.
        splits: made when the table is read. None: whoever trains splits by its own seed.
    """

    model_config = ConfigDict(extra="forbid")

    table: str
    id: str | None = None
    split: str | None = None
    group: str | None = None
    time: str | None = None
    target: str | list[str] | None = None
    task: str
    labels: list[str] | None = None
    classes: dict[str, list[bool | int | str]] = Field(default_factory=dict)
    modalities: dict[str, ModalityConfig] = Field(min_length=1)
    splits: SplitsConfig | None = None

    @model_validator(mode="after")
    def _target_for_task(self) -> Self:
        if self.task != "retrieval" and not self.target_names:
            raise ValueError(f"task {self.task} needs a target; without one the task is retrieval")
        return self

    @property
    def target_names(self) -> list[str]:
        """The target columns, none, one or several."""
        return [self.target] if isinstance(self.target, str) else list(self.target or ())


def load_config(path: str | Path) -> TableConfig:
    """Read a YAML; the table's path is relative to the YAML's folder and comes back absolute.

    Raises:
        UserError: missing file, no YAML, an unknown key or a value of the wrong type.
    """
    path = Path(path)
    if not is_file(path):
        raise UserError("the configuration does not exist", str(path), "write one with: weft init TABLE")
    try:
        content = read_words(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not YAML", str(error), "check the indentation and the quotes") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a configuration", f"{content!r}"[:80], "write one with: weft init TABLE")
    try:
        config = TableConfig(**content)
    except ValidationError as error:
        inner = error.errors()[0]["loc"][:1] == ("modalities",)
        known = (ModalityConfig if inner else TableConfig).model_fields
        raise first_fault(error, str(path), "key", known, "correct the value") from None
    reads_of(config.task)  # refuses an unknown task
    return config.model_copy(update={"table": os.path.abspath(path.parent / config.table)})
