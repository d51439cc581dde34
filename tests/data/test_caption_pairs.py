from __future__ import annotations

import numpy as np
import pytest

from weft.data.caption_pairs import positive_pairs
from weft.errors import UserError


def test_pairs_equal_a_double_loop_over_single_sentences() -> None:
    rng = np.random.default_rng(0)
    vectors = {f"s{i}": rng.normal(size=3) for i in range(12)}
    groups = [list(rng.choice(sorted(vectors), size=n)) for n in (4, 1, 6, 0, 3)]

    def cosine(a: str, b: str) -> float:
        return float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))

    expected = []
    for image, group in enumerate(groups):
        for i in range(len(group)):
            expected.append((image, i, i))
            for j in range(i + 1, len(group)):
                if cosine(group[i], group[j]) >= 0.4:
                    expected += [(image, i, j), (image, j, i)]
    found = list(positive_pairs(groups, lambda texts: np.array([vectors[t] for t in texts]), 0.4))
    assert found == expected
    assert 14 < len(found) < 14 + 2 * (6 + 15 + 3), "some pairs, not all"
    without = positive_pairs(groups, lambda texts: np.array([vectors[t] for t in texts]), 0.4, identical=False)
    assert list(without) == [pair for pair in expected if pair[1] != pair[2]]


def test_mistakes_are_named() -> None:
    def embed(texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 2))

    with pytest.raises(UserError, match="images 1"):
        list(positive_pairs([["a"], ["b", "  "]], embed))
    with pytest.raises(UserError, match="cosine"):
        list(positive_pairs([["a"]], embed, 70))
    assert list(positive_pairs([[], []], embed)) == []
