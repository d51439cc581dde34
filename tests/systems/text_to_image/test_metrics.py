"""Distances against scipy's matrix root and plain loops; R-precision by counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from weft.errors import UserError
from weft.systems.text_to_image.judge import blurred
from weft.systems.text_to_image.metrics import frechet_distance, kernel_distance, r_precision

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "m", "width"), [(40, 60, 5), (300, 200, 12)])
def test_frechet_distance_is_the_published_formula(n: int, m: int, width: int) -> None:
    x = RNG.normal(size=(n, width)) @ RNG.normal(size=(width, width))
    y = RNG.normal(size=(m, width)) @ RNG.normal(size=(width, width)) + 0.5
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(a @ b).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_with_fewer_rows_than_columns() -> None:
    """A matrix root of singular covariances, by eigenvalues of the symmetric product."""
    x, y = RNG.normal(size=(6, 20)), RNG.normal(size=(9, 20)) * 2
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    half = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ b @ half).clip(min=0)).sum()
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_by_loops() -> None:
    x, y = RNG.normal(size=(7, 4)), RNG.normal(size=(5, 4)) + 1

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / 4 + 1) ** 3)

    xx = [k(x[i], x[j]) for i in range(7) for j in range(7) if i != j]
    yy = [k(y[i], y[j]) for i in range(5) for j in range(5) if i != j]
    xy = [k(a, b) for a in x for b in y]
    expected = sum(xx) / len(xx) + sum(yy) / len(yy) - 2 * sum(xy) / len(xy)
    assert kernel_distance(x, y) == pytest.approx(expected)


def test_kernel_distance_is_unbiased() -> None:
    """Of halves of one distribution it is zero on average, and below zero as often as not."""
    found = [kernel_distance(RNG.normal(size=(20, 3)), RNG.normal(size=(20, 3))) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20
    assert min(found) < 0


def test_r_precision_by_counting() -> None:
    captions = np.eye(6) + 0.01 * RNG.normal(size=(6, 6))
    images = captions.copy()
    images[2] = captions[4]
    images[5] = captions[3]
    alone = np.arange(6)
    assert r_precision(images, captions, alone, candidates=6) == pytest.approx(4 / 6)
    # rows 2 and 4 show the same: the caption of one is no wrong answer for the other, but its own is not first either
    together = np.array([0, 1, 2, 3, 2, 5])
    assert r_precision(images, captions, together, candidates=5) == pytest.approx(4 / 6)
    assert r_precision(np.ones((6, 6)), np.ones((6, 6)), alone, candidates=6) == 0
    found = [
        r_precision(RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3)), np.arange(50), candidates=5, seed=s)
        for s in range(20)
    ]
    assert np.mean(found) == pytest.approx(1 / 5, abs=0.06)


def test_wrong_input_is_named() -> None:
    with pytest.raises(UserError, match=r"real \(3, 4\), drawn \(3, 5\)"):
        frechet_distance(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(UserError, match=r"drawn \(1, 4\)"):
        kernel_distance(np.zeros((3, 4)), np.zeros((1, 4)))
    with pytest.raises(UserError, match="2 captions of other groups"):
        r_precision(np.eye(3), np.eye(3), np.arange(3))
    with pytest.raises(UserError, match="2 captions"):
        r_precision(np.eye(3), np.eye(2), np.arange(3))


@pytest.mark.parametrize("blur", [1.0, 2.5])
def test_blurred_pictures_beside_those_of_scipy(blur: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 20, 3), dtype=np.uint8)
    expected = gaussian_filter(images.astype(float), blur, axes=(1, 2), mode="nearest")
    found = blurred(images, blur)
    assert found.shape == images.shape
    assert np.abs(found - expected).mean() < 0.03 * np.abs(images - expected).mean()
    assert blurred(images, 0) is images
