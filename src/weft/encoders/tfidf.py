r"""A text as one vector: n-grams weighted by how rare they are, reduced to the directions in which texts differ most.

.. math:: x_g = (1 + \log n_g)\,\Big(1 + \log\frac{1 + N}{1 + N_g}\Big), \qquad
          z = \Big[c\,\Big[\frac{x_W}{\lVert x_W \rVert},\; \frac{x_C}{\lVert x_C \rVert}\Big]\, V_D\, Q,\;
          \frac{1}{\sqrt D}\,\frac{s - \mu}{\sigma}\Big]

``n_g`` is how often n-gram ``g`` stands in the text, ``N_g`` in how many of the ``N`` training texts; ``W`` are words
and pairs of words, ``C`` 3 to 5 characters inside words. ``V_D`` holds the first ``D`` right singular vectors of the
training matrix. ``Q (D, D)`` is a fixed random rotation: a model that standardises entry by entry would blow up the
weak directions to the size of the strong ones; after the turn all entries are of like size, and the directions keep
theirs. ``c`` brings the mean squared length of the training texts to 1. The directions say nothing of the form of a
text, which ``s`` does: the logarithms of its letters and of its words, the share of capitals, of digits and of marks.

Vocabulary, weights, ``V_D Q`` (as 8-bit integers with a scale per column), ``mu`` and ``sigma`` are learned from the
training rows and are the state. Tokens: ``(1, D + 5)``. Cost: sparse products; learning is a randomised SVD of at most
20,000 training texts. When not to use it: where a sentence encoder (``hf:``) can be had; for operators that look at
single words (``hashed-text`` gives those).

Source: Deerwester et al., "Indexing by latent semantic analysis", JASIS 1990; Halko, Martinsson, Tropp, "Finding
structure with randomness", SIAM Review 2011.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy import sparse

from weft.encoders.base import Encoder, encoders
from weft.errors import UserError

MOST_TEXTS = 20_000
SEED = 0
TINY, FARTHEST = 1e-6, 5.0
"""A smaller deviation is none; farther off than so many deviations counts as that far."""


@encoders.register("tfidf")
class Tfidf(Encoder):
    """Words, pairs of words and pieces of words, reduced by an SVD.

    Args:
        dims: ``D``; less where the training texts have fewer directions.
        max_terms: most words and pairs, and most pieces.
    """

    kinds = ("text",)
    refits = True

    def __init__(
        self, *, dims: Annotated[int, Field(ge=1)] = 128, max_terms: Annotated[int, Field(ge=1)] = 6000
    ) -> None:
        self.dims, self.max_terms = dims, max_terms
        self.parts: list[Terms] = []

    def fit(self, values: Sequence[Any]) -> None:
        """Learn n-grams, their weights and the directions.

        Raises:
            UserError: no training texts.
        """
        if not len(values):
            raise UserError("the encoder 'tfidf' learns from the training texts", "no training text", "check the split")
        texts = [
            str(values[i]) for i in np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_TEXTS), dtype=int))
        ]
        self.parts = [Terms.learn(analyzer, texts, self.max_terms) for analyzer in ("word", "char_wb")]
        matrix, form = self._matrix(texts), _form(texts)
        directions = _directions(matrix, min(self.dims, *matrix.shape))
        self._mean, self._deviation = form.mean(axis=0), np.where(form.std(axis=0) > TINY, form.std(axis=0), 1.0)
        size = float(np.sqrt(((matrix @ directions) ** 2).sum(axis=1).mean()))
        self._keep(*_to_bytes(directions / (size or 1.0)))

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(1, D + 5)`` per text; the first ``D`` are zeros for a text without a known n-gram.

        Raises:
            UserError: the encoder is not fitted.
        """
        if not self.parts:
            raise UserError("the encoder 'tfidf' is not fitted", "no vocabulary", "call fit() on the training rows")
        texts = [str(value) for value in values]
        rows = self._matrix(texts) @ self._directions
        form = np.clip((_form(texts) - self._mean) / self._deviation, -FARTHEST, FARTHEST) / np.sqrt(rows.shape[1])
        return [row[None].astype(np.float32) for row in np.concatenate([rows, form], axis=1)]

    def _matrix(self, texts: Sequence[str]) -> sparse.csr_matrix:
        return sparse.hstack([part.matrix(texts) for part in self.parts]).tocsr()

    def _keep(self, levels: np.ndarray, scale: np.ndarray) -> None:
        self._levels, self._scale = levels, scale
        self._directions = levels.astype(np.float32) * scale
        self.width = levels.shape[1] + len(self._mean)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "tfidf", "version": 2, "dims": self.dims, "max_terms": self.max_terms}

    def state(self) -> dict[str, Any]:
        """Vocabularies, weights and directions; arrays as base64."""
        return {
            "parts": [part.state() for part in self.parts],
            "mean": self._mean.tolist(),
            "deviation": self._deviation.tolist(),
            "width": self._levels.shape[1],
            "levels": base64.b64encode(self._levels.tobytes()).decode(),
            "scale": self._scale.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.parts = [Terms.restore(part) for part in state["parts"]]
        self._mean, self._deviation = np.array(state["mean"]), np.array(state["deviation"])
        levels = np.frombuffer(base64.b64decode(state["levels"]), dtype=np.int8)
        self._keep(levels.reshape(-1, state["width"]), np.array(state["scale"], np.float32))


class Terms:
    """A vocabulary of n-grams and their weights.

    Args:
        analyzer: "word" (words and pairs of words) or "char_wb" (3 to 5 characters inside words).
        terms: the n-grams.
        weights: one per n-gram, larger where fewer texts have it.
    """

    def __init__(self, analyzer: str, terms: list[str], weights: np.ndarray) -> None:
        self.analyzer, self.terms, self.weights = analyzer, terms, weights

    @classmethod
    def learn(cls, analyzer: str, texts: Sequence[str], most: int) -> Terms:
        """The n-grams of two texts or more, the most frequent ones; of any text where there are none such."""
        for fewest in (2, 1):
            counter = _counter(analyzer, min_df=min(fewest, len(texts)), max_features=most)
            try:
                counts = counter.fit_transform(texts)
            except ValueError:  # no n-gram is left
                continue
            terms = sorted(counter.vocabulary_, key=counter.vocabulary_.__getitem__)
            texts_with = np.asarray((counts > 0).sum(axis=0)).ravel()
            weights = 1 + np.log((1 + len(texts)) / (1 + texts_with))
            return cls(analyzer, terms, weights.round(4).astype(np.float32))
        return cls(analyzer, [], np.zeros(0, np.float32))

    def matrix(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """``(n, terms)`` float32, rows of unit length or zero."""
        from sklearn.preprocessing import normalize

        if not self.terms:
            return sparse.csr_matrix((len(texts), 0), dtype=np.float32)
        counts = _counter(self.analyzer, vocabulary=self.terms).transform(texts).astype(np.float32)
        counts.data = (1 + np.log(counts.data)) * self.weights[counts.indices]
        return normalize(counts)

    def state(self) -> dict[str, Any]:
        """JSON."""
        return {"analyzer": self.analyzer, "terms": self.terms, "weights": [round(float(w), 4) for w in self.weights]}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Terms:
        """What :meth:`state` gave."""
        return cls(state["analyzer"], state["terms"], np.array(state["weights"], np.float32))


def _form(texts: Sequence[str]) -> np.ndarray:
    """``(n, 5)``: the logarithms of letters and words, the shares of capitals, digits and marks."""
    rows = []
    for text in texts:
        letters = max(1, len(text))
        capitals, digits = sum(map(str.isupper, text)), sum(map(str.isdigit, text))
        marks = sum(not (c.isalnum() or c.isspace()) for c in text)
        shares = [capitals / letters, digits / letters, marks / letters]
        rows.append([np.log1p(len(text)), np.log1p(len(text.split())), *shares])
    return np.array(rows, dtype=np.float64).reshape(len(texts), 5)


def _counter(analyzer: str, **options: Any) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    lengths = (1, 2) if analyzer == "word" else (3, 5)
    return CountVectorizer(analyzer=analyzer, ngram_range=lengths, **options)


def _directions(matrix: sparse.csr_matrix, width: int) -> np.ndarray:
    """``V_D Q`` ``(terms, width)``; on one thread, so that sums are always in one order."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if min(matrix.shape) <= 2 * width:
            right = np.linalg.svd(matrix.toarray(), full_matrices=False)[2][:width]
        else:
            right = randomized_svd(matrix, width, random_state=SEED)[2]
        turn = np.linalg.qr(np.random.default_rng(SEED).normal(size=(width, width)))[0]
        turned: np.ndarray = right.T @ turn
    return turned


def _to_bytes(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-bit levels, and the scale of each column."""
    scale = np.abs(directions).max(axis=0, initial=0.0) / 127
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return np.round(directions / scale).astype(np.int8), scale
