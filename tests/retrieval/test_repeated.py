"""LightCRL's curve against the original's way of counting: a list in which every image stands five times."""

from __future__ import annotations

import numpy as np
import pytest

from weft.errors import UserError
from weft.retrieval.repeated import captions_found, images_above, repeated_curve, unique_curve


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_curves_equal_plain_loops_over_the_repeated_list() -> None:
    rng = np.random.default_rng(0)
    images = unit(rng, 47, 4)
    texts = unit(rng, 47 * 5, 4) * 0.6 + np.repeat(images, 5, axis=0)
    rows = np.repeat(images, 5, axis=0)
    ks, hits = [1, 5, 20, 100, 235], []
    for caption, text in enumerate(texts):
        above = sum(float(text @ row) > float(text @ rows[caption]) + 1e-9 for row in rows)
        hits.append([above < k for k in ks])
    above = images_above(images, texts)
    np.testing.assert_allclose(repeated_curve(above, ks), np.mean(hits, axis=0))
    np.testing.assert_allclose(repeated_curve(above, ks, last_batch=100), np.mean(hits[-35:], axis=0))
    np.testing.assert_allclose(repeated_curve(above, ks, last_batch=5), np.mean(hits[-5:], axis=0))
    np.testing.assert_allclose(repeated_curve(above, [5, 50, 100]), unique_curve(above, [1, 10, 20]))
    found = []
    for image in range(47):
        best = np.argsort(-(texts @ images[image]))[:5]
        found.append(sum(caption // 5 == image for caption in best))
    expected = [np.mean([f >= j for f in found]) for j in range(1, 6)]
    np.testing.assert_allclose(captions_found(images, texts), expected)
    assert 0 < expected[2] < expected[0]


def test_unequal_captions_are_refused() -> None:
    with pytest.raises(UserError, match="7 captions of 2 images"):
        images_above(np.eye(2), np.ones((7, 2)))
