"""Kinds: each proposes, reads, checks, encodes and packs its own values; one registered elsewhere is like them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weft.data import guess_table, load_config, read_table, to_commented_yaml
from weft.data.kinds import Kind, Place, kind_named, kinds
from weft.data.kinds.base import share
from weft.encoders import create_encoder, encoders
from weft.errors import UserError
from weft.store import encode

KNOWN = {"text", "image", "depth", "audio", "video", "series", "tabular", "date", "vector", "tokens", "texts"}


@pytest.fixture
def colour() -> Iterator[str]:
    """A kind from outside the package: ``#ff8800`` is three numbers."""

    @kinds.register("colour")
    class Colour(Kind):
        encoder = "precomputed"

        def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
            return [None if c is None else np.array(list(bytes.fromhex(c[1:])), float) / 255 for c in columns[0]]

        def looks(self, cells: Sequence[Any], folder: Path) -> float:
            return share(cells, lambda cell: isinstance(cell, str) and bool(re.fullmatch("#[0-9a-f]{6}", cell)))

    precomputed = encoders.get("precomputed")
    before = precomputed.kinds
    precomputed.kinds = (*before, "colour")
    yield "colour"
    precomputed.kinds = before
    del kinds._classes["colour"]


def test_all_kinds_are_there_and_have_an_encoder() -> None:
    assert set(kinds.names()) >= KNOWN
    for name in KNOWN:
        assert name in encoders.get(kind_named(name).encoder).kinds
        assert kinds.get(name).__doc__
    with pytest.raises(UserError, match="did you mean 'image'"):
        kind_named("imgae")


def test_a_kind_of_ones_own_goes_the_whole_way(colour: str, tmp_path: Path) -> None:
    lines = ["paint,label", *(f"#{i:02x}88{255 - i:02x},{'ab'[i % 2]}" for i in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    guessed = guess_table(tmp_path / "t.csv")
    assert guessed.modalities["paint"].kind == colour
    (tmp_path / "weft.yaml").write_text(to_commented_yaml(guessed, tmp_path))
    config = load_config(tmp_path / "weft.yaml")
    data = read_table(config.table, config)
    np.testing.assert_allclose(data.modalities["paint"].values[3], [3 / 255, 0x88 / 255, 252 / 255])
    store = encode(data, {"paint": create_encoder("precomputed", colour)}, tmp_path / "store", progress=False)
    assert store.dims == {"paint": 3}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", "wörds \U0001f600"),
        ("texts", ("one", None, "wörds \U0001f600")),
        ("tabular", (1.5, "a", None, datetime(2024, 1, 31, 12))),
        ("date", (datetime(2024, 1, 31), None)),
    ],
)
def test_packed_values_come_back(kind: str, value: Any) -> None:
    one = kind_named(kind)
    assert one.unpack(json.loads(json.dumps(one.pack(value)))) == value


def test_what_cannot_be_packed_says_so() -> None:
    with pytest.raises(UserError, match="pack"):
        kind_named("image").pack(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["a.jpg", "b.PNG"], "image"),
        (["depth/a.png", "depth/b.png"], "depth"),
        (["a.wav", "b.flac"], "audio"),
        (["a.mp4", "b.webm"], "video"),
        (["[1, 2]", "[3, 4]"], "vector"),
        (["[1, 2]", "[3]"], "series"),
        ([[[1.0], [2.0]]], "series"),
        (["2024-01-31", "2024-02-01"], "date"),
        (["31.1.2024", "1.2.2024"], "date"),
        (["1", "2.5"], "tabular"),
        (["red", "blue", "red"], "tabular"),
        (["a long sentence of words", "another long one of these"], "text"),
    ],
)
def test_columns_are_recognised(cells: list[Any], kind: str, tmp_path: Path) -> None:
    sure = {name: kind_named(name).looks(cells, tmp_path) for name in kinds.names()}
    assert max(sure, key=sure.__getitem__) == kind


def test_depth_is_read_at_its_own_precision_and_scale(tmp_path: Path) -> None:
    ramp = np.linspace(500, 4000, 64 * 64).reshape(64, 64).astype(np.uint16)
    ramp[:8] = 0
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    encoder = create_encoder("depth-patches", "depth", grid=2)
    (millimetres,) = encoder.encode([tmp_path / "depth.png"])
    (metres,) = encoder.encode([ramp.astype(np.float32) / 1000])
    assert millimetres.shape == (4, encoder.width)
    np.testing.assert_allclose(millimetres[:, :-1], metres[:, :-1], atol=1e-4)
    np.testing.assert_allclose(millimetres[:, -1] - metres[:, -1], np.log(1000), atol=1e-4)
    assert millimetres[0, -2] < millimetres[2, -2] == 1
    with pytest.raises(UserError, match="depth map"):
        encoder.encode([np.zeros((2, 2, 3))])


def test_frames_know_how_they_change() -> None:
    still = np.zeros((5, 32, 32, 3), np.uint8)
    lighter = still + np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    encoder = create_encoder("frame-patches", "video", frames=5)
    a, b = encoder.encode([still, lighter])
    half = encoder.width // 2
    assert a.shape == (5, encoder.width)
    assert not a[:, half:].any()
    np.testing.assert_allclose(b[1:, half:], b[1:, :half] - b[:-1, :half], atol=1e-6)
    assert b[1:, half:].max() > 0.1
