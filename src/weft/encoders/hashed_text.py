r"""Words as signed hashed character n-grams: a text encoder without weights or vocabulary.

.. math:: v(w) = \frac{u}{\lVert u \rVert}, \qquad
          u_j = \sum_{g \in G(w)} s(g)\,[h(g) = j], \qquad s(g) \in \{-1, +1\},\; h(g) \in \{0 .. D-1\}

``G(w)``: the n-grams of ``<w>`` and the whole ``<w>``. Words with a common stem share n-grams and so point the same
way. The hash is BLAKE2b, equal in every process. One token per word or punctuation mark: ``(T, D)``.

Cost: a few hash calls per new word; known words come from a cache. When not to use it: it knows no synonyms and no word
order; a sentence encoder (``hf:``) is better wherever one can be had.

Source: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009; n-grams as in Bojanowski et
al., "Enriching Word Vectors with Subword Information", TACL 2017.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.encoders.base import Encoder, encoders

WORD = re.compile(r"\w+|[^\w\s]")
CACHED_WORDS = 65536


@encoders.register("hashed-text")
class HashedText(Encoder):
    """Word-level tokens from hashed character n-grams.

    Args:
        dims: width ``D``.
        shortest, longest: lengths of the n-grams, in characters.
        max_tokens: words beyond this many are cut off.
    """

    kinds = ("text",)

    def __init__(
        self,
        *,
        dims: Annotated[int, Field(ge=1)] = 256,
        shortest: Annotated[int, Field(ge=1)] = 3,
        longest: Annotated[int, Field(ge=1)] = 5,
        max_tokens: Annotated[int, Field(ge=1)] = 256,
    ) -> None:
        self.width, self.shortest, self.longest, self.max_tokens = dims, shortest, longest, max_tokens
        self._vector = lru_cache(CACHED_WORDS)(self._word_vector)

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(words, D)`` per text, unit rows; a text without words is one token, that of the empty word."""
        return [np.stack([self._vector(word) for word in self.words(text)]) for text in values]

    def words(self, text: str) -> list[str]:
        """The words and punctuation marks of a text, lower case, in order; never none."""
        words = WORD.findall(unicodedata.normalize("NFKC", str(text)).lower())
        return words[: self.max_tokens] or [""]

    def _word_vector(self, word: str) -> np.ndarray:
        return hashed_ngrams(word, self.width, self.shortest, self.longest)

    def identity(self) -> dict[str, Any]:
        """Name and options."""
        return {
            "name": "hashed-text",
            "version": 1,
            "dims": self.width,
            "ngrams": [self.shortest, self.longest],
            "max_tokens": self.max_tokens,
        }


def ngrams(word: str, shortest: int, longest: int) -> list[str]:
    """``<word>`` itself and its n-grams of ``shortest`` to ``longest`` characters."""
    marked = f"<{word}>"
    sizes = range(shortest, min(longest, len(marked) - 1) + 1)
    return [marked, *(marked[i : i + n] for n in sizes for i in range(len(marked) - n + 1))]


def hashed_ngrams(word: str, width: int, shortest: int, longest: int) -> np.ndarray:
    """``(width,)`` float32 of unit length: the signed hashed n-grams of a word, equal in every process."""
    vector = np.zeros(width, dtype=np.float32)
    for gram in ngrams(word, shortest, longest):
        code = int.from_bytes(hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        vector[(code >> 1) % width] += 1.0 if code & 1 else -1.0
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 0 else vector
