r"""Who reads question and explanation and tells the answer: the classifier of ``explain-predict``, fine-tuned.

A transformers encoder reads ``[CLS] question [SEP] explanation``, or ``[CLS] explanation`` where there is no question;
of its first token, logits of the answers are

.. math:: W_2\, \mathrm{Drop}(\mathrm{ReLU}(W_1 h + b_1)) + b_2

All weights train. An answer that :math:`n` of several people gave has the target :math:`0, .3, .6, .9, 1` for :math:`n
= 0, 1, 2, 3, \ge 4`, the only answer of a row has 1; the loss is the sum of binary cross-entropies. Where every row has
one answer, to a question, it is the cross-entropy of a softmax (e-SNLI-VE).

Source: Sammani et al. 2022 (arXiv 2203.05081), section 4.2; the head is that of transformers' DistilBERT.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.data import Dataset
from weft.encoders import create_encoder
from weft.encoders.tower import Tower
from weft.errors import UserError
from weft.systems.nlxgpt.metrics import AnyAnswer
from weft.systems.nlxgpt.sequence import plain_answers, plain_explanations, plain_question
from weft.tokens import Tokens
from weft.training.system import Need, System, take

SHARES = (0.0, 0.3, 0.6, 0.9, 1.0)
DROPOUT = 0.2


class AnswerReader(System):
    """Answers by question and explanation; several explanations of a row are drawn from in training.

    Args:
        text: the encoder, ``"hf:<name or folder>"`` of a model whose texts begin with a token of their own.
        answers: all that it can say.
        soft: whether answers are scored each by itself, see above.
        asked: tokens of the question at most, the first token included.
        longest: tokens in all.
    """

    reads = {
        "question": Need("text", optional=True),
        "explanation": Need("text", optional=True),
        "answer": Need("text", target=True),
    }
    writes = "text"
    trained_with = {
        "lr": 2e-5, "weight_decay": 0.0, "epochs": 15, "batch_size": 16, "schedule": "linear", "warmup": 0, "clip": 0,
        "patience": 0,
    }  # fmt: skip

    def __init__(
        self,
        *,
        text: str,
        answers: list[str],
        soft: bool = True,
        asked: Annotated[int, Field(ge=1)] = 15,
        longest: Annotated[int, Field(ge=2)] = 40,
    ) -> None:
        super().__init__()
        self.text, self.answers, self.soft, self.asked, self.longest = text, answers, soft, asked, longest
        encoder: Any = create_encoder(text, "text")
        self.tower, self._tokenizer, self._most = Tower(encoder), encoder.processor, min(longest, encoder.max_length)
        known = self._tokenizer
        self._first = known.bos_token_id if known.cls_token_id is None else known.cls_token_id
        self._between = known.eos_token_id if known.sep_token_id is None else known.sep_token_id
        if self._first is None or self._between is None:
            found = f"{text}: {type(known).__name__} without one"
            raise UserError("answers are read off the first token, [CLS]", found, "name a BERT, DistilBERT or RoBERTa")
        width = self.tower.width
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(width, len(answers))
        )

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        said = [plain_answers(cell) for cell in take(data, columns["answer"], rows)]
        one = all(len(answers) == 1 for answers in said) and any(take(data, columns["question"], rows))
        return cls(**{**options, "answers": sorted({answer for row in said for answer in row}), "soft": not one})

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Tokens, Tensor]:
        target = torch.zeros(len(rows), len(self.answers))
        place = {answer: i for i, answer in enumerate(self.answers)}
        for i, cell in enumerate(take(data, self.columns(data)["answer"], rows)):
            said = plain_answers(cell)
            for answer, count in Counter(said).items():
                if answer in place:
                    target[i, place[answer]] = 1.0 if len(said) == 1 else SHARES[min(count, len(SHARES) - 1)]
        return self.inputs(data, rows, rng), target

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tokens:
        """Numbers of tokens ``(B, T)``, padded on the right."""
        columns = self.columns(data, target=False)
        questions, cells = (take(data, columns[role], rows) for role in ("question", "explanation"))
        found = []
        for question, cell in zip(questions, cells, strict=True):
            why = plain_explanations(cell or "") or [""]
            asked = self._numbers(plain_question(question or ""))
            ids = [self._first, *asked][: self.asked] + [self._between] * bool(asked)
            found.append((ids + self._numbers(why[rng.integers(len(why))] if rng else why[0]))[: self._most])
        widest = max(map(len, found))
        pad = self._tokenizer.pad_token_id
        values = torch.tensor([ids + [pad] * (widest - len(ids)) for ids in found])
        return Tokens(values, torch.tensor([[i < len(ids) for i in range(widest)] for ids in found]))

    def forward(self, raw: Tokens) -> Tensor:
        """Logits ``(B, answers)``."""
        logits: Tensor = self.head(self.tower(raw).values[:, 0])
        return logits

    def loss(self, batch: tuple[Tokens, Tensor]) -> Tensor:
        logits, target = self(batch[0]), batch[1]
        if self.soft:
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)
        return -(target * logits.log_softmax(dim=1)).sum(dim=1)

    def predict(self, data: Dataset, rows: np.ndarray) -> list[str]:
        """The likeliest answers."""
        logits = self(self.to_device(self.inputs(data, rows)))
        return [self.answers[place] for place in logits.argmax(dim=1).tolist()]

    def make_judge(self, **options: Any) -> AnyAnswer:
        return AnyAnswer()

    def _numbers(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found
