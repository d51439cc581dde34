"""VQA accuracy against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from weft.errors import UserError
from weft.tasks.vqa_accuracy import vqa_accuracy


def test_equals_counting() -> None:
    rng = np.random.default_rng(0)
    words = np.array(["yes", "no", "2", "red", ""])
    answers = words[rng.integers(0, 5, size=(60, 10))]
    answers[:, :3] = words[rng.integers(0, 4, size=(60, 3))]
    guess = words[rng.integers(0, 4, size=60)]
    expected = []
    for row, one in zip(answers, guess, strict=True):
        matches = 0
        for given in row:
            matches += int(given == one)
        expected.append(1.0 if matches >= 3 else matches / 3)
    found = vqa_accuracy(guess, answers)
    assert found.tolist() == pytest.approx(expected)
    assert len(set(found.round(3))) == 4


def test_case_and_blanks_do_not_count_and_no_answer_is_no_match() -> None:
    answers = np.array([["Yes ", "YES", "no", "no", ""], ["a", "b", "c", "", ""]])
    assert vqa_accuracy([" yes", ""], answers).tolist() == pytest.approx([2 / 3, 0.0])


@pytest.mark.parametrize(
    ("guess", "answers", "words"),
    [
        (["a", "b"], np.array([["a", "a", "a"]]), "one prediction"),
        (["a"], np.array(["a", "a", "a"]), "one prediction"),
        (["a", "b"], np.array([["a", "a", "a"], ["b", "", "b"]]), "1 rows have fewer: 1"),
    ],
)
def test_bad_input(guess: list[str], answers: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        vqa_accuracy(guess, answers)
