"""Sets without files: what is known about them holds, and the same options give the same bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures

from weft.data import Dataset, load_dataset, make_splits, read_image
from weft.data.scenes import described
from weft.data.shapes import COLOURS
from weft.errors import UserError

GENERATED = ("redundant", "unique", "xor", "noise", "shapes", "scenes")


def arrays(data: Dataset) -> dict[str, np.ndarray]:
    return {name: np.stack(m.values) for name, m in data.modalities.items() if m.kind != "text"}


def accuracy(x: np.ndarray, y: np.ndarray) -> float:
    half = len(x) // 2
    return float(LogisticRegression(max_iter=300, C=0.1).fit(x[:half], y[:half]).score(x[half:], y[half:]))


@pytest.mark.parametrize("name", GENERATED)
def test_seeds_and_rows(name: str) -> None:
    first, again, other = (load_dataset(name, rows=40, seed=seed) for seed in (5, 5, 6))
    assert len(first) == 40
    for modality, values in arrays(first).items():
        np.testing.assert_array_equal(values, arrays(again)[modality])
        assert (values != arrays(other)[modality]).any()
    for column, target in first.targets.items():
        np.testing.assert_array_equal(target, again.targets[column])
    assert len(make_splits(load_dataset(name)).train) == round(0.7 * len(load_dataset(name)))
    with pytest.raises(UserError, match="rows=3"):
        load_dataset(name, rows=3)


BEST = 1 - np.arctan(0.5) / np.pi


def test_redundant_views_are_rotations() -> None:
    data = load_dataset("redundant", rows=8000)
    a, b = arrays(data).values()
    turn, *_ = np.linalg.lstsq(a, b, rcond=None)
    np.testing.assert_allclose(turn @ turn.T, np.eye(8), atol=1e-5)
    np.testing.assert_allclose(a @ turn, b, atol=1e-4)
    assert not np.allclose(a, b)
    y = data.targets["label"]
    alone, both = accuracy(a, y), accuracy(np.hstack([a, b]), y)
    assert alone == pytest.approx(BEST, abs=0.015)
    assert both == pytest.approx(alone, abs=0.005)


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_unique_has_one_informative_modality(which: str) -> None:
    data = load_dataset("unique", rows=8000, which=which)
    for name, x in arrays(data).items():
        expected = BEST if name == which else 0.5
        assert accuracy(x, data.targets["label"]) == pytest.approx(expected, abs=0.025)


def test_xor_needs_a_product() -> None:
    data = load_dataset("xor", rows=8000)
    a, b = arrays(data).values()
    y = data.targets["label"]
    assert np.mean(y) == pytest.approx(0.5, abs=0.025)
    for x in (a, b, np.hstack([a, b]), PolynomialFeatures(2).fit_transform(a)):
        assert accuracy(x, y) == pytest.approx(0.5, abs=0.03)
    product = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
    p = norm.cdf(2.5)
    assert accuracy(product, y) == pytest.approx(p**2 + (1 - p) ** 2, abs=0.02)


def test_noise_is_noise() -> None:
    data = load_dataset("noise", rows=8000)
    a, b = arrays(data).values()
    product = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
    for x in (a, b, np.hstack([a, b]), product):
        assert accuracy(x, data.targets["label"]) == pytest.approx(0.5, abs=0.03)


def test_shapes_tells_each_modality_its_side() -> None:
    data = load_dataset("shapes", rows=1500)
    assert {name: m.kind for name, m in data.modalities.items()} == {
        "image": "image",
        "caption": "text",
        "sensor": "series",
    }
    assert list(data.targets) == ["object", "shape", "colour", "position"]
    colours, forms = data.targets["colour"], data.targets["shape"]
    assert data.targets["object"].tolist() == [f"{c} {s}" for c, s in zip(colours, forms, strict=True)]
    assert len(set(data.targets["object"])) == 9
    captions = data.modalities["caption"].values
    for row, caption in enumerate(captions):
        assert colours[row] in caption
        assert data.targets["position"][row] in caption
        assert not any(word in caption for word in ("circle", "square", "triangle"))
    images = np.stack(data.modalities["image"].values)
    assert images.shape == (1500, 64, 64)
    small = images[:, ::4, ::4].reshape(1500, -1) / 255.0
    assert accuracy(small, colours) == pytest.approx(1 / 3, abs=0.07)
    assert accuracy(small, data.targets["position"]) > 0.95
    light = np.stack(data.modalities["sensor"].values).mean(axis=1)
    assert accuracy(light, colours) == pytest.approx(0.83, abs=0.04)
    assert accuracy(light, forms) == pytest.approx(1 / 3, abs=0.07)


def test_shapes_can_be_told_from_the_image() -> None:
    """The share of its bounding box that an object fills: 1 for squares, pi / 4 for circles, 1 / 2 for triangles."""
    data = load_dataset("shapes", rows=300)
    guesses = []
    for image in data.modalities["image"].values:
        bright = np.asarray(read_image(image))[..., 0] > (int(np.percentile(image, 50)) + int(image.max())) / 2 - 10
        rows, columns = (np.flatnonzero(bright.sum(axis=axis) > 2) for axis in (1, 0))
        fill = bright.sum() / (len(rows) * len(columns))
        names = {"square": 1.0, "circle": np.pi / 4, "triangle": 0.5}
        guesses.append(min(names, key=lambda name: abs(names[name] - fill)))
    assert np.mean(np.array(guesses) == data.targets["shape"]) > 0.9


def test_shapes_size() -> None:
    assert load_dataset("shapes", rows=10, size=32).modalities["image"].values[0].shape == (32, 32)
    with pytest.raises(UserError, match="size=4"):
        load_dataset("shapes", size=4)


def test_sets_of_scikit_learn() -> None:
    cancer = load_dataset("breast_cancer")
    assert len(cancer) == 569
    assert np.unique(cancer.targets["diagnosis"], return_counts=True)[1].tolist() == [357, 212]
    assert list(cancer.modalities) == ["mean", "error", "worst"]
    assert cancer.modalities["mean"].fields[:2] == ("radius", "texture")
    assert cancer.modalities["mean"].values[0][:2] == (17.99, 10.38)
    assert cancer.modalities["worst"].values[0][0] == 25.38
    diabetes = load_dataset("diabetes")
    assert len(diabetes) == 442
    assert diabetes.task == "regression"
    assert diabetes.modalities["clinical"].values[0] == (59.0, 2.0, 32.1, 101.0)
    assert len(diabetes.modalities["serum"].values[0]) == 6
    assert (diabetes.targets["progression"].min(), diabetes.targets["progression"].max()) == (25, 346)
    digits = load_dataset("digits")
    left, right = arrays(digits).values()
    both = np.concatenate([left.reshape(-1, 8, 4), right.reshape(-1, 8, 4)], axis=2)
    from sklearn.datasets import load_digits

    np.testing.assert_allclose(both * 16, load_digits().images)


def test_scenes_show_what_their_sentences_say() -> None:
    """Which colour lies left or above is read off the pictures; a sentence says the same from either object."""
    data = load_dataset("scenes", rows=60, size=32)
    for row, picture in enumerate(data.modalities["image"].values):
        first, way, second = re.fullmatch(r"(\w+) (left of|above) (\w+)", data.targets["relation"][row]).groups()
        bright = picture.astype(int) - picture.min(axis=2, keepdims=True) > 40
        middles = [np.argwhere(bright[:, :, COLOURS.index(colour)]).mean(axis=0) for colour in (first, second)]
        assert (middles[1] - middles[0])[0 if way == "above" else 1] > 8
        assert described(data.modalities["caption"].values[row]) == {k: v[row] for k, v in data.targets.items()}
    said = {"relation": "red left of blue", "first shape": "circle", "second shape": "square"}
    assert described("there is a blue square right of a red circle") == said
    assert described("a red circle") == dict.fromkeys(said)
    with pytest.raises(UserError, match="size=8"):
        load_dataset("scenes", size=8)
