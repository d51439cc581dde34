"""The goal of an aligner: an objective over pairs of modalities, selected by the sum of recalls on the dev rows.

With more than two modalities the loss is the mean over the unordered pairs. Rows of one group (five captions of one
image) are no negatives of each other: an epoch draws one row of every group, so no batch holds two. An aligner with a
closed form is solved on all training rows before every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from weft.alignment import Objective
from weft.alignment.closed_form import ClosedForm, Judge
from weft.alignment.grad_cache import grad_cache
from weft.data import Split
from weft.errors import UserError, some
from weft.tokens import Tokens, present
from weft.training.aligned import AlignedModel, retrieval_task
from weft.training.batches import Batches
from weft.training.config import TrainConfig
from weft.training.goal import Collect, Goal, Share, check_rows, pieces, what_is_read
from weft.training.rows import refuse_empty_rows, refuse_no_pairs, select

if TYPE_CHECKING:
    from weft.store import Features


class AlignedGoal(Goal):
    """An :class:`AlignedModel` under an objective."""

    model: AlignedModel
    chunked = True

    def __init__(
        self, model: AlignedModel, objective: Objective, features: Features, split: Split, config: TrainConfig
    ) -> None:
        super().__init__()
        if len(model.names) < 2:
            raise UserError("alignment needs two modalities", some(model.names), "add another modality")
        if config.modality_dropout:
            raise UserError(
                "aligners embed each modality by itself, so there is none to drop",
                f"modality_dropout={config.modality_dropout}",
                "leave modality_dropout at 0",
            )
        rows = check_rows(features, split)
        self._features, self._rows = select(features, model.names), rows
        refuse_empty_rows(self._features, np.concatenate(rows))
        refuse_no_pairs(self._features, rows)
        self.model, self.objective, self.config = model, objective, config
        self._groups = [_Groups(features.group, part) for part in rows]
        self._task, self._dev_groups, self._presence = retrieval_task(self._features, rows[1])
        self.steps_over = len(self._groups[0])

    def prepare(self, device: torch.device) -> None:
        limit = self.config.cache_mb * 2**20
        self._train, self._dev = (Batches(self._features, rows, device, False, limit) for rows in self._rows)
        if not self.model.standardise.fitted:
            self.model.standardise.fit(self._train.chunks())

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self._groups[0].draw(rng))

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[dict[str, Tokens]]:
        return (self._train[positions],)

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """The objective, mean over the pairs of modalities, in float32."""
        chunk = self.config.chunk
        embeddings = grad_cache(self.model, inputs, chunk) if chunk else self.model(inputs)
        there = {name: present(tokens) for name, tokens in inputs.items()}
        return self._objective(embeddings, there)

    def _objective(self, embeddings: dict[str, Tensor], there: dict[str, Tensor]) -> Tensor:
        pairs = list(combinations(self.model.names, 2))
        with torch.autocast(embeddings[pairs[0][0]].device.type, enabled=False):
            losses = [
                self.objective(embeddings[a].float(), embeddings[b].float(), there[a] & there[b]) for a, b in pairs
            ]
        return torch.stack(losses).mean()

    def evaluate(self, share: Share, collect: Collect) -> dict[str, float]:
        if isinstance(self.model.aligner, ClosedForm):
            self.model.aligner.fit_closed_form(self._chunks(self._train), self._judge())
        positions = share(np.arange(len(self._dev)))
        parts = [
            self.model(self._dev[chunk]) for chunk in pieces(positions, self.config.chunk or self.config.batch_size)
        ]
        embeddings = {n: collect(torch.cat([p[n] for p in parts]).float(), len(self._dev)) for n in self.model.names}
        there = {name: torch.from_numpy(p).to(embeddings[name].device) for name, p in self._presence.items()}
        losses = []
        for chunk in np.array_split(self._groups[1].first, max(1, len(self._groups[1]) // self.config.batch_size)):
            index = torch.from_numpy(chunk).to(embeddings[self.model.names[0]].device)
            losses.append(
                self._objective({n: e[index] for n, e in embeddings.items()}, {n: t[index] for n, t in there.items()})
            )
        metrics = self._task.metrics(embeddings, self._dev_groups, self._presence)
        return {"loss": float(torch.stack(losses).mean()), "score": metrics[self._task.primary]}

    def _chunks(self, batches: Batches) -> Iterator[dict[str, Tokens]]:
        return (self.model.standardise(chunk) for chunk in batches.chunks())

    def _judge(self) -> Judge:
        """By the task's primary metric, over the rows that a closed form holds out."""

        def score(embeddings: dict[str, Tensor], group: Tensor) -> float:
            return self._task.metrics(embeddings, group.cpu().numpy())[self._task.primary]

        train, dev = (torch.from_numpy(part.codes) for part in self._groups)
        return Judge(score, train, self._chunks(self._dev), dev)

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.model.config(),
            "objective": repr(self.objective),
            **what_is_read(self._features, self._rows),
        }


class _Groups:
    """Positions of rows by group; without groups every row is its own.

    Attributes:
        codes: ``(N,)`` int64, the group of every position.
        first: the first position of every group.
    """

    def __init__(self, group: np.ndarray | None, rows: np.ndarray) -> None:
        self.codes = np.unique(np.arange(len(rows)) if group is None else group[rows], return_inverse=True)[1]
        self._order = np.argsort(self.codes, kind="stable")
        self._sizes = np.bincount(self.codes)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self.first = self._order[self._starts]

    def __len__(self) -> int:
        return len(self._sizes)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One position of every group."""
        return self._order[self._starts + rng.integers(0, self._sizes)]
