"""Whether explanations depend on the picture, and whether they explain the answer: two protocols that ask no person.

Source: Sammani et al. 2022 (arXiv 2203.05081), section 4.2.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from weft.data import Dataset
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models.asked import rows_of, values_of
from weft.models.protocol import Protocol, Report, protocols
from weft.systems.nlxgpt.metrics import attack_score
from weft.systems.nlxgpt.sequence import majority, plain_explanation, plain_question, spoken
from weft.systems.nlxgpt.system import NlxGpt
from weft.tasks.captions import lines

if TYPE_CHECKING:
    from weft.store import Store

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

    It reads question and explanation, and learns the answers on the training rows; published: a DistilBERT fine-tuned,
    here a logistic regression on the features of a frozen encoder.

    Args:
        sentence: encoder of the texts.
    """

    paper = NlxGpt.paper

    def __init__(self, *, sentence: str = "tfidf") -> None:
        self.sentence = sentence

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        net, data = _asked(model, rows)
        train, chosen = rows_of(data, "train", net), rows_of(data, split, net)
        net.check(data, np.concatenate([train, chosen]))
        known, truth = net.truth(data, train), net.truth(data, chosen)
        texts = [_joined(net, data, row, lines(cell)[0]) for row, cell in zip(train, known.explanations, strict=True)]
        encoder = create_encoder(self.sentence, "text")
        encoder.fit(texts)
        answers = [majority(cell) for cell in known.answers]
        if len(set(answers)) < 2:
            raise UserError("explain-predict tells answers apart", f"all are {answers[0]!r}", "bring other rows")
        reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(_means(encoder, texts), answers)
        wanted = np.array([majority(cell) for cell in truth.answers])
        said = [spoken(text)[1] for text in net.predictions(data, chosen)]
        own = [lines(cell)[0] for cell in truth.explanations]
        values = {
            kind: float(np.mean(reader.predict(_means(encoder, [
                _joined(net, data, row, text) for row, text in zip(chosen, why, strict=True)
            ])) == wanted))
            for kind, why in (("true explanations", own), ("generated explanations", said))
        }  # fmt: skip
        return Report(f"explain-predict, {split}: {len(chosen)} rows", [_row(values)], values)


def _asked(model: Any, rows: Store | Dataset) -> tuple[NlxGpt, Dataset]:
    if not isinstance(model, NlxGpt) or not isinstance(rows, Dataset):
        found = f"a {type(model).__name__} and a {type(rows).__name__}"
        raise UserError("explanations are asked of nlx-gpt, on raw rows", found, "weft fit SOURCE --system nlx-gpt")
    return model, rows


def _joined(net: NlxGpt, data: Dataset, row: int, why: str) -> str:
    return f"{plain_question(net.question(data, int(row)))} [SEP] {plain_explanation(why)}"


def _means(encoder: Any, texts: list[str]) -> np.ndarray:
    return np.stack([tokens.mean(axis=0) for tokens in encoder.encode(texts)])


def _row(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in values.items()}
