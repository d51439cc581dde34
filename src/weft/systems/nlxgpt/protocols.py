"""Whether explanations depend on the picture, and whether they explain the answer: two protocols that ask no person.

Source: Sammani et al. 2022 (arXiv 2203.05081), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field

from weft.data import Dataset, Modality, Split
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models.asked import rows_of, values_of
from weft.models.protocol import Protocol, Report, protocols
from weft.systems.nlxgpt.answer_reader import AnswerReader
from weft.systems.nlxgpt.metrics import AnyAnswer, attack_score
from weft.systems.nlxgpt.sequence import (
    majority,
    plain_answers,
    plain_explanation,
    plain_explanations,
    plain_question,
    spoken,
)
from weft.systems.nlxgpt.system import NlxGpt
from weft.training.system_task import fit_system

if TYPE_CHECKING:
    from weft.store import Store

Answered = Callable[[np.ndarray, list[str]], list[str]]
"""Rows ``(n,)`` and an explanation for each, to answers."""
FIRST = (5, 10, 15)
"""How many of the neighbours are looked at."""


@protocols.register("retrieval-attack")
class RetrievalAttack(Protocol):
    """RA@K: how alike the explanations are that one question gets on pictures alike, and one picture under questions
    alike; lower is better.

    For each row, its question is asked of the 15 different pictures nearest to its own (cosine of centred mean
    features; its own is the first), and the 15 different questions nearest to its own are asked of its picture; the
    explanations are embedded. A model that ignores the picture has 1 by the first. Rows without a question have the
    first alone. How the neighbours were found is not published, and its sentence encoder is
    ``hf:sentence-transformers/all-mpnet-base-v2``.

    Args:
        sentence: encoder of questions and explanations, ``"hf:<name or folder>"`` or a registered one.
        queries: how many rows ask, the first ones.
    """

    paper = NlxGpt.paper

    def __init__(self, *, sentence: str = "hashed-text", queries: Annotated[int, Field(ge=1)] = 100) -> None:
        self.sentence, self.queries = sentence, queries

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        net, data = _asked(model, rows)
        chosen, encoder = rows_of(data, split, net), create_encoder(self.sentence, "text")
        net.check(data, chosen, target=False)
        asked = np.array([plain_question(net.question(data, int(row))) for row in chosen])
        put, image = asked != "", values_of(data, net.columns(data, target=False)["image"])[0]
        ways = {
            "pictures": (chosen, net.features(data, chosen), image[chosen]),
            "questions": (chosen[put], encoder.encode(asked[put].tolist()), asked[put]),
        }
        values: dict[str, float] = {}
        table: list[dict[str, Any]] = []
        for kind, (able, tokens, known) in ways.items():
            different = len(np.unique(known))
            sizes = [k for k in FIRST if k <= different]
            if kind == "pictures" and not sizes:
                found = f"{different} different ones in {len(chosen)} rows of {split}"
                raise UserError("a picture needs neighbours", found, "choose --split all")
            scores = []
            near = able[_nearest(tokens, known)][: self.queries] if sizes else ()
            for row, others in zip(able, near, strict=False):
                own = np.full_like(others, row)
                shown, said = (others, own) if kind == "pictures" else (own, others)
                why = [spoken(text)[1] or "." for text in net.answers(data, shown, questions=said.tolist())]
                vectors = _means(encoder, why)
                scores.append([attack_score(vectors[:k]) for k in sizes])
            reached = dict(zip(sizes, np.mean(scores, axis=0).tolist() if sizes else (), strict=True))
            values |= {f"{kind} RA@{k}": score for k, score in reached.items()}
            told = {f"RA@{k}": f"{reached[k]:.3f}" if k in reached else "-" for k in FIRST}
            table.append({"neighbours": kind, "different": different, **told})
        return Report(f"retrieval attack, {split}: {min(self.queries, len(chosen))} rows ask", table, values)


def _nearest(tokens: list[np.ndarray], known: np.ndarray) -> np.ndarray:
    """The 15 likest different values of each row ``(n, <= 15)``, by the first rows that have them; its own is one."""
    means = np.stack([part.mean(axis=0) for part in tokens])
    means = means - means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    first = np.sort(np.unique(known, return_index=True)[1])
    return first[np.argsort(-(means @ means[first].T), axis=1, kind="stable")[:, : max(FIRST)]]


@protocols.register("explain-predict")
class ExplainPredict(Protocol):
    """Whether the answer can be told from the explanation: a classifier of true explanations reads generated ones.

    It reads question and explanation, and learns the answers on the training rows; right is what any annotator said.
    Published: ``reader=hf:distilbert-base-uncased``, fine-tuned; the epoch is chosen by the dev rows (published: by the
    very rows that are told). Without a reader, which needs weights: a logistic regression on the features of a frozen
    encoder, of the most frequent answers.

    Args:
        reader: encoder that is fine-tuned, ``"hf:<name or folder>"``, see
            :class:`~weft.systems.nlxgpt.answer_reader.AnswerReader`.
        asked, longest: its tokens of the question and in all. Published for e-SNLI-VE: 20 and 45; ACT-X: longest 20.
        training: its settings (:class:`~weft.training.TrainConfig`) beside those published for VQA-X: 15 epochs of
            batches of 16, ``lr`` 2e-5. Published for ACT-X: ``{epochs: 20, batch_size: 32, lr: 0.0002}``; e-SNLI-VE:
            ``{epochs: 5, batch_size: 32}``.
        sentence: encoder of the texts of the logistic regression.
    """

    paper = NlxGpt.paper

    def __init__(
        self,
        *,
        reader: str | None = None,
        asked: Annotated[int, Field(ge=1)] = 15,
        longest: Annotated[int, Field(ge=2)] = 40,
        training: dict[str, Any] | None = None,
        sentence: str = "tfidf",
    ) -> None:
        self.reader, self.asked, self.longest, self.training = reader, asked, longest, training or {}
        self.sentence = sentence

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        net, data = _asked(model, rows)
        train, chosen = rows_of(data, "train", net), rows_of(data, split, net)
        net.check(data, np.concatenate([train, chosen]))
        answers = {answer for cell in net.truth(data, train).answers for answer in plain_answers(cell)}
        if len(answers) < 2:
            raise UserError("explain-predict tells answers apart", f"all are {answers.pop()!r}", "bring other rows")
        answered = self._solved(net, data, train) if self.reader is None else self._tuned(net, data, train, progress)
        truth = net.truth(data, chosen)
        texts = {
            "true explanations": [plain_explanations(cell)[0] for cell in truth.explanations],
            "generated explanations": [spoken(text)[1] for text in net.predictions(data, chosen)],
        }
        values = {
            kind: float(AnyAnswer().scores(answered(chosen, why), truth.answers).mean()) for kind, why in texts.items()
        }
        return Report(f"explain-predict, {split}: {len(chosen)} rows", [_row(values)], values)

    def _tuned(self, net: NlxGpt, data: Dataset, train: np.ndarray, progress: bool) -> Answered:
        """By the fine-tuned encoder."""
        dev, settings = rows_of(data, "dev", net), {**AnswerReader.trained_with, **self.training}
        options = {"text": self.reader, "asked": self.asked, "longest": self.longest}
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(settings.get("seed", 0))
            reader = AnswerReader.fitted(data, train, **options)
        fit_system(reader, data, Split(train, dev, dev[:0]), settings, progress=progress)
        column = AnswerReader.columns(data)["explanation"]

        def answered(rows: np.ndarray, why: list[str]) -> list[str]:
            cells: list[str | None] = [None] * len(data)
            for row, text in zip(rows, why, strict=True):
                cells[row] = text or None
            told = replace(data, modalities={**data.modalities, column: Modality("text", cells)})
            return list(reader.predictions(told, rows))

        return answered

    def _solved(self, net: NlxGpt, data: Dataset, train: np.ndarray) -> Answered:
        """By a logistic regression on frozen features."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known, encoder = net.truth(data, train), create_encoder(self.sentence, "text")

        def joined(rows: np.ndarray, why: list[str]) -> list[str]:
            asked = [plain_question(net.question(data, int(row))) for row in rows]
            return [f"{question} [SEP] {plain_explanation(text)}" for question, text in zip(asked, why, strict=True)]

        texts = joined(train, [plain_explanations(cell)[0] for cell in known.explanations])
        encoder.fit(texts)
        reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        reader.fit(_means(encoder, texts), [majority(cell) for cell in known.answers])
        return lambda rows, why: reader.predict(_means(encoder, joined(rows, why))).tolist()


def _asked(model: Any, rows: Store | Dataset) -> tuple[NlxGpt, Dataset]:
    if not isinstance(model, NlxGpt) or not isinstance(rows, Dataset):
        found = f"a {type(model).__name__} and a {type(rows).__name__}"
        raise UserError("explanations are asked of nlx-gpt, on raw rows", found, "weft fit SOURCE --system nlx-gpt")
    return model, rows


def _means(encoder: Any, texts: list[str]) -> np.ndarray:
    return np.stack([tokens.mean(axis=0) for tokens in encoder.encode(texts)])


def _row(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in values.items()}
