"""UNITER's other answers: which of several choices (VCR), about two pictures (NLVR2), which region (RefCOCO).

All begin from ``uniter-pairs`` as :class:`~weft.systems.uniter.system.Uniter` does; types that pre-training does not
know begin as copies of those it does.

Source: Chen et al., "UNITER", ECCV 2020, arXiv 1909.11740, and its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.data import Dataset
from weft.errors import UserError, some
from weft.systems.image_text import texts_of
from weft.systems.image_text_pairs import repeated
from weft.systems.uniter.begin import Inputs, show
from weft.systems.uniter.regions import Regions
from weft.systems.uniter.system import Uniter
from weft.tasks.base import tasks
from weft.tasks.classification import ClassificationTask
from weft.tasks.judge import Judge
from weft.tokens import Tokens, pad
from weft.training.system import Need, System, systems

HIT = 0.5
"""Least intersection over union of a region that is right."""


class Asked(NamedTuple):
    """Ids, mask and types of the texts ``(R, T)``, regions of as many rows, and their types ``(R, K)``."""

    ids: Tensor
    mask: Tensor
    types: Tensor
    regions: Regions
    image_types: Tensor | None = None


def scores(system: Uniter, asked: Asked) -> Tensor:
    """What the head says."""
    regions = asked.regions
    found: Tensor = system.network(
        asked.ids, asked.mask, Tokens(regions.values, regions.mask), regions.places, text_types=asked.types,
        image_types=asked.image_types,
    )  # fmt: skip
    return found


@systems.register("uniter-choices")
class UniterChoices(Uniter):
    """Which of several texts answers a question about a picture, each read with it: VCR, both of its questions.

    The sequence is ``[CLS] question [SEP] choice [SEP]``, or with a ``context`` (the answer whose reason is asked)
    ``[CLS] question [SEP] context [SEP] choice [SEP]``; types 0, 2 and 3, each [SEP] of the type of what follows it.
    Each choice is learned to be right or wrong.
    Options as of ``uniter``; ``loss`` is not read.
    """

    reads = {
        "image": Need("image"), "text": Need("text"), "context": Need("text", optional=True), "choices": Need("texts"),
        "label": Need("label", target=True),
    }  # fmt: skip
    reader = "vcr"
    head, more_types, parts = "vcr", (0, 0), 3

    def head_outputs(self) -> int | None:
        return None

    @classmethod
    def texts(cls, data: Dataset, columns: dict[str, str], rows: np.ndarray) -> list[str]:
        found = [
            text for role in ("text", "context") if role in columns for text in texts_of(data, columns[role], rows)
        ]
        given = data.modalities[columns["choices"]].values
        return [*found, *(text for row in rows for text in given[row] if text)]

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        count = len(data.modalities[cls.columns(data)["choices"]].values[int(rows[0])])
        task = ClassificationTask([str(k) for k in range(count)], metric="accuracy").config()
        return super().fitted(data, rows, **{"task": task, **options})

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Any:
        columns = self.columns(data, target=False)
        asked, context = (self.read.words(data, columns[role], rows) for role in ("text", "context"))
        there = data.modalities[columns["context"]].presence[rows]
        choices = [data.modalities[columns["choices"]].values[row] for row in rows]
        known = iter(self.read.vocabulary([text or "" for row in choices for text in row]))
        ids, types = [], []
        for question, why, has, row in zip(asked, context, there, choices, strict=True):
            before = [0] * (len(question) - 1), [2] * (len(why) - 1 if has else 0)
            for _ in row:
                own = next(known)
                own = [*own[1 : min(self.length, len(own)) - 1], own[-1]]
                ids.append([*question, *(why[1:] if has else []), *own])
                # the [SEP] before a part is of that part's type
                types.append([*before[0], *before[1], *[3 if has else 2] * (1 + len(own))])
        words = self.read.vocabulary.padded(ids)
        times = len(choices[0])
        regions = repeated(show(self, data, rows), times)
        return Asked(*words, self.read.vocabulary.padded(types, 0).values, regions)

    def forward(self, *asked: Any) -> Tensor:
        """``(B, choices)``: the logit that each is right."""
        return self.judged(*asked)[..., 1]

    def judged(self, *asked: Any) -> Tensor:
        """``(B, choices, 2)``: wrong, right."""
        return scores(self, Asked(*asked)).unflatten(0, (-1, len(self.answers.labels)))

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, Tensor]:
        return self.inputs(data, rows, rng), self.answers.encode(data.targets[self.columns(data)["label"]][rows])

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        logits = self.judged(*batch[0])
        right = F.one_hot(batch[1], logits.shape[1])
        return F.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none").view_as(right).mean(dim=1)

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """As any system; and every row has as many choices as were learned, neither these nor the context too long."""
        super().check(data, rows, target=target)
        columns, count = self.columns(data, target=target), len(self.answers.labels)
        self.read.check(data, columns["context"], np.asarray(rows))
        given = {data.ids[row]: data.modalities[columns["choices"]].values[row] for row in rows}
        wrong = [f"{row}: {len(choices)}" for row, choices in given.items() if len(choices) != count]
        if wrong:
            raise UserError(f"every question has {count} choices", some(wrong), "leave these rows out")
        long = [
            f"{row}: {len(ids)}" for row, choices in given.items()
            for ids in self.read.vocabulary([text or "" for text in choices]) if len(ids) > self.length
        ]  # fmt: skip
        if long and not self.cut:
            remedy = "shorten them, train with a larger length, or with cut=true"
            raise UserError(f"a choice has at most {self.length} word pieces, its ends included", some(long), remedy)


@systems.register("uniter-two")
class UniterTwo(Uniter):
    """Is a text about two pictures true? NLVR2, each picture read with the text and hearing the other (pair-biattn).

    Options as of ``uniter``; the loss is that of the task.
    """

    reads = {
        "image": Need("image"), "other": Need("image"), "text": Need("text"), "label": Need("label", target=True),
    }  # fmt: skip
    reader = "nlvr2"
    head, more_types = "nlvr2-biattn", (1,)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        return super().fitted(data, rows, **{"loss": "task", **options})

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Any:
        columns = self.columns(data, target=False)
        one, two = (show(self, data, rows, column=columns[role]) for role in ("image", "other"))
        words = self.read.words(data, columns["text"], rows)
        times = 1 if self.head == "nlvr2-triplet" else 2
        padded = self.read.vocabulary.padded([ids for ids in words for _ in range(times)])
        regions, types = (one_row if times == 1 else by_turns)(one, two)
        return Asked(*padded, torch.zeros_like(padded.values), regions, types)

    def forward(self, *asked: Any) -> Tensor:
        """Logits ``(B, answers)``."""
        return scores(self, Asked(*asked))


@systems.register("uniter-two-pair")
class UniterTwoPair(UniterTwo):
    """As ``uniter-two``, in the published form ``pair``: the two pooled vectors side by side."""

    head = "nlvr2-pair"


@systems.register("uniter-two-triplet")
class UniterTwoTriplet(UniterTwo):
    """As ``uniter-two``, in the published form ``triplet``: the regions of both pictures in one sequence."""

    head = "nlvr2-triplet"


def by_turns(one: Regions, two: Regions) -> tuple[Regions, Tensor]:
    """Rows of the one and of the other by turns, ``(2B, K, ...)``, and their types, 1 and 2."""
    parts = [rows_of(side) for side in (one, two)]
    mixed = [row for pair in zip(*parts, strict=True) for row in pair]
    regions = of_rows(mixed)
    return regions, torch.tensor([1, 2]).repeat(len(one.mask))[:, None].expand_as(regions.mask)


def one_row(one: Regions, two: Regions) -> tuple[Regions, Tensor]:
    """The regions of the one, then of the other, ``(B, K + K', ...)``, and their types, 1 and 2."""
    pairs = list(zip(rows_of(one), rows_of(two), strict=True))
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in pairs]
    types = [torch.tensor([1] * len(a[0]) + [2] * len(b[0]))[:, None] for a, b in pairs]
    return of_rows(joined), pad(types).values[..., 0]


def rows_of(regions: Regions) -> list[tuple[Tensor, Tensor]]:
    """Values and places of the regions of each row, without padding."""
    return [(v[m], p[m]) for v, m, p in zip(regions.values, regions.mask, regions.places, strict=True)]


def of_rows(rows: Sequence[tuple[Tensor, Tensor]]) -> Regions:
    """The same as a batch."""
    values, mask = pad([values for values, _ in rows])
    return Regions(values, mask, pad([places for _, places in rows]).values)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``(n,)``: intersection over union of boxes ``(n, 4)``: left, top, right, bottom."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:4], others[:, 2:4])
    both = np.prod((high - low).clip(0), axis=1)
    sizes = [np.prod(box[:, 2:4] - box[:, :2], axis=1) for box in (boxes, others)]
    return both / np.maximum(sizes[0] + sizes[1] - both, 1e-12)


@tasks.register("located")
class Located(Judge):
    """Boxes ``(n, 4)`` against boxes: a hit is an intersection over union above one half."""

    primary = "accuracy"

    def metrics(self, outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        found = overlap(np.asarray(outputs), np.asarray(target))
        return {"accuracy": float((found > HIT).mean()), "overlap": float(found.mean())}

    def scores(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        return (overlap(np.asarray(outputs), np.asarray(target)) > HIT).astype(float)


@systems.register("uniter-refers")
class UniterRefers(Uniter):
    """Which region of a picture does an expression refer to? RefCOCO; needs regions that overlap what is meant.

    A target ``box`` is left, top, right, bottom as shares of the picture; in training the region that overlaps it most
    is right. Options as of ``uniter``; ``loss``, ``task`` are not read.
    """

    reads = {"image": Need("image"), "text": Need("text"), "box": Need("vector", target=True)}
    writes, judge, reader, head = "embedding", "located", "", "re"

    def head_outputs(self) -> int | None:
        return None

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        return super().fitted(data, rows, **{"task": ClassificationTask(["0", "1"]).config(), **options})

    def make_judge(self, **options: Any) -> Judge:
        return Located()

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Any = None) -> np.ndarray:
        return np.stack([data.modalities[cls.columns(data)["box"]].values[row][:4] for row in rows])

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, Tensor]:
        asked, boxes = self.inputs(data, rows, rng), self.truth(data, rows)
        right = [
            int(overlap(places[:, :4], np.broadcast_to(box, (len(places), 4))).argmax())
            for places, box in zip((p[1].numpy() for p in rows_of(asked.regions)), boxes, strict=True)
        ]
        return asked, torch.tensor(right)

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        return F.cross_entropy(self(*batch[0]), batch[1], reduction="none")

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """The box ``(4,)`` of the region that is meant."""
        asked: Inputs = self.to_device(self.inputs(data, rows))
        best = self(*asked).argmax(dim=1)
        return list(asked.regions.places[torch.arange(len(rows)), best, :4].cpu().numpy())

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """As any system; and texts are not too long."""
        System.check(self, data, rows, target=target)
        self.read.check(data, self.columns(data, target=target)["text"], np.asarray(rows))

    validate, assess = System.validate, System.assess
