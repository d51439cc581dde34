"""What the loop minimises, and what it selects by: a fused model on its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from weft.data import Split
from weft.errors import UserError
from weft.tokens import Tokens
from weft.training.batches import Batches, drop_modalities
from weft.training.config import TrainConfig
from weft.training.model import FusedModel
from weft.training.rows import choose_target, refuse_absent, refuse_empty_rows, refuse_no_rows, select

if TYPE_CHECKING:
    from weft.store import Features

Share = Callable[[np.ndarray], np.ndarray]
Collect = Callable[[Tensor, int], Tensor]


class Goal(nn.Module, ABC):
    """A model under its loss. The loop calls ``prepare``, then ``forward(*batch(...))``, then ``evaluate``.

    Attributes:
        steps_over: how many rows an epoch has.
    """

    model: nn.Module
    steps_over: int

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Read the features and fit what is fitted before training."""

    @abstractmethod
    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Positions ``(steps_over,)`` of the rows of an epoch, in random order."""

    @abstractmethod
    def batch(self, positions: np.ndarray) -> tuple[Any, ...]:
        """The arguments of ``forward`` for these positions."""

    @abstractmethod
    def evaluate(self, share: Share, collect: Collect) -> dict[str, float]:
        """``"loss"`` and ``"score"`` (higher is better) on the dev rows.

        Args:
            share: positions of all rows -> those this process computes.
            collect: what all processes computed, in the order of all rows.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON of what is trained on what, for the checkpoint's fingerprint."""


class FusedGoal(Goal):
    """A :class:`FusedModel` on its task's loss; the dev score is the mean of the task's scores."""

    def __init__(self, model: FusedModel, features: Features, split: Split, config: TrainConfig) -> None:
        super().__init__()
        train, dev = check_rows(features, split)
        features = select(features, model.names)
        rows = np.concatenate([train, dev])
        refuse_empty_rows(features, rows)
        refuses = model.fusion is not None and model.fusion.absent == "refuse"
        if refuses:
            refuse_absent(features, rows, type(model.fusion).__name__)
        if refuses and config.modality_dropout:
            raise UserError(
                f"{type(model.fusion).__name__} cannot do without a modality, so none can be dropped in training",
                f"modality_dropout={config.modality_dropout}",
                "set modality_dropout to 0, or use an operator with absent = 'native' or 'fill' (weft list)",
            )
        self.model, self.config = model, config
        self._features, self._rows = features, (train, dev)
        self.steps_over = len(train)
        model.target, target = choose_target(features, model.target)
        self._dev_target = target[dev]
        self._target = model.task.encode(target[train])
        self._dev_encoded = model.task.encode(target[dev])

    def prepare(self, device: torch.device) -> None:
        settings = {"pooled": not self.model.wants_tokens, "cache_bytes": self.config.cache_mb * 2**20}
        self._train, self._dev = (Batches(self._features, rows, device, **settings) for rows in self._rows)
        self._target, self._dev_encoded = self._target.to(device), self._dev_encoded.to(device)
        if not self.model.standardise.fitted:
            self.model.standardise.fit(self._train.chunks())

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self.steps_over)

    def batch(self, positions: np.ndarray) -> tuple[dict[str, Tokens], Tensor]:
        index = torch.from_numpy(positions).to(self._target.device)
        inputs = drop_modalities(self._train[positions], self.config.modality_dropout)
        return inputs, self._target.index_select(0, index)

    def forward(self, inputs: dict[str, Tokens], target: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return self.model.loss(inputs, target)

    def evaluate(self, share: Share, collect: Collect) -> dict[str, float]:
        positions = share(np.arange(len(self._dev)))
        parts = [self.model.members(self._dev[chunk]) for chunk in pieces(positions, self.config.batch_size)]
        members, there = (collect(torch.cat(part), len(self._dev)) for part in zip(*parts, strict=True))
        combine = self.model.combine
        if combine is not None and combine.rule == "inverse-variance":
            combine.fit_variance(members, self._dev_encoded, there)
        outputs = self.model.decide(members, there)
        loss = float(self.model.task.loss(outputs, self._dev_encoded).mean())
        return {"loss": loss, "score": float(self.model.task.scores(outputs.cpu().numpy(), self._dev_target).mean())}

    def describe(self) -> dict[str, Any]:
        return {"model": self.model.config(), "rows": ids_of(self._features, self._rows)}


def pieces(positions: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Positions in chunks for evaluation, which keeps no gradient and so takes more rows at once than training."""
    size = 4 * batch_size
    return (positions[start : start + size] for start in range(0, len(positions), size))


def check_rows(features: Features, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Train and dev rows of a split.

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


def ids_of(features: Features, rows: tuple[np.ndarray, np.ndarray]) -> list[list[str]]:
    """Ids of the train and dev rows."""
    return [[str(features.ids[row]) for row in part.tolist()] for part in rows]
