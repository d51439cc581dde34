"""What the loop minimises and what it selects by: the interface of a training task, and the checks its kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from weft.data import Split
from weft.errors import UserError
from weft.models.rows import refuse_no_rows
from weft.training.config import TrainConfig
from weft.training.phase import Phase

if TYPE_CHECKING:
    from weft.store import Features

FOR_ALIGNERS = ("chunk", "per_group", "mix", "regularisers")
HIDING = ("modality_dropout", "more_vs_fewer")
Scatter = Callable[[np.ndarray], np.ndarray]
Gather = Callable[[Tensor, int], Tensor]


class Trainable(Protocol):
    """A model that the loop can keep: a module with a folder of its own."""

    def save_pretrained(self, folder: Path | str) -> None: ...


class Rows(Protocol):
    """What is trained on: rows with ids."""

    @property
    def ids(self) -> list[str]: ...
    def __len__(self) -> int: ...


class TrainingTask(nn.Module, ABC):
    """A model under its loss. The loop calls ``prepare``, then ``forward(*batch(...))``, then ``evaluate``.

    Attributes:
        steps_over: how many rows an epoch has.
        phases: what a step does, known after ``prepare``; ``forward`` then takes the ``phase`` by number. Empty: all
            weights under ``forward``.
        aligns: it heeds the settings of aligners (``FOR_ALIGNERS``).
    """

    model: Trainable
    steps_over: int
    phases: Sequence[Phase] = ()
    aligns: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Read the features and fit what is fitted before training."""

    @abstractmethod
    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Positions ``(steps_over,)`` of the rows of an epoch, in random order."""

    @abstractmethod
    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[Any, ...]:
        """The arguments of ``forward`` for these positions; ``seed`` is of what is drawn in this step."""

    @abstractmethod
    def evaluate(self, scatter: Scatter, gather: Gather) -> dict[str, float]:
        """``"loss"`` and ``"score"`` (higher is better) on the dev rows; ``{}``: the last weights are kept.

        Args:
            scatter: positions of all rows -> those this process computes.
            gather: what all processes computed, in the order of all rows.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON of what is trained on what, for the checkpoint's fingerprint."""


def pieces(positions: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Positions ``(n,)`` in chunks for evaluation, which keeps no gradient and so takes more rows at once than
    training.
    """
    size = 4 * batch_size
    return (positions[start : start + size] for start in range(0, len(positions), size))


def check_rows(features: Rows, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Train and dev rows ``(n,)`` of a split.

    Raises:
        UserError: one of them is empty, they share rows, or a row is not in the features.
    """
    train, dev = np.asarray(split.train), np.asarray(split.dev)
    refuse_no_rows("train", train)
    refuse_no_rows("dev", dev)
    both = np.intersect1d(train, dev)
    if len(both):
        raise UserError(
            "train and dev rows are different rows",
            f"{len(both)} rows are in both, e.g. id {features.ids[int(both[0])]!r}",
            "make the split with weft.data.make_splits",
        )
    last = max(train.max(), dev.max())
    if last >= len(features) or min(train.min(), dev.min()) < 0:
        raise UserError(
            "the split names rows that are not there", f"row {last} of {len(features)}", "split these very features"
        )
    return train, dev


def refuse_hiding(config: TrainConfig, why: str, remedy: str) -> None:
    """Refuse the settings that hide modalities in training, for a model that cannot do without one."""
    for name in HIDING:
        if getattr(config, name):
            raise UserError(why, f"{name}={getattr(config, name)}", remedy)


def ids_of(features: Rows, rows: tuple[np.ndarray, np.ndarray]) -> list[list[str]]:
    """Ids of the train and dev rows ``(n,)``."""
    return [[str(features.ids[row]) for row in part.tolist()] for part in rows]


def what_is_read(features: Features, rows: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """For :meth:`TrainingTask.describe`: the features by their fingerprint, the train and dev rows by their ids."""
    return {"features": features.fingerprint, "rows": ids_of(features, rows)}
