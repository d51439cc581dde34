"""RGBN300, RGBNT100, RGBNT201 and RoadScene in their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weft.data import load_dataset, make_splits, read_image
from weft.errors import UserError

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def write_side_by_side(root: Path, views: int, folder: str = "rgbir") -> Path:
    names = {
        "bounding_box_train": ["0001_c1_1", "0001_c2_1", "0004_c3_1", "0000_c1_1"],
        "query": ["0002_c1_1"],
        "bounding_box_test": ["0002_c5_1", "0000_c1_7", "-1_c1_1"],
    }
    strip = np.concatenate([np.full((128, 256, 3), c, dtype=np.uint8) for c in COLOURS[:views]], axis=1)
    for part, stems in names.items():
        (root / folder / part).mkdir(parents=True)
        for stem in stems:
            Image.fromarray(strip).save(root / folder / part / f"{stem}.png")
    return root


def colour(value: object) -> tuple[int, ...]:
    image = read_image(value)
    assert image.size == (256, 128)
    found = image.getcolors()
    assert found is not None
    assert len(found) == 1
    return found[0][1]  # type: ignore[return-value]


@pytest.mark.parametrize(("name", "views", "folder"), [("rgbn300", 2, "rgbir"), ("rgbnt100", 3, ".")])
def test_side_by_side(tmp_path: Path, name: str, views: int, folder: str) -> None:
    data = load_dataset(name, write_side_by_side(tmp_path, views, folder))
    assert list(data.modalities) == ["rgb", "nir", "tir"][:views]
    assert [colour(m.values[0]) for m in data.modalities.values()] == COLOURS[:views]
    assert data.targets["identity"].tolist() == [1, 1, 4, 2, 0, 2]
    assert data.targets["camera"].tolist() == [1, 2, 3, 1, 1, 5]
    assert data.targets["part"].tolist() == ["train"] * 3 + ["query"] + ["gallery"] * 2
    assert data.ids[0] == "bounding_box_train/0001_c1_1"
    train, dev, test = make_splits(data)
    assert sorted([len(train), len(dev), len(test)]) == [1, 2, 3]


def test_two_views_are_not_read_as_three(tmp_path: Path) -> None:
    write_side_by_side(tmp_path, 2)
    with pytest.raises(UserError, match="rgbn300"):
        load_dataset("rgbnt100", tmp_path)
    (tmp_path / "rgbir/query/photo.png").write_bytes((tmp_path / "rgbir/query/0002_c1_1.png").read_bytes())
    with pytest.raises(UserError, match=r"photo\.png"):
        load_dataset("rgbn300", tmp_path)


def test_rgbnt201(tmp_path: Path) -> None:
    for part, stems in {"train_171": ["000001_cam1_0_00", "000001_cam2_0_00"], "test": ["000258_cam3_0_01"]}.items():
        for view in ("RGB", "NI", "TI"):
            (tmp_path / part / view).mkdir(parents=True)
            for stem in stems:
                Image.new("RGB", (8, 16)).save(tmp_path / part / view / f"{stem}.jpg")
    data = load_dataset("rgbnt201", tmp_path)
    assert list(data.modalities) == ["rgb", "nir", "tir"]
    assert data.targets["identity"].tolist() == [1, 1, 258]
    assert data.targets["camera"].tolist() == [1, 2, 3]
    assert data.targets["part"].tolist() == ["train", "train", "both"]
    (tmp_path / "test/TI/000258_cam3_0_01.jpg").unlink()
    with pytest.raises(UserError, match="test/000258_cam3_0_01"):
        load_dataset("rgbnt201", tmp_path)
    with pytest.raises(UserError, match="missing or empty"):
        load_dataset("rgbn300", tmp_path)


def test_roadscene(data_root: Path) -> None:
    data = load_dataset("roadscene", data_root / "roadscene")
    assert len(data) == 120
    for row in (0, 60):
        visible, infrared = (read_image(m.values[row]) for m in data.modalities.values())
        assert visible.size == infrared.size
