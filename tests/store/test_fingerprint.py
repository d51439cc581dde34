"""A fingerprint changes with anything that is read, and with nothing else."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.store.samples import Letters, toy
from weft.data.files import Crop
from weft.store import MemoryFeatures, Store, encode
from weft.store.files import content_hash

ROWS = 100


def memory(**changes) -> MemoryFeatures:
    rng = np.random.default_rng(0)
    parts = {
        "ids": [str(i) for i in range(ROWS)],
        "modalities": {
            "v": rng.standard_normal((ROWS, 3)),
            "s": [None if i % 9 == 4 else rng.standard_normal((1 + i % 3, 2)) for i in range(ROWS)],
        },
        "targets": {"y": np.arange(ROWS) % 2, "z": np.array(["no", "yes"])[np.arange(ROWS) % 2]},
        "split": np.array(["train", "test"])[np.arange(ROWS) // 80],
        "group": np.arange(ROWS) // 4,
    }
    return MemoryFeatures(**{**parts, **changes})


def altered(array: np.ndarray, at: int, value) -> np.ndarray:
    out = np.array(array)
    out[at] = value
    return out


def test_the_same_values_have_the_same_fingerprint_and_the_last_row_counts_as_much_as_the_first():
    whole = memory()
    assert memory().fingerprint == whole.fingerprint
    vectors = whole.pooled(np.arange(ROWS))["v"]
    sequences = [None if i % 9 == 4 else whole.gather(np.array([i]))["s"].values[0].numpy() for i in range(ROWS)]
    later = [*sequences[:-1], sequences[-1] + np.float32(1e-6)]
    longer = [*sequences[:-1], np.concatenate([sequences[-1], sequences[-1]])]
    gone = [*sequences[:-1], None]
    others = [
        memory(modalities={"v": altered(vectors, -1, vectors[-1] + np.float32(1e-6)), "s": sequences}),
        *(memory(modalities={"v": vectors, "s": s}) for s in (later, longer, gone)),
        memory(modalities={"w": vectors, "s": sequences}),
        memory(ids=[*map(str, range(ROWS - 1)), "last"]),
        memory(targets={**whole.targets, "y": altered(whole.targets["y"], -1, 7)}),
        memory(targets={**whole.targets, "z": altered(whole.targets["z"], -1, "so")}),
        memory(split=altered(whole.split, -1, "dev")),
        memory(group=altered(whole.group, -1, 77)),
        memory(split=None),
        memory(task="retrieval"),
        memory(labels={"y": ("p", "q")}),
        whole.subset(["v"]),
        whole.subset(["s", "v"]),
    ]
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert memory(modalities={"v": vectors, "s": sequences}).fingerprint == whole.fingerprint
    assert whole.subset(["v", "s"]).fingerprint == whole.fingerprint


def test_a_value_that_rows_share_counts_as_its_copies_do(tmp_path: Path):
    texts = encode(toy(), {"text": Letters()}, tmp_path / "store", dtype="fp32")
    values = [texts.gather(np.array([i]))["text"].values[0].numpy() if p else None for i, p in enumerate(toy_there())]
    once = [None if value is None else value.copy() for value in values]
    shared = MemoryFeatures(toy().ids, {"text": values}, {})
    assert shared._columns["text"].fingerprint == texts._columns["text"].fingerprint
    assert shared.fingerprint == MemoryFeatures(toy().ids, {"text": once}, {}).fingerprint


def toy_there() -> list[bool]:
    return [value is not None for value in toy().modalities["text"].values]


def test_a_store_is_known_by_its_encoder_its_dtype_its_values_and_its_rows(tmp_path: Path):
    plain = encode(toy(), {"text": Letters()}, tmp_path / "0")
    swapped = replace(toy(), targets={**toy().targets, "count": np.arange(40)[::-1]})
    found = [
        plain,
        encode(toy(), {"text": Letters(scale=2)}, tmp_path / "1"),
        encode(toy(), {"text": Letters()}, tmp_path / "2", dtype="fp32"),
        encode(toy(seed=1), {"text": Letters()}, tmp_path / "3"),
        encode(swapped, {"text": Letters()}, tmp_path / "4"),
        encode(replace(toy(), group=np.arange(40)), {"text": Letters()}, tmp_path / "5"),
        encode(replace(toy(), split=None), {"text": Letters()}, tmp_path / "6"),
        encode(replace(toy(), labels={"tags": ("p", "q", "s")}), {"text": Letters()}, tmp_path / "7"),
    ]
    assert len({store.fingerprint for store in found}) == len(found)
    assert Store.open(tmp_path / "0").fingerprint == plain.fingerprint
    assert encode(toy(), {"text": Letters()}, tmp_path / "again", shard_rows=3).fingerprint == plain.fingerprint


def png(pixels: np.ndarray, mode: str, **saved) -> Image.Image:
    image = Image.fromarray(pixels, mode="L") if mode == "P" else Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(saved.pop("palette"))
    file = io.BytesIO()
    image.save(file, "png", **saved)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_differ_by_palette_transparency_and_rotation():
    flat, wide = np.zeros((8, 8), np.uint8), np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    red, green = [255, 0, 0], [0, 255, 0]
    images = [
        png(flat, "P", palette=red),
        png(flat, "P", palette=green),
        png(flat, "P", palette=red, transparency=0),
        png(wide, "RGB"),
        png(wide, "RGB", exif=turned),
    ]
    assert len({content_hash(image) for image in images}) == len(images)
    assert content_hash(png(flat, "P", palette=red)) == content_hash(images[0])


def test_a_crop_is_known_by_the_bytes_of_its_file_and_its_box(tmp_path: Path):
    for name, value in (("a", 0), ("b", 0), ("c", 9)):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    crops = [Crop(tmp_path / f"{name}.png", (0, 0, 4, size)) for name, size in (("a", 4), ("b", 4), ("c", 4), ("a", 5))]
    first, copy, other, larger = map(content_hash, crops)
    assert first == copy
    assert len({first, other, larger}) == 3
