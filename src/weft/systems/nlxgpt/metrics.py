"""Who judges answers with explanations, and the retrieval attack on explanations.

Source: Sammani et al. 2022 (arXiv 2203.05081), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from weft.systems.nlxgpt.sequence import majority, plain_answer, plain_answers, plain_explanations, spoken
from weft.tasks.base import tasks
from weft.tasks.captions import caption_scores
from weft.tasks.judge import Judge


class Said(NamedTuple):
    """What people said of the rows: cells with an answer per line, and with an explanation per line."""

    answers: list[str]
    explanations: list[str]


@tasks.register("explanations")
class ExplanationJudge(Judge):
    """Texts ``answer because explanation``.

    ``accuracy``: the answer is the annotators' most frequent one; ``accuracy any``: one of theirs. BLEU, ROUGE-L and
    CIDEr-D of the explanations: unfiltered of all rows, ``filtered ...`` of those whose answer is right (NaN where none
    is).
    """

    primary = "accuracy"

    def metrics(self, outputs: Sequence[str], target: Said) -> dict[str, float]:
        said = [spoken(text) for text in outputs]
        references = [plain_explanations(cell) for cell in target.explanations]
        right = self.scores(outputs, target) == 1
        near = AnyAnswer().scores([answer for answer, _ in said], target.answers)
        found = {"accuracy": float(right.mean()), "accuracy any": float(near.mean())}
        for kind, rows in (("", np.arange(len(said))), ("filtered ", np.flatnonzero(right))):
            scores = caption_scores([said[row][1] for row in rows], [references[row] for row in rows])
            found |= {f"{kind}{name}": value for name, value in scores.items()}
        return found

    def scores(self, outputs: Sequence[str], target: Said) -> np.ndarray:
        """``(N,)`` 1 where the answer is the most frequent one."""
        answers = [plain_answer(spoken(text)[0]) for text in outputs]
        return np.array([a == majority(cell) for a, cell in zip(answers, target.answers, strict=True)], dtype=float)


class AnyAnswer(Judge):
    """Answers of which each is right if one of the annotators, of whom every line of a cell has one, gave it."""

    primary = "accuracy"

    def metrics(self, outputs: Sequence[str], target: Sequence[str]) -> dict[str, float]:
        return {"accuracy": float(self.scores(outputs, target).mean())}

    def scores(self, outputs: Sequence[str], target: Sequence[str]) -> np.ndarray:
        answers = zip(outputs, target, strict=True)
        return np.array([plain_answer(answer) in plain_answers(cell) for answer, cell in answers], dtype=float)


def attack_score(vectors: np.ndarray) -> float:
    r"""How alike explanations of like inputs are, :math:`\frac{2}{K(K-1)} \sum_{i<j} \max(0, \cos(v_i, v_j))`.

    High values mean that explanations hardly depend on the input.

    Args:
        vectors: ``(K, D)`` embeddings of the explanations of one query's K neighbours, K at least 2.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.maximum(unit @ unit.T, 0)[np.triu_indices(len(vectors), 1)].mean())
