"""VQA accuracy against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from weft.cli import app
from weft.data import Dataset, Modality, make_splits
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.store import MemoryFeatures, encode
from weft.tasks.base import create_task
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


def test_the_verb_reports_it_where_there_are_three_answers(tmp_path: Path) -> None:
    from weft.models import FusedModel, Seen

    rng = np.random.default_rng(0)
    answer = np.array(["yes", "no"] * 15)
    answers = np.stack([answer, answer, np.array(["no", "yes", "blue"] * 10)], axis=1)
    for count in (3, 2):
        targets = {"answer": answer, "answers": answers[:, :count]}
        values = {"text": rng.normal(size=(30, 4)).astype(np.float32)}
        features = MemoryFeatures([str(i) for i in range(30)], values, targets, task="classification")
        modalities = {"text": Modality("vector", list(values["text"]))}
        data = Dataset("v", features.ids, modalities, targets, None, None, "classification")
        folder = tmp_path / f"store{count}"
        store = encode(data, {"text": create_encoder("precomputed", "vector")}, folder, dtype="fp32", progress=False)
        model = FusedModel.build(dims=store.dims, task=create_task("classification", answer), target="answer")
        model.standardise(store.gather(np.arange(30)))
        model.seen = Seen.of(store, make_splits(store))
        model.save_pretrained(tmp_path / "model")
        result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "model"), str(folder), "--json"])
        found = json.loads(result.stdout)
        rows = make_splits(store).test
        if count == 3:
            guess = model.predict(store, rows)["prediction"]
            by_hand = [min(1.0, sum(a == g for a in answers[row]) / 3) for g, row in zip(guess, rows, strict=True)]
            assert found["vqa_accuracy"] == pytest.approx(np.mean(by_hand))
        else:
            assert "vqa_accuracy" not in found


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
