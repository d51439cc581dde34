"""Training a fused model: the loss of its task, selected by the scores of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from weft.data import Split
from weft.models.fused import FusedModel
from weft.models.rows import choose_target, refuse_absent, refuse_empty_rows, select
from weft.store.files import content_hash
from weft.tokens import Tokens
from weft.training.batches import Batches, drop_modalities, fewer_modalities
from weft.training.config import TrainConfig
from weft.training.training_task import Gather, Scatter, TrainingTask, check_rows, pieces, refuse_hiding, what_is_read

if TYPE_CHECKING:
    from weft.store import Features


class FusedTask(TrainingTask):
    """A :class:`FusedModel` on its task's loss; the dev score is the mean of the task's scores."""

    model: FusedModel

    def __init__(self, model: FusedModel, features: Features, split: Split, config: TrainConfig) -> None:
        super().__init__()
        train, dev = check_rows(features, split)
        features = select(features, model.names)
        rows = np.concatenate([train, dev])
        refuse_empty_rows(features, rows)
        if model.needs_all:
            refuse_absent(features, rows, type(model.fusion).__name__)
            refuse_hiding(
                config,
                f"{type(model.fusion).__name__} cannot do without a modality, so none can be dropped in training",
                "set it to 0, or use an operator with absent = 'native' or 'fill' (weft list)",
            )
        self.model, self.config = model, config
        self._features, self._rows = features, (train, dev)
        self.steps_over = len(train)
        model.target, target = choose_target(features, model.target)
        self._dev_target = target[dev]
        self._target = model.task.encode(target[train])
        self._dev_encoded = model.task.encode(target[dev])

    def prepare(self, device: torch.device) -> None:
        pooled, limit = not self.model.wants_tokens, self.config.cache_mb * 2**20
        self._train, self._dev = (Batches(self._features, rows, device, pooled, limit) for rows in self._rows)
        self._target, self._dev_encoded = self._target.to(device), self._dev_encoded.to(device)
        if not self.model.standardise.fitted:
            self.model.standardise.fit(self._train.chunks())

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self.steps_over)

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[Any, ...]:
        index = torch.from_numpy(positions).to(self._target.device)
        inputs = drop_modalities(self._train[positions], self.config.modality_dropout)
        target = self._target.index_select(0, index)
        return (inputs, target, fewer_modalities(inputs)) if self.config.more_vs_fewer else (inputs, target)

    def forward(self, inputs: dict[str, Tokens], target: Tensor, fewer: dict[str, Tokens] | None = None) -> Tensor:
        """The mean loss (a scalar) of a batch ``{name: (B, T, D)}``."""
        return self.model.loss(inputs, target, fewer, self.config.more_vs_fewer)

    def evaluate(self, scatter: Scatter, gather: Gather) -> dict[str, float]:
        positions = scatter(np.arange(len(self._dev)))
        parts = [self.model.members(self._dev[chunk]) for chunk in pieces(positions, self.config.batch_size)]
        members, there = (gather(torch.cat(part), len(self._dev)) for part in zip(*parts, strict=True))
        combine = self.model.combine
        if combine is not None and combine.rule == "inverse-variance":
            combine.fit_variance(members, self._dev_encoded, there)
        outputs = self.model.decide(members, there)
        loss = float(self.model.task.loss(outputs, self._dev_encoded).mean())
        return {"loss": loss, "score": self.model.task.quality(outputs.cpu().numpy(), self._dev_target)}

    def describe(self) -> dict[str, Any]:
        target = content_hash(choose_target(self._features, self.model.target)[1])
        return {"model": self.model.config(), **what_is_read(self._features, self._rows), "target": target}
