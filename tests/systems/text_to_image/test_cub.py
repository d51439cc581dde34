"""CUB in a tiny layout written here: rows, splits, squares by hand, names without unpickling, wrong files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weft.data import load_dataset, read_image
from weft.errors import UserError
from weft.systems.text_to_image.cub import read_names

NAMES = {"train": ["001.Auk/Auk_1", "001.Auk/Auk_2"], "test": ["002.Tit/Tit_7"]}
BOXES = {"001.Auk/Auk_1": "10.0 20.0 20.0 8.0", "001.Auk/Auk_2": "0.0 0.0 40.0 30.0", "002.Tit/Tit_7": "30 10 10 20"}


def write(root: Path, inner: str = "CUB_200_2011") -> None:
    """Three photos of 60 x 50 pixels whose red and green are column and row; two captions each."""
    for split, names in NAMES.items():
        (root / split).mkdir(parents=True)
        (root / split / "filenames.pickle").write_bytes(pickle.dumps(names, 2))
    everything = [name for names in NAMES.values() for name in names]
    write_photos(root, inner, everything, [BOXES[name] for name in everything])


def add(root: Path, names: list[str]) -> None:
    """More photos of the training part, all with one box."""
    (root / "train/filenames.pickle").write_bytes(pickle.dumps(NAMES["train"] + names))
    write_photos(root, "CUB_200_2011", names, ["10 10 20 20"] * len(names))


def write_photos(root: Path, inner: str, names: list[str], boxes: list[str]) -> None:
    """Photos, captions, and lines of the two lists, which go on from the last number."""
    photos = root / inner
    row, column = np.mgrid[:50, :60]
    pixels = np.stack([column, row, 0 * row], axis=2).astype(np.uint8)
    for name in names:
        for folder in (photos / "images", root / "text"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "text" / f"{name}.txt").write_text(f"a bird called {name}\n\nit is small\n")
        Image.fromarray(pixels).save(photos / "images" / f"{name}.jpg", quality=100, subsampling=0)
    listed = (photos / "images.txt").read_text().splitlines() if (photos / "images.txt").is_file() else []
    with (photos / "images.txt").open("a") as images, (photos / "bounding_boxes.txt").open("a") as places:
        for number, (name, box) in enumerate(zip(names, boxes, strict=True), len(listed) + 1):
            images.write(f"{number} {name}.jpg\n")
            places.write(f"{number} {box}\n")


@pytest.mark.parametrize("inner", ["CUB_200_2011", "CUB_200_2011/CUB_200_2011"])
def test_rows_and_squares(tmp_path: Path, inner: str) -> None:
    write(tmp_path, inner)
    data = load_dataset("cub", tmp_path)
    assert data.ids == [f"{n}#{k}" for n in ("001.Auk/Auk_1", "001.Auk/Auk_2", "002.Tit/Tit_7") for k in (0, 1)]
    assert data.split is not None
    assert data.group is not None
    assert data.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert data.group.tolist()[::2] == ["001.Auk/Auk_1", "001.Auk/Auk_2", "002.Tit/Tit_7"]
    assert data.targets["class"].tolist()[::2] == ["001.Auk", "001.Auk", "002.Tit"]
    assert data.modalities["text"].values[4:] == ["a bird called 002.Tit/Tit_7", "it is small"]
    photos = [read_image(value) for value in data.modalities["image"].values[::2]]
    # centres (20, 24), (20, 15), (35, 20); half-sides 15, 30, 15; clipped to 60 x 50
    assert [photo.size for photo in photos] == [(30, 30), (50, 45), (30, 30)]
    corners = [np.asarray(photo)[0, 0, :2].astype(int) for photo in photos]
    assert np.abs(np.stack(corners) - [[5, 9], [0, 0], [20, 5]]).max() <= 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    names = [f"{i:03d}.Class/Bird_{i}" for i in range(2000)]
    (tmp_path / "names").write_bytes(pickle.dumps(names, protocol))
    assert read_names(tmp_path / "names") == names


def test_names_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"(lp0\nS'001.Auk/Auk_1'\np1\naS'002.Tit/Tit_7'\np2\na.")
    assert read_names(tmp_path / "names") == ["001.Auk/Auk_1", "002.Tit/Tit_7"]


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("value", [Evil(), ["a", Evil()], {"a": 1}, ["a", 3]])
def test_nothing_else_is_read_from_a_pickle(tmp_path: Path, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match="opcode"):
        read_names(tmp_path / "names")
    assert not (tmp_path / "ran").exists()


def twice(root: Path) -> None:
    (root / "test/filenames.pickle").write_bytes(pickle.dumps(NAMES["test"] + NAMES["train"][:1]))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda root: (root / "text/001.Auk/Auk_2.txt").unlink(), "no caption.*001.Auk/Auk_2"),
        (lambda root: (root / "text/001.Auk/Auk_2.txt").write_text("\n \n"), "no caption.*001.Auk/Auk_2"),
        (lambda root: (root / "CUB_200_2011/images/001.Auk/Auk_1.jpg").unlink(), "no photo.*001.Auk/Auk_1"),
        (lambda root: (root / "CUB_200_2011/images.txt").write_text("1 001.Auk/Auk_1.jpg"), "bounding_boxes.*Auk_2"),
        (lambda root: (root / "CUB_200_2011/bounding_boxes.txt").write_text("1 2 3"), "5 cells.*1 2 3"),
        (lambda root: (root / "CUB_200_2011/bounding_boxes.txt").unlink(), "missing.*bounding_boxes"),
        (lambda root: (root / "test/filenames.pickle").write_bytes(b"\x80\x04]"), "filenames.pickle"),
        (twice, "two splits.*001.Auk/Auk_1"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, damage: Callable[[Path], object], found: str) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=f"(?s){found}"):
        load_dataset("cub", tmp_path)
