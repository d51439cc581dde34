"""Systems of pictures and texts that belong together, and learn from them what their objectives ask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.data import Dataset
from weft.errors import UserError, some
from weft.models.seen import Seen
from weft.retrieval.metrics import cross_modal_metrics
from weft.systems.image_text import Reader
from weft.tasks.classification import ClassificationTask
from weft.tokens import Tokens
from weft.training.system import Need, System

OWN, OTHER = "its own image", "another image"


class PairSystem(System):
    """Base: pictures and texts that belong together.

    A prediction is a choice: of the row's own picture and another one, drawn by the number of the row among those of
    other groups, which belongs to its text? :meth:`evaluate` adds the search of all texts and pictures among each
    other. A subclass has ``read`` and writes :meth:`show`, :meth:`score` and :meth:`asked`.
    """

    reads = {"image": Need("image"), "text": Need("text")}
    writes = "label"
    judge = "classification"
    reader = "flickr8k"
    at_once = 64
    read: Reader
    _pool: np.ndarray | None = None

    @abstractmethod
    def show(self, data: Dataset, rows: np.ndarray) -> Any:
        """The pictures of rows ``(n,)``, as the network takes them: tensors in a tuple, or one."""

    @abstractmethod
    def score(self, words: Tokens, pictures: Any) -> Tensor:
        """How well each pair matches, ``(B,)``, of ids ``(B, T)``."""

    @abstractmethod
    def asked(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator, *, every: bool) -> dict[str, Any]:
        """What a step asks: per objective, what its loss needs; ``every`` one, or those of this step."""

    @abstractmethod
    def losses(self, asked: dict[str, Any]) -> dict[str, Tensor]:
        """The loss of each objective, a scalar."""

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Any]:
        return self.asked(data, rows, rng or np.random.default_rng(0), every=rng is None)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return torch.stack(list(self.losses(batch).values())).sum()

    def order(self, data: Dataset, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        self._pool = rows
        return super().order(data, rows, batch_size, rng)

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        super().check(data, rows, target=target)
        self.read.check(data, self.columns(data)["text"], np.asarray(rows))

    def words(self, data: Dataset, rows: np.ndarray) -> list[list[int]]:
        """Ids of the word pieces of the texts of rows ``(n,)``."""
        return self.read.words(data, self.columns(data)["text"], rows)

    def others(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``(n,)``: for each row one of another group, of the training rows in training."""
        pool = self._pool if self.training and self._pool is not None else np.arange(len(data))
        return strangers(data, rows, pool, rng)

    def assess(self, data: Dataset, rows: np.ndarray) -> tuple[Tensor, Sequence[Any]]:
        loss = self.loss(self.to_device(self.batch(data, rows)))
        return loss.expand(len(rows)), self.predict(data, rows)

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """Scores ``(2,)`` of the row's own picture and of another."""
        pool = np.arange(len(data))
        other = np.concatenate([strangers(data, rows[k : k + 1], pool, np.random.default_rng(int(row))) for k, row in
                                enumerate(rows)])  # fmt: skip
        words = self.to_device(self.read.vocabulary.padded(self.words(data, rows)))
        scores = [self.score(words, self.to_device(self.show(data, seen))) for seen in (rows, other)]
        return list(torch.stack(scores, dim=1).float().cpu().numpy())

    def make_judge(self, **options: Any) -> ClassificationTask:
        return ClassificationTask([OWN, OTHER], metric="accuracy", **options)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> np.ndarray:
        return np.full(len(rows), OWN)

    def evaluate(
        self,
        data: Dataset,
        rows: np.ndarray,
        figures: Path | str | None = None,
        *,
        batch_size: int | None = None,
        **options: Any,
    ) -> dict[str, float]:
        """Accuracy of the choice, and recalls of the search among all of these rows; chance is one half."""
        found = super().evaluate(data, rows, None, batch_size=batch_size, **options)
        chosen = {f"choice {name}": found[name] for name in ("accuracy", "log_loss") if name in found}
        return {**chosen, **self.search(data, np.asarray(rows), batch_size or self.at_once)}

    @torch.no_grad()
    def search(self, data: Dataset, rows: np.ndarray, batch_size: int = 64) -> dict[str, float]:
        """Recalls of every text with every picture (of a group the first row's) of ``(n,)`` rows, one pass a pair."""
        groups = np.asarray(_groups(data))[rows]
        first = rows[np.sort(np.unique(groups, return_index=True)[1])]
        scores = torch.zeros(len(rows), len(first))
        ids = self.words(data, rows)
        for column, picture in enumerate(first):
            for start in range(0, len(rows), batch_size):
                part = ids[start : start + batch_size]
                words = self.to_device(self.read.vocabulary.padded(part))
                shown = self.to_device(self.show(data, np.full(len(part), picture)))
                scores[start : start + len(part), column] = self.score(words, shown).float().cpu()
        sides = {"text": scores, "image": torch.eye(len(first))}
        return cross_modal_metrics(sides, {"text": groups, "image": np.asarray(_groups(data))[first]})


def _groups(data: Dataset) -> Sequence[Any] | np.ndarray:
    return data.ids if data.group is None else data.group


def strangers(data: Dataset, rows: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row one of ``pool``, uniformly among those of other groups.

    Raises:
        UserError: a row has nothing but its own group there.
    """
    groups = np.asarray(_groups(data))
    drawn = pool[rng.integers(len(pool), size=len(rows))]
    for _ in range(100):
        same = groups[drawn] == groups[rows]
        if not same.any():
            return drawn
        drawn = np.where(same, pool[rng.integers(len(pool), size=len(rows))], drawn)
    lonely = [data.ids[row] for row, stuck in zip(rows, groups[drawn] == groups[rows], strict=True) if stuck]
    raise UserError(
        "a mismatched pair takes a picture of another group",
        f"rows {some(lonely)} have none but their own",
        "bring rows with other pictures",
    )


def repeated(pictures: Any, times: int) -> Any:
    """Every picture ``times`` in a row."""
    if isinstance(pictures, Tensor):
        return pictures.repeat_interleave(times, dim=0)
    if isinstance(pictures, Mapping):
        return {name: repeated(part, times) for name, part in pictures.items()}
    parts = [repeated(part, times) if part is not None else None for part in pictures]
    return type(pictures)(*parts) if hasattr(pictures, "_fields") else type(pictures)(parts)
