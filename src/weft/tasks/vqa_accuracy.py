r"""The accuracy of visual question answering: an answer is right as far as the annotators gave it.

.. math:: \mathrm{acc}(a) = \min(1,\ \#\{\text{annotators whose answer is } a\} / 3)

Answers are compared after folding case and outer blanks. The official evaluation also averages over the subsets of nine
of ten annotators and unifies articles, numerals and punctuation; neither is done here.

Source: Antol et al., "VQA: Visual Question Answering", ICCV 2015, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weft.errors import UserError, some

AGREE = 3
"""As many equal answers make an answer right."""


def vqa_accuracy(prediction: Sequence[str] | np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Accuracy of every row, ``(N,)`` in {0, 1/3, 2/3, 1}; its mean is the metric.

    Args:
        prediction: ``(N,)`` answers.
        answers: ``(N, A)`` of all annotators, "" where one gave none; at least three in every row.

    Raises:
        UserError: the shapes do not fit, or a row has fewer than three answers, which no answer can satisfy.
    """
    guess, given = np.char.lower(np.char.strip(_text(prediction))), np.char.lower(np.char.strip(_text(answers)))
    if guess.ndim != 1 or given.ndim != 2 or len(guess) != len(given):
        raise UserError(
            "VQA accuracy: one prediction and A answers per question",
            f"predictions {guess.shape}, answers {given.shape}",
            "give (N,) predictions and the (N, A) target 'answers' of the same rows",
        )
    few = np.flatnonzero((given != "").sum(axis=1) < AGREE)
    if len(few):
        raise UserError(
            f"VQA accuracy: every question has {AGREE} answers or more",
            f"{len(few)} rows have fewer: {some(few.tolist())}",
            "use plain accuracy where there is one answer per question",
        )
    return np.minimum(1.0, ((given == guess[:, None]) & (given != "")).sum(axis=1) / AGREE)


def metric_of_annotators(
    targets: Mapping[str, np.ndarray], rows: np.ndarray, prediction: Sequence[str] | np.ndarray
) -> dict[str, float]:
    """``{"vqa_accuracy": mean}`` where the target ``answers`` ``(N, A)`` has three or more in every row; else {}."""
    answers = targets.get("answers")
    if answers is None or answers.ndim != 2 or (_text(answers[rows]) != "").sum(axis=1).min(initial=AGREE) < AGREE:
        return {}
    return {"vqa_accuracy": float(vqa_accuracy(prediction, answers[rows]).mean())}


def _text(values: Sequence[str] | np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(str)
