"""Texts beside one another, against scikit-learn's vectoriser and by hand; and the door that proposes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

import weft
from weft.data import read_table
from weft.data.guess import propose_table
from weft.encoders import create_encoder
from weft.errors import UserError

ONE = ["the red cat sat down", "a dog ran far away", "one two three four", "the cat and the dog"]
TWO = ["a red cat was sitting", "the dog runs away", "five six seven eight", "the cat and the dog"]
PAIRS = list(zip(ONE, TWO, strict=True))


def test_cosines_are_those_of_a_vectoriser_of_all_texts() -> None:
    encoder = create_encoder("likeness", "texts")
    encoder.fit(PAIRS)
    found = np.concatenate(encoder.encode(PAIRS))
    assert found.shape == (4, encoder.width)
    assert encoder.width == 6
    for column, (analyzer, lengths) in enumerate([("word", (1, 2)), ("char_wb", (3, 5))]):
        space = TfidfVectorizer(analyzer=analyzer, ngram_range=lengths, min_df=2, sublinear_tf=True).fit([*ONE, *TWO])
        expected = (space.transform(ONE).multiply(space.transform(TWO))).sum(axis=1)
        np.testing.assert_allclose(found[:, column], np.asarray(expected).ravel(), atol=1e-3)  # weights of 4 digits
    np.testing.assert_allclose(found[3], [1, 1, 1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[0, 2:5], [2 / 5, 2 / 5, 0.0])
    np.testing.assert_allclose(found[1, 4], np.log(6 / 5), atol=1e-6)


def test_what_was_learned_comes_back_and_a_missing_text_is_marked() -> None:
    encoder, other = create_encoder("likeness", "texts"), create_encoder("likeness", "texts")
    rows = [(*pair, third) for pair, third in zip(PAIRS, ["a cat", None, "one two", "far"], strict=True)]
    encoder.fit(rows)
    other.load_state(encoder.state())
    found = np.concatenate(encoder.encode(rows))
    np.testing.assert_array_equal(np.concatenate(other.encode(rows)), found)
    assert found.shape == (4, 18)
    np.testing.assert_array_equal(found[1, 6:], [0, 0, 0, 0, 0, 1] * 2)  # one-three and two-three
    np.testing.assert_array_equal(encoder.encode([(None, "new words", None)])[0][0], [0, 0, 0, 0, 0, 1] * 3)
    with pytest.raises(UserError, match="2 texts, 3 in training"):
        encoder.encode(PAIRS)
    with pytest.raises(UserError, match="not fitted"):
        create_encoder("likeness", "texts").encode(PAIRS)


def table(rows: int = 160) -> dict[str, list[str]]:
    """Pairs of sentences of made words, half of them alike in what they say."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}o" for a in "bdfgk" for b in "aeiou" for c in "lmnr"]
    one = [rng.choice(words, 6).tolist() for _ in range(rows)]
    same = rng.integers(0, 2, rows)
    two = [rng.permutation(o).tolist() if s else rng.choice(words, 6).tolist() for o, s in zip(one, same, strict=True)]
    return {"first": [" ".join(o) for o in one], "second": [" ".join(t) for t in two], "same": same.tolist()}


def test_two_sentences_are_proposed_beside_one_another_and_win(tmp_path: Path) -> None:
    """Neither sentence says anything alone."""
    frame = table()
    proposal = propose_table(frame, target="same")
    assert list(proposal.config.modalities) == ["first", "second", "likeness"]
    assert proposal.config.modalities["likeness"].kind == "texts"
    assert "'first', 'second' are texts of like length" in proposal.reasons["modality 'likeness'"]
    quick = {"only": ["*linear*"], "seeds": 1, "resamples": 99, "ensembles": False, "refit": False}
    found = weft.compare(frame, target="same", folder=tmp_path, progress=False, **quick)
    rows = {row.method: row.test or 0.0 for row in found.rows}
    assert rows["likeness (linear)"] > 0.95
    assert max(rows["first (linear)"], rows["second (linear)"]) < 0.75
    said = weft.load_model(found.best).predict({"first": ["a b c"], "second": [None]}, progress=False)
    assert len(said["prediction"]) == 1


def test_no_likeness_of_sides_that_search_each_other_nor_of_a_title_and_its_text() -> None:
    frame = table()
    assert "likeness" not in propose_table({k: frame[k] for k in ("first", "second")}).config.modalities
    longer = {**frame, "second": [f"{text} {text} {text}" for text in frame["second"]]}
    assert "likeness" not in propose_table(longer, target="same").config.modalities


def test_rows_of_texts_are_checked() -> None:
    frame = {"one": ["a b c d", "", "e f g h"], "two": ["a b c d", "e f g h", "a b c e"], "y": ["0", "1", "1"]}
    config = propose_table(frame, target="y").config.model_copy(update={"splits": None})
    config.modalities["likeness"] = type(config.modalities["one"])(kind="texts", columns=["one", "two"])
    assert read_table(frame, config).modalities["likeness"].values == [("a b c d",) * 2, None, ("e f g h", "a b c e")]
    data = weft.data.Modality("texts", [("a", "b"), ("a", None)])
    with pytest.raises(UserError, match="two texts or more"):
        data.check("likeness", ["r0", "r1"])
