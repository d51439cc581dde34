"""The training of a system, whichever it is, by the one loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.data import Dataset, Split
from weft.errors import UserError, short
from weft.models.seen import Seen
from weft.registry import check_options
from weft.store.unique import raw_fingerprint
from weft.training.config import TrainConfig
from weft.training.loop import History, run
from weft.training.system import System, systems
from weft.training.training_task import Gather, Scatter, TrainingTask, check_rows, ids_of, refuse_hiding


class SystemTask(TrainingTask):
    """A :class:`System` in training."""

    model: System

    def __init__(self, model: System, data: Dataset, split: Split, config: TrainConfig) -> None:
        super().__init__()
        name = type(model).__name__
        refuse_hiding(config, f"{name} reads all it needs of every row, so none can be dropped", "leave it at 0")
        self.model, self.config = model, config
        self._data, self._rows = data, check_rows(data, split)
        model.cache_mb = config.cache_mb
        model.check_split(data, split)
        self.steps_over = len(self.order(np.random.default_rng(0)))

    def prepare(self, device: torch.device) -> None:
        self.phases = self.model.phases()

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return self.model.order(self._data, self._rows[0], self.config.batch_size, rng)

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[Any, ...]:
        return (self.model.to_device(self.model.batch(self._data, positions, np.random.default_rng(seed))),)

    def forward(self, batch: Any, phase: int = 0) -> Tensor:
        """The mean loss (a scalar) of one phase."""
        return self.phases[phase].loss(batch).mean()

    def evaluate(self, scatter: Scatter, gather: Gather) -> dict[str, float]:
        return self.model.validate(self._data, self._rows[1], self.config.batch_size, scatter, gather)

    def describe(self) -> dict[str, Any]:
        rows = ids_of(self._data, self._rows)
        return {"model": self.model.config(), "data": raw_fingerprint(self._data), "rows": rows}


def make_system(name: str, data: Dataset, rows: np.ndarray, *, seed: int = 0, **options: Any) -> System:
    """A registered system before training; its first weights depend on ``seed`` alone.

    Args:
        name: of the registry ``systems``.
        data: raw rows.
        rows: of the training part.
        seed: of the first weights.
        options: of its constructor.

    Raises:
        UserError: an unknown name or option, an option out of range or that is learned, or rows it cannot learn from.
    """
    cls = systems.get(name)
    checked = check_options(cls, name, options)
    for option in systems.learned(name):
        if option in checked:
            found = f"{option}={short(checked[option])}"
            raise UserError(f"{name}: {option!r} is learned from the training rows", found, "leave it out")
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        return cls.fitted(data, rows, **checked)


def fit_system(
    system: System,
    data: Dataset,
    split: Split,
    config: TrainConfig | dict[str, Any] | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> History:
    """Train on ``split.train``; it ends with the weights that were best on ``split.dev``, and knows what it saw.

    Args:
        system: of :func:`make_system`.
        data: raw rows.
        split: rows of train, dev and test.
        config: settings, or keywords of :class:`TrainConfig`, before which go :attr:`System.trained_with`.
        folder: where checkpoints and the log go; a run killed there goes on from its last checkpoint.
        progress: show a progress bar.

    Raises:
        UserError: a split is empty, a row lacks something, the loss is not finite, or the folder holds another run.
    """
    settings = config if isinstance(config, TrainConfig) else TrainConfig.of({**system.trained_with, **(config or {})})
    system.seen = Seen.of(data, split)
    return run(SystemTask(system, data, split, settings), settings, folder, progress)
