"""TF-IDF and SVD: against scikit-learn, deterministic, and no worse than its ten lines on a real table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from weft.encoders import create_encoder
from weft.errors import UserError

WORDS = ["warp", "weft", "yarn", "loom", "silk", "wool", "linen", "cotton", "thread", "cloth", "dye", "spindle"]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(3, 9))) for _ in range(120)]


def fitted(**options):
    encoder = create_encoder("tfidf", "text", **options)
    encoder.fit(TEXTS)
    return encoder


def test_similarities_equal_those_of_scikit_learn():
    encoder = fitted(dims=200, max_terms=100_000)
    ours = np.concatenate(encoder.encode(TEXTS))[:, :-5]
    vectors = [
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=2, sublinear_tf=True),
    ]
    theirs = sparse.hstack([v.fit_transform(TEXTS) for v in vectors]).toarray() / np.sqrt(2)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=0.03)  # 8-bit directions


def test_entries_are_of_like_size_and_directions_keep_theirs():
    ours = np.concatenate(fitted(dims=16).encode(TEXTS))[:, :-5]
    assert (ours**2).sum(axis=1).mean() == pytest.approx(1, abs=0.02)
    deviations = ours.std(axis=0)
    assert deviations.max() < 3 * deviations.min()
    values = np.linalg.svd(ours - ours.mean(axis=0), compute_uv=False)
    assert values[0] > 3 * values[-1]


def test_the_last_entries_say_what_form_a_text_has():
    """Letters, words, capitals, digits, marks: standardised over the training texts, as large as the other entries."""
    texts = ["One two.", "THREE 4 5 6!", "seven", "eight nine ten eleven"]
    encoder = create_encoder("tfidf", "text")
    encoder.fit(texts)
    form = np.concatenate(encoder.encode(texts))[:, -5:] * np.sqrt(encoder.width - 5)
    np.testing.assert_allclose(form.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(form.std(axis=0), 1, atol=1e-6)
    assert form[:, 0].argmax() == 3
    assert form[:, 1].argmin() == 2
    assert [column.argmax() for column in form.T[2:]] == [1, 1, 0]
    assert np.abs(encoder.encode(["!" * 1000])[0]).max() <= 5


def test_the_same_bytes_and_the_same_answers_after_json():
    first, second = fitted(), fitted()
    assert first.state() == second.state()
    again = create_encoder("tfidf", "text")
    again.load_state(json.loads(json.dumps(first.state())))
    for text in ("warp and weft", "nothing known here", "", "織物", "\ud800"):
        alone = again.encode([text])[0]
        np.testing.assert_array_equal(alone, first.encode([text])[0])
        np.testing.assert_allclose(alone, first.encode([*TEXTS, text])[-1], atol=1e-6)
        assert alone.shape == (1, again.width)


@pytest.mark.parametrize("texts", [["one"], ["one", "one"], ["!"], ["a", "b", "c"], ["織物"], ["same words here"] * 9])
def test_few_and_odd_texts(texts: list[str]):
    encoder = create_encoder("tfidf", "text")
    encoder.fit(texts)
    for tokens in encoder.encode([*texts, "new words"]):
        assert tokens.shape == (1, encoder.width)
        assert np.isfinite(tokens).all()


def test_it_says_what_it_lacks():
    with pytest.raises(UserError, match="not fitted"):
        create_encoder("tfidf", "text").encode(["a"])
    with pytest.raises(UserError, match="no training text"):
        create_encoder("tfidf", "text").fit([])
