r"""How alike the texts of a row are, pair by pair: what neither text says alone.

.. math:: z_{ab} = \Big[\frac{\langle x^W_a, x^W_b\rangle}{\lVert x^W_a\rVert \lVert x^W_b\rVert},\;
          \frac{\langle x^C_a, x^C_b\rangle}{\lVert x^C_a\rVert \lVert x^C_b\rVert},\;
          \frac{|A \cap B|}{|A|},\; \frac{|A \cap B|}{|B|},\; \log\frac{1 + |a|}{1 + |b|},\; m_{ab}\Big]

``x^W`` counts words and pairs of words, ``x^C`` 3 to 5 characters inside words, weighted by how rare they are in the
training texts of all columns together (as in :mod:`weft.encoders.tfidf`, without its SVD: two texts are alike in the
words they share, whatever these are). ``A`` and ``B`` are the sets of words, in lower case; ``|a|`` counts the words of
a text. ``m`` is 1 where a text of the pair is missing, the other entries are 0 there.

Tokens: ``(1, 6 P)`` for ``P`` pairs of columns. Cost: sparse products. When not to use it: for texts of different
languages, or where a sentence encoder (``hf:``) on each text and an operator that compares them can be had.

Source: Salton and Buckley, "Term-weighting approaches in automatic text retrieval", Information Processing & Management
1988.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.encoders.base import Encoder, encoders
from weft.encoders.tfidf import MOST_TEXTS, Terms
from weft.errors import UserError

WIDTH = 6
"""Entries of a pair."""


@encoders.register("likeness")
class Likeness(Encoder):
    """Cosines of weighted words and of pieces of words, shared words and lengths, of every pair of texts.

    Args:
        max_terms: most words and pairs, and most pieces.
    """

    kinds = ("texts",)
    refits = True

    def __init__(self, *, max_terms: Annotated[int, Field(ge=1)] = 20_000) -> None:
        self.max_terms = max_terms
        self.parts: list[Terms] = []

    def fit(self, values: Sequence[Any]) -> None:
        """Learn n-grams and how rare they are, from all texts of all columns."""
        if not len(values):
            raise UserError(
                "the encoder 'likeness' learns from the training texts", "no training row", "check the split"
            )
        every = [text for row in values for text in row if text is not None]
        texts = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, min(len(every), MOST_TEXTS), dtype=int))]
        self.parts = [Terms.learn(analyzer, texts, self.max_terms) for analyzer in ("word", "char_wb")]
        self._set(len(values[0]))

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(1, 6 P)`` per row."""
        if not self.parts:
            raise UserError("the encoder 'likeness' is not fitted", "no vocabulary", "call fit() on the training rows")
        columns = [[text or "" for text in column] for column in zip(*values, strict=True)]
        if len(columns) != self.columns:
            found = f"{len(columns)} texts, {self.columns} in training"
            raise UserError("a row has as many texts as in training", found, "give the same columns in the same order")
        spaces = [[part.matrix(column) for part in self.parts] for column in columns]
        split = [[re.findall(r"\w+", text.lower()) for text in column] for column in columns]
        pairs = [
            np.column_stack([*map(_cosines, spaces[a], spaces[b]), *_shared(split[a], split[b])])
            for a, b in combinations(range(self.columns), 2)
        ]
        return [row[None].astype(np.float32) for row in np.concatenate(pairs, axis=1)]

    def _set(self, columns: int) -> None:
        self.columns, self.width = columns, WIDTH * (columns * (columns - 1) // 2)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": "likeness", "version": 1, "max_terms": self.max_terms}

    def state(self) -> dict[str, Any]:
        """Vocabularies and weights."""
        return {"columns": self.columns, "parts": [part.state() for part in self.parts]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.parts = [Terms.restore(part) for part in state["parts"]]
        self._set(state["columns"])


def _cosines(a: Any, b: Any) -> np.ndarray:
    """``(n,)`` of rows of unit length, or zero."""
    return np.asarray(a.multiply(b).sum(axis=1)).ravel()


def _shared(a: Sequence[list[str]], b: Sequence[list[str]]) -> tuple[np.ndarray, ...]:
    """Shares of the words of each that the other has, the logarithm of their lengths' ratio, and what is missing."""
    rows = []
    for one, two in zip(a, b, strict=True):
        both, missing = len({*one} & {*two}), not one or not two
        ratio = 0.0 if missing else np.log((1 + len(one)) / (1 + len(two)))
        rows.append((both / max(1, len({*one})), both / max(1, len({*two})), ratio, float(missing)))
    return tuple(np.array(rows, dtype=np.float64).T)
