"""UNITER answers questions about photos.

Regions are a detector's (``regions``, a folder) or the cells of a frozen encoder's grid (``image``), standardised on
the training rows. The BERT begins from one of transformers (``text``), from a pre-trained ``uniter-pairs``, or fresh,
over the words of the training texts.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from weft.data import Dataset
from weft.registry import Count, Learned
from weft.systems.image_text import AnswerSystem, settled, texts_of
from weft.systems.uniter.begin import PAPER, SHARED, TRAINED, Inputs, begin, learned, set_up, show
from weft.systems.uniter.heads import UniterFor
from weft.systems.uniter.pairs import UniterPairs
from weft.systems.uniter.regions import Regions
from weft.tokens import Tokens
from weft.training.phase import Optimizer, Phase
from weft.training.system import systems


@systems.register("uniter")
class Uniter(AnswerSystem):
    """Answers to texts about pictures by one BERT over words and regions; Chen et al. 2020.

    Args:
        image: frozen encoder whose grid cells are the regions (``hf:<folder>``, ``image-patches``).
        pixels: side that pictures are resized to for it; None: its own.
        regions: folder of a detector's regions in place of the grid, see :mod:`weft.systems.uniter.regions`.
        text: a BERT of transformers to begin from, which decides all sizes; None: a fresh one.
        dim, heads, hidden, layers, dropout: of the BERT.
        length: most word pieces of a text; ``cut``: longer ones are cut, not refused.
        loss: ``bce`` against soft scores of the answers, or that of the ``task``.
        head_rate: what the learning rate of the head is multiplied by.
        begin: folder of a model of ``uniter-pairs`` to begin from, whose sizes are taken over.
        task, vocabulary, encoder, width, classes: learned.
    """

    trained_with = {**TRAINED, "epochs": 10, "batch_size": 512}
    variants = {"uniter": {}}
    paper = PAPER
    head: ClassVar[str] = "vqa"
    """One of :data:`weft.systems.uniter.heads.HEADS`."""
    more_types: ClassVar[tuple[int, ...]] = ()
    """Rows of the table of types beyond two, by the row each is at first a copy of."""
    parts: ClassVar[int] = 1
    """Texts of ``length`` that stand in one sequence."""

    def __init__(
        self,
        *,
        image: str = "image-patches",
        pixels: Count | None = None,
        regions: str | None = None,
        text: str | None = None,
        dim: Count = 768,
        heads: Count = 12,
        hidden: Count | None = None,
        layers: Count = 12,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        length: Annotated[int, Field(ge=3)] = 60,
        cut: bool = False,
        loss: Literal["bce", "task"] = "bce",
        head_rate: Annotated[float, Field(gt=0)] = 10.0,
        begin: str | None = None,
        task: Learned[dict[str, Any] | None] = None,
        vocabulary: Learned[tuple[str, ...]] = (),
        encoder: Learned[dict[str, Any] | None] = None,
        width: Learned[Annotated[int, Field(ge=0)]] = 0,
        classes: Learned[Annotated[int, Field(ge=0)]] = 0,
    ) -> None:
        super().__init__(task or {})
        self.image, self.pixels, self.regions, self.text = image, pixels, regions, text
        self.dim, self.heads, self.hidden, self.layers, self.dropout = dim, heads, hidden, layers, dropout
        self.length, self.cut, self.loss_kind, self.head_rate, self.begin = length, cut, loss, head_rate, begin
        self.vocabulary, self.encoder, self.width, self.classes = vocabulary, encoder, width, classes
        self.network = UniterFor(set_up(self), width, self.head, self.head_outputs())

    def head_outputs(self) -> int | None:
        """Of the head; None: its own number."""
        return self.answers.outputs

    @classmethod
    def texts(cls, data: Dataset, columns: dict[str, str], rows: np.ndarray) -> list[str]:
        """All that is read of the training rows ``(n,)``, of which the vocabulary is learned."""
        return texts_of(data, columns["text"], rows)

    def config(self) -> dict[str, Any]:
        kept = ("cut", "dropout", "head_rate", "begin", "task")
        return {name: getattr(self, name) for name in (*SHARED, *kept)} | {"loss": self.loss_kind}

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        texts = cls.texts(data, columns, rows)
        learn = partial(learned, data, rows, columns, options, texts)
        other, options = settled(options, UniterPairs, SHARED, learn, texts)
        model = super().fitted(data, rows, **options)
        begin(model, data, rows, columns, other)
        return model

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Inputs:
        words = self.read.vocabulary.padded(self.read.words(data, self.columns(data, target=False)["text"], rows))
        return Inputs(words.values, words.mask, show(self, data, rows))

    def forward(self, ids: Tensor, mask: Tensor, regions: Regions) -> Tensor:
        """Logits ``(B, answers)``."""
        logits: Tensor = self.network(ids, mask, Tokens(regions.values, regions.mask), regions.places)
        return logits

    def phases(self) -> list[Phase]:
        head = list(self.network.head.parameters())
        optimizer = Optimizer(list(self.network.parameters()), betas=(0.9, 0.98), layers=[(self.head_rate, head)])
        return [Phase("loss", self.loss, optimizer)]
