"""The reader of attributes learns shapes from real images, and counts agreement as a loop does."""

from __future__ import annotations

import numpy as np
import pytest

from weft.data import load_dataset
from weft.errors import UserError
from weft.systems.text_to_image.attributes import AttributeReader, as_input

NAMES = ("shape", "colour", "position")


def test_reads_what_real_images_show() -> None:
    data = load_dataset("shapes", rows=1000, size=32, complete=True)
    images = np.stack(list(data.modalities["image"].values))
    attributes = {name: data.targets[name] for name in NAMES}
    reader = AttributeReader.train_on(images[:900], {n: a[:900] for n, a in attributes.items()}, width=8)
    held = {name: a[900:] for name, a in attributes.items()}
    found = reader.agreement(images[900:], held)
    assert found["colour"] > 0.95
    assert found["position"] > 0.95
    assert found["shape"] > 0.6
    guesses = {n: reader(as_input(images[900:]))[n].argmax(1).tolist() for n in NAMES}
    right = [[reader.values[n][guesses[n][i]] == held[n][i] for n in NAMES] for i in range(100)]
    assert found["all"] == pytest.approx(np.mean([all(row) for row in right]))
    assert found["shape"] == pytest.approx(np.mean([row[0] for row in right]))
    shuffled = reader.agreement(images[900:], {n: np.roll(a, 1) for n, a in held.items()})
    assert shuffled["all"] < 0.2


def test_wrong_input_is_named() -> None:
    reader = AttributeReader({"colour": ["red"]}, size=16)
    with pytest.raises(UserError, match="lack an attribute"):
        reader.codes({"shape": np.array(["circle"])})
    with pytest.raises(UserError, match="blue"):
        reader.codes({"colour": np.array(["red", "blue"])})
    with pytest.raises(UserError, match="size=8"):
        AttributeReader({"colour": ["red"]}, size=8)
