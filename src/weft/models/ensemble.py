r"""A weighted mean of what several models answer.

.. math:: p(y | x) = \sum_i w_i\, p_i(y | x), \qquad w_i \ge 0,\ \sum_i w_i = 1

of probabilities; for values, of the values. A member that sees some of the modalities only answers with the frequencies
of the training rows (or their mean) where it has nothing to look at, as it did when the weights were chosen.

A folder holds the weights and every member in a folder of its own. Cost: the sum of the members'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from weft.models.predictor import About, Fitted, Predictor, answers
from weft.models.pretrained import load_model, models
from weft.models.rows import refuse_empty_rows, select
from weft.tasks.base import Task
from weft.tokens import Tokens, present

if TYPE_CHECKING:
    from weft.store import Features


@models.register("EnsembleModel")
class EnsembleModel(Fitted):
    """Several models, averaged.

    Args:
        task: the fitted task.
        dims: width of each modality that may be asked about.
        members: the models.
        weights: one per member; zeros until they are loaded.
        answer: outputs ``(K,)`` for a member that has nothing to look at.
        target, encoders, table: see :class:`~weft.models.predictor.Predictor`.
    """

    format = "EnsembleModel/1"

    def __init__(
        self,
        task: Task | dict[str, Any],
        dims: Mapping[str, int],
        members: Sequence[Predictor],
        weights: Sequence[float] | None = None,
        answer: np.ndarray | None = None,
        **about: Unpack[About],
    ) -> None:
        super().__init__(task, dims, about)
        self.members = tuple(members)
        self.register_buffer("weights", torch.tensor(list(weights or [0.0] * len(self.members))))
        empty = np.zeros(self.task.outputs, dtype=np.float32)
        self.register_buffer("answer", torch.from_numpy(empty if answer is None else answer.astype(np.float32)))

    @property
    def needs_all(self) -> bool:
        return any(member.needs_all for member in self.members)

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """Outputs ``(B, K)`` of the task from ``{name: Tokens}``; without gradient."""
        parts = []
        for member in self.members:
            seen = {name: inputs[name] for name in member.names}
            there = torch.stack([present(tokens) for tokens in seen.values()]).any(dim=0)
            found = self.get_buffer("answer").expand(len(there), -1).clone()
            found[there] = member({name: Tokens(*(part[there] for part in t)) for name, t in seen.items()})  # type: ignore[operator]
            parts.append(found)
        return torch.from_numpy(self._mean(torch.stack(parts).cpu().numpy()))

    @torch.no_grad()
    def outputs(self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 512) -> np.ndarray:
        rows = np.arange(len(features)) if rows is None else np.asarray(rows)
        features = select(features, self.names)
        refuse_empty_rows(features, rows)
        parts = [answers(member, features, rows, self.get_buffer("answer").numpy()) for member in self.members]
        return self._mean(np.stack(parts))

    def _mean(self, outputs: np.ndarray) -> np.ndarray:
        """Of outputs ``(M, n, K)``."""
        return self.task.average(outputs, self.get_buffer("weights").double().numpy())

    def config(self) -> dict[str, Any]:
        return {**super().config(), "members": len(self.members)}

    def save_pretrained(self, folder: Path | str) -> None:
        """The members first, then the files of every model."""
        for number, member in enumerate(self.members):
            member.save_pretrained(Path(folder) / f"member-{number}")
        super().save_pretrained(folder)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """The ensemble with the members of a folder."""
        count = config.pop("members")
        return cls(members=[load_model(folder / f"member-{number}") for number in range(count)], **config)
