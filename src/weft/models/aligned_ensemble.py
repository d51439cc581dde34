r"""An average of aligners: one folder and one index, whose scores are the weighted mean of the members' cosines.

.. math:: z = (\sqrt{w_1}\, z^{(1)}, \ldots, \sqrt{w_S}\, z^{(S)}), \quad \sum_s w_s = 1
    \quad\Rightarrow\quad z_a \cdot z_b = \sum_s w_s \cos_s(a, b)

with the members' unit vectors, so ``z`` has unit length too. Members are chosen greedily and weighed equally: starting
with nothing, the one that raises the score of the sum most is added, again and again; the best of all those sums is
kept (Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004, there with repetition, which on few rows
overfits). The score is best taken on folds of the training groups, each embedded by members solved or trained without
it: 100 dev photos are too few to choose by.

Cost: that of the members; the width of the index is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.models.aligned import AlignedModel
from weft.models.pretrained import models
from weft.tokens import Tokens


@models.register("AlignedEnsemble")
class AlignedEnsemble(AlignedModel):
    """Several aligners of the same modalities as one.

    Args:
        members: trained models with the same modalities; they are put on the device of the first.
        weights: of their cosines, above 0; they are made to sum to 1.

    Raises:
        UserError: no member, other modalities, or a weight that is not positive.
    """

    format = "AlignedEnsemble/1"

    def __init__(self, members: Sequence[AlignedModel], weights: Sequence[float]) -> None:
        nn.Module.__init__(self)
        if not members or len(members) != len(weights) or min(weights) <= 0:
            found = f"{len(members)} members, weights {list(weights)}"
            raise UserError("an ensemble has members, each with a weight above 0", found, "leave out those with none")
        if len({tuple(m.dims.items()) for m in members}) > 1:
            found = "; ".join(str(m.dims) for m in members)
            raise UserError("members of an ensemble read the same modalities", found, "train them on one store")
        first = members[0]
        self.dims, self.names, self.encoders, self.table = first.dims, first.names, first.encoders, first.table
        where = next(first.buffers()).device  # training leaves a model on the GPU, a closed form where it was
        self.members, self.seen = nn.ModuleList(member.to(where) for member in members), first.seen
        self.shares = [float(w) / float(sum(weights)) for w in weights]

    @property
    def width(self) -> int:
        return sum(member.width for member in self._each())

    def forward(self, inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        found = [member(inputs) for member in self._each()]
        return {
            name: torch.cat([share**0.5 * z[name] for share, z in zip(self.shares, found, strict=True)], dim=1)
            for name in found[0]
        }

    def output(self, name: str, tokens: Tokens) -> Tensor:
        """As :meth:`forward`, of one modality: members are averaged as unit vectors only."""
        return self({name: tokens})[name]

    def predict_modality(self, *args: Any, **options: Any) -> np.ndarray:
        """Refused: every member would expect features of its own."""
        found = f"an ensemble of {len(self.members)} aligners"
        raise UserError("one closed form predicts a modality from another", found, "give ridge, cca or whitened alone")

    def config(self) -> dict[str, Any]:
        """The members' configurations and the weights."""
        return {"members": [member.config() for member in self._each()], "weights": self.shares}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        return cls([AlignedModel.from_config(c, folder) for c in config["members"]], config["weights"])

    def _each(self) -> list[AlignedModel]:
        return [member for member in self.members if isinstance(member, AlignedModel)]


def choose_weights(members: int, score: Callable[[np.ndarray], float], steps: int = 8) -> np.ndarray:
    """Equal weights of the members that go together best, ``(members,)`` of 0 and 1.

    Args:
        members: how many there are.
        score: of such weights, on rows that no member was trained on; higher is better.
        steps: members taken at most.
    """
    weights, best, kept = np.zeros(members), -np.inf, np.zeros(members)
    for _ in range(min(steps, members)):
        tried = {m: score(weights + (np.arange(members) == m)) for m in np.flatnonzero(weights == 0).tolist()}
        taken = max(tried, key=lambda m: tried[m])
        weights[taken] = 1
        if tried[taken] > best + 1e-9:
            best, kept = tried[taken], weights.copy()
    return kept


def joined(embeddings: Sequence[dict[str, np.ndarray]], weights: np.ndarray) -> dict[str, np.ndarray]:
    """``{name: (N, D)}`` of the ensemble with these weights ``(members,)``; members of weight 0 are left out."""
    shares = np.asarray(weights) / np.sum(weights)
    used = [(share, z) for share, z in zip(shares, embeddings, strict=True) if share > 0]
    return {n: np.concatenate([np.sqrt(share) * z[n] for share, z in used], axis=1) for n in used[0][1]}
