from __future__ import annotations

import numpy as np
import pytest

from weft.errors import UserError
from weft.tasks.zero_shot import TEMPLATES, class_codes, class_vectors, predict, prompts, templates, top_hits


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_hits_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    images, text, labels = unit(rng, 40, 5), rng.normal(size=(3, 7, 5)), rng.integers(0, 7, 40)
    classes = class_vectors(text)
    expected = np.zeros(5, dtype=int)
    for image, label in zip(images, labels, strict=True):
        similarity = []
        for c in range(7):
            mean = sum(text[p, c] / np.linalg.norm(text[p, c]) for p in range(3))
            similarity.append(float(image @ mean / np.linalg.norm(mean)))
        place = sorted(similarity, reverse=True).index(similarity[label])
        expected += [place < k for k in range(1, 6)]
    assert top_hits(images, classes, labels) == expected.tolist()
    assert top_hits(images, classes, labels, [1])[0] == (predict(images, classes) == labels).sum()


def test_a_collapsed_model_is_at_chance() -> None:
    same = np.ones((4, 3)) / np.sqrt(3)
    assert top_hits(np.repeat(same[:1], 8, axis=0), same, np.zeros(8, dtype=int), [1, 4]) == [0, 8]


def test_prompts_of_every_style() -> None:
    assert prompts(["air_plane", "cat"], "photo") == [["a photo of a air plane", "a photo of a cat"]]
    assert prompts(["cat"], "twice") == [["a cat, this is a photo of a cat"]]
    assert prompts(["cat"], "my {} here") == [["my cat here"]]
    assert len(prompts(["cat"], "ensemble")) == len(TEMPLATES["ensemble"]) > 1


@pytest.mark.parametrize("style", ["photos", "no place", "a {name}", "{} {1}", "open { brace"])
def test_a_template_without_a_place_is_refused(style: str) -> None:
    with pytest.raises(UserError, match="where the name goes"):
        templates(style)


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match="different and not empty"):
        prompts(["cat", " "], "name")
    with pytest.raises(UserError, match="different and not empty"):
        prompts(["a_cat", "a cat"], "name")
    with pytest.raises(UserError, match=r"'truk'(.|\n)*did you mean 'truck'"):
        class_codes(["cat", "truk"], ["cat", "truck"])
    assert class_codes(np.array(["b", "a"]), ["a", "b"]).tolist() == [1, 0]
