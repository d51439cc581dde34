"""Training an aligner: an objective over pairs of modalities, selected by the sum of recalls on the dev rows.

With more than two modalities the loss is the mean over the unordered pairs. Rows of one group (five captions of one
image) are no negatives of each other: an epoch goes through the groups, and a step takes one row of each (drawn anew),
all of them as partners of each other, or a mean of them with random weights, see ``per_group``. An aligner with a
closed form is solved on all training rows before every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from weft.alignment import Objective, create_regulariser
from weft.alignment.closed_form import ClosedForm, Judge
from weft.alignment.grad_cache import grad_cache
from weft.data import Split
from weft.errors import UserError, some
from weft.models.aligned import AlignedModel, retrieval_task
from weft.models.rows import refuse_empty_rows, refuse_no_pairs, select
from weft.tokens import Tokens, present
from weft.training.batches import Batches
from weft.training.config import TrainConfig
from weft.training.mixing import draw_mix, group_means, mix_rows, refuse_unequal_lengths
from weft.training.training_task import Gather, Scatter, TrainingTask, check_rows, pieces, refuse_hiding, what_is_read

if TYPE_CHECKING:
    from weft.store import Features


class AlignedTask(TrainingTask):
    """An :class:`AlignedModel` under an objective."""

    model: AlignedModel
    aligns = True

    def __init__(
        self, model: AlignedModel, objective: Objective, features: Features, split: Split, config: TrainConfig
    ) -> None:
        super().__init__()
        if len(model.names) < 2:
            raise UserError("alignment needs two modalities", some(model.names), "add another modality")
        refuse_hiding(config, "aligners embed each modality by itself, so there is none to drop", "leave it at 0")
        rows = check_rows(features, split)
        self._features, self._rows = select(features, model.names), rows
        refuse_empty_rows(self._features, np.concatenate(rows))
        refuse_no_pairs(self._features, rows)
        self.model, self.objective, self.config = model, objective, config
        self._groups = [_Groups(features.group, part) for part in rows]
        self._task, self._dev_groups, self._presence = retrieval_task(self._features, rows[1])
        self.regularisers: Any = nn.ModuleList(create_regulariser(n, **o) for n, o in config.regularisers.items())
        if config.mix or config.per_group == "mean":
            refuse_unequal_lengths(self._features, rows[0])
        self.steps_over = len(self._groups[0])

    def prepare(self, device: torch.device) -> None:
        limit = self.config.cache_mb * 2**20
        self._train, self._dev = (Batches(self._features, rows, device, False, limit) for rows in self._rows)
        if not self.model.standardise.fitted:
            self.model.standardise.fit(self._train.chunks())
            self.model.aligner.begin(lambda: self._chunks(self._train), self._judge())
        presence = {n: self._features.presence[self._rows[0], i] for i, n in enumerate(self._features.dims)}
        for regulariser in self.regularisers:
            regulariser.prepare(self._train.__getitem__, presence, self.model.tokens)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self._groups[0].draw(rng))

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[dict[str, Tokens], Tensor | None]:
        """Inputs ``{name: (B, T, D)}``, and the group ``(B,)`` of each row where some are partners of each other."""
        config, group = self.config, None
        if config.per_group == "one":
            inputs = self._train[positions]
        else:
            rows, codes = self._groups[0].members(positions)
            inputs = self._train[rows]
            group = torch.from_numpy(codes).to(next(iter(inputs.values())).mask.device)
            if config.per_group == "mean":
                inputs, group = group_means(inputs, group.unique(return_inverse=True)[1]), None
        if config.mix:
            mask = next(iter(inputs.values())).mask
            partner, share = draw_mix(len(mask), config.mix, mask.device)
            inputs = mix_rows(inputs, partner, share)
            if group is not None:
                group = group * len(self._groups[0]) + group[partner]
        return inputs, group

    def forward(self, inputs: dict[str, Tokens], group: Tensor | None = None) -> Tensor:
        """The objective (a scalar), mean over the pairs of modalities, in float32, and what the regularisers add."""
        embeddings = self._embed(inputs)
        there = {name: present(tokens) for name, tokens in inputs.items()}
        loss = self._objective(embeddings, there, group)
        for regulariser in self.regularisers:
            loss = loss + regulariser(inputs, embeddings, self._embed)
        return loss

    def _embed(self, inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        """``{name: (B, dim)}``, in chunks where the configuration says so."""
        chunk = self.config.chunk
        return grad_cache(self.model, inputs, chunk) if chunk else self.model(inputs)

    def _objective(
        self, embeddings: dict[str, Tensor], there: dict[str, Tensor], group: Tensor | None = None
    ) -> Tensor:
        pairs = list(combinations(self.model.names, 2))
        known = () if group is None else (group,)
        with torch.autocast(embeddings[pairs[0][0]].device.type, enabled=False):
            losses = [
                self.objective(embeddings[a].float(), embeddings[b].float(), there[a] & there[b], *known)
                for a, b in pairs
            ]
        return torch.stack(losses).mean()

    def evaluate(self, scatter: Scatter, gather: Gather) -> dict[str, float]:
        if isinstance(self.model.aligner, ClosedForm):
            self.model.aligner.fit_closed_form(self._chunks(self._train), self._judge())
        positions = scatter(np.arange(len(self._dev)))
        parts = [
            self.model(self._dev[chunk]) for chunk in pieces(positions, self.config.chunk or self.config.batch_size)
        ]
        embeddings = {n: gather(torch.cat([p[n] for p in parts]).float(), len(self._dev)) for n in self.model.names}
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
        """By the ranks of partners among the rows that a closed form holds out."""

        def score(embeddings: dict[str, Tensor], group: Tensor) -> float:
            return self._task.closeness(embeddings, group.cpu().numpy())

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

    def members(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All positions of the groups of these positions, group by group, and the group of each."""
        groups = self.codes[positions]
        sizes = self._sizes[groups]
        first = np.repeat(self._starts[groups] - (np.cumsum(sizes) - sizes), sizes)
        return self._order[first + np.arange(sizes.sum())], np.repeat(groups, sizes)
