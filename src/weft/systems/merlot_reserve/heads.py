r"""What a pre-trained MERLOT Reserve answers: the class of a video, and which of several answers is the right one.

The output :math:`x` at a ``MASK`` beside all frames, and sound or words of all segments, is read in one of two ways:

* ``head="linear"``, fine-tuned: a matrix for the classes; for answers, each in a sequence of its own, one row;
* ``head="words"``, zero-shot or fine-tuned: :math:`100\,\hat x \cdot \hat y_k`, with :math:`\hat y_k` what the span
  encoder makes of the name of a class, or of an answer.

Answers are asked for twice, beside words and beside sound; the loss is the sum of both, and what is said the mean of
both probabilities. ``anchored``: weights decay towards those of ``start``, as published, not towards zero.

Source: Zellers et al. 2022 (arXiv 2201.02639), sections 4.1 to 4.3 (VCR, TVQA, Kinetics-600, zero-shot).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.data import Dataset
from weft.errors import UserError, some
from weft.models.pretrained import load_model
from weft.registry import Learned
from weft.systems.merlot_reserve.optimizer import BETAS, AnchoredOptimizer
from weft.systems.merlot_reserve.pretrain import AUDIOSPAN, MASK, Videos, Words
from weft.systems.merlot_reserve.script import Script, Token
from weft.systems.merlot_reserve.system import UNKNOWN, MerlotReserve
from weft.tasks.captions import words
from weft.training.phase import Optimizer, Phase
from weft.training.system import Need, TaskSystem, systems, take

SHARP = 100.0
Head = Literal["linear", "words"]
Beside = Literal["sound", "words"]


class Answering(TaskSystem):
    """Base of both.

    Args:
        start: folder of a trained ``merlot-reserve``.
        head, anchored: see the module.
        longest: words of a question and an answer together, or of the name of a class; longer ones are cut.
        reserve, task: learned: the settings of ``start``, and the classes.
    """

    trained_with: ClassVar[dict[str, Any]] = {"lr": 1e-4, "weight_decay": 0.1, "epochs": 5, "batch_size": 16}
    paper = MerlotReserve.paper

    def __init__(
        self,
        *,
        start: str | None = None,
        head: Head = "linear",
        anchored: bool = True,
        longest: Annotated[int, Field(ge=1)] = 15,
        reserve: Learned[dict[str, Any] | None] = None,
        task: Learned[dict[str, Any] | None] = None,
    ) -> None:
        if task is None:
            raise UserError("an answering system knows what is asked", "no task", "make it by make_system, or load it")
        super().__init__(task)
        self.start, self.head, self.anchored, self.longest, self.reserve = start, head, anchored, longest, reserve
        self.base = MerlotReserve(**(reserve or {}))
        self.answer = nn.Linear(self.base.width, self.rows_of_head(), bias=False)

    def rows_of_head(self) -> int:
        """Of the linear head."""
        return self.answers.outputs

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        if not options.get("start"):
            raise UserError(
                "answers are those of a trained network", "start is not given", "weft fit --system merlot-reserve"
            )
        start = load_model(options["start"])
        if not isinstance(start, MerlotReserve):
            raise UserError(
                "start is a merlot-reserve", f"{options['start']}: {type(start).__name__}", "give another folder"
            )
        found = super().fitted(data, rows, **{**options, "reserve": start.config()})
        found.base.load_state_dict(start.state_dict())
        return found

    def phases(self) -> list[Phase]:
        made = AnchoredOptimizer if self.anchored else Optimizer
        moved = [p for name, p in self.named_parameters() if self.head == "linear" or not name.startswith("answer.")]
        return [Phase("loss", self.loss, made(moved, betas=BETAS))]

    def told(self, script: Script, beside: Beside) -> list[Token]:
        """All segments in sound or in words; in words where the network was trained without sound."""
        if beside == "sound" and self.base.hear:
            return [(AUDIOSPAN, span, -1) for span in range(len(script.ids)) for _ in range(self.base.pieces)]
        return [(token, span, -1) for span, said in enumerate(script.ids) for word in said for token in word]

    def ids_of(self, text: str) -> list[int]:
        """Tokens of a text."""
        return [self.base.ids.get(word, UNKNOWN) for word in words(text)][: self.longest]

    def heard(self, data: Dataset, rows: np.ndarray) -> tuple[Videos, list[Script]]:
        """What is seen and heard of the rows, and their scripts."""
        return self.base.without_sequences(data, rows)

    def states(self, videos: Videos, asked: Words, times: int = 1) -> Tensor:
        """Outputs ``(B times, H)`` at the ``MASK`` of sequences ``(B times, 1, L)``, so many of each row."""
        network = self.base.network
        _, _, frames, sound = network.encoded(videos)
        parts = (part.repeat_interleave(times, dim=0) for part in (sound, frames, videos.source))
        return network.asked(asked, MASK, *parts)

    def likeness(self, x: Tensor, spans: Tensor) -> Tensor:
        """Logits of states ``(..., H)`` and words ``(..., K, n)``."""
        y = F.normalize(self.base.network.spoken(spans), dim=-1)
        return SHARP * (F.normalize(x, dim=-1).unsqueeze(-2) * y).sum(dim=-1)


@systems.register("merlot-reserve-classes")
class ReserveClasses(Answering):
    """The class of a video by frames and sound; MERLOT Reserve, Zellers et al. 2022.

    Args: those of :class:`Answering`.
    """

    reads = {"video": Need("video"), "audio": Need("audio"), "subtitles": Need("text"), "label": Need("label")}
    variants = {"linear head": {}, "names of the classes": {"head": "words"}}

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, ...]:
        videos, scripts = self.heard(data, rows)
        asked = self.base.one([[(MASK, 0, 0), *self.told(script, "sound")] for script in scripts])
        return videos, asked

    def forward(self, videos: Videos, asked: Words) -> Tensor:
        """Logits ``(B, K)``."""
        x = self.states(videos, asked)
        if self.head == "linear":
            found: Tensor = self.answer(x)
            return found
        names = self.base.padded([self.ids_of(str(name)) for name in self.answers.config()["classes"]], self.longest)
        return self.likeness(x, names.to(x.device))


@systems.register("merlot-reserve-choices")
class ReserveChoices(Answering):
    """Which of several answers to a question about a video is right; MERLOT Reserve, Zellers et al. 2022.

    The label is the number of the right one, from 0; rows may have fewer answers than others (None).

    Args: those of :class:`Answering`.
    """

    reads = {
        "video": Need("video"), "audio": Need("audio"), "subtitles": Need("text"), "question": Need("text"),
        "choices": Need("texts"), "label": Need("label"),
    }  # fmt: skip
    variants = {"linear head": {}, "words of the answers": {"head": "words"}}

    def rows_of_head(self) -> int:
        return 1

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        found = super().fitted(data, rows, **options)
        most = max(len(choices) for choices in take(data, cls.columns(data)["choices"], rows))
        classes = found.answers.config()["classes"]
        if list(classes) != list(range(most)):
            raise UserError(
                "the label is the number of the right answer, from 0, and each is right in a training row",
                f"{most} answers, labels {some(classes)}", "number them, and shuffle them",
            )  # fmt: skip
        return found

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, ...]:
        videos, scripts = self.heard(data, rows)
        columns = self.columns(data, target=False)
        questions = [self.ids_of(text) for text in take(data, columns["question"], rows)]
        choices = [
            [None if text is None else self.ids_of(text) for text in row]
            for row in take(data, columns["choices"], rows)
        ]
        linear, passes = self.head == "linear", []
        for beside in ("words", "sound"):
            sequences: list[list[Token]] = []
            for script, question, answers in zip(scripts, questions, choices, strict=True):
                told = self.told(script, "words" if beside == "words" else "sound")
                for answer in answers if linear else [[]]:
                    said = [*question, *(answer or [])][: self.longest]
                    sequences.append([*((token, 0, -1) for token in said), (MASK, 0, 0), *told])
            passes.append(self.base.one(sequences))
        spans = torch.stack([self.base.padded([a or [] for a in row], self.longest) for row in choices])
        there = torch.tensor([[answer is not None for answer in row] for row in choices])
        return videos, passes, spans, there

    def forward(self, videos: Videos, passes: list[Words], spans: Tensor, there: Tensor) -> Tensor:
        """Log-probabilities ``(B, K)``: of the mean over both passes."""
        return torch.stack(self.both(videos, passes, spans, there)).log_softmax(dim=-1).logsumexp(dim=0) - np.log(2)

    def both(self, videos: Videos, passes: list[Words], spans: Tensor, there: Tensor) -> list[Tensor]:
        """Logits ``(B, K)`` beside words and beside sound."""
        found = []
        for asked in passes:
            x = self.states(videos, asked, there.shape[1] if self.head == "linear" else 1)
            logits = self.answer(x).view(there.shape) if self.head == "linear" else self.likeness(x, spans)
            found.append(logits.masked_fill(~there, -torch.inf))
        return found

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        inputs, target = batch
        return torch.stack([self.answers.loss(logits, target) for logits in self.both(*inputs)]).sum(dim=0)
