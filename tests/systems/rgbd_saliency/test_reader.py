"""The RGB-D saliency layout and its traps: polarity, sizes, extensions, masks that are not binary, missing files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.systems.rgbd_saliency.files import write_set
from weft.data import Dataset, load_dataset, make_folds, make_splits
from weft.errors import UserError
from weft.systems.images import resized
from weft.systems.rgbd_saliency.reader import depth, mask, photo


def read(root: Path, **options: Any) -> Dataset:
    return load_dataset("rgbd-saliency", root, **options)


def test_real_set(data_root: Path) -> None:
    data = read(data_root / "rgbd_potholes")
    train, dev, test = make_splits(data)
    assert (len(data), len(train) + len(dev), len(test)) == (67, 47, 20)
    listed = (data_root / "rgbd_potholes/test.txt").read_text().split()
    assert {data.ids[row] for row in test} == {Path(stem).stem for stem in listed}
    assert photo(data, 0).shape == (190, 320, 3)
    assert depth(data, 0).shape == mask(data, 0).shape == (190, 320)
    assert (depth(data, 0).min(), depth(data, 0).max()) == (0, 1)
    inside = [depth(data, row)[mask(data, row)].mean() - depth(data, row).mean() for row in range(len(data))]
    assert np.mean(inside) < 0, "a pothole is further away than its surroundings"


def test_several_sets_side_by_side(tmp_path: Path) -> None:
    write_set(tmp_path / "NLPR")
    write_set(tmp_path / "SIP", rows=2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "NLPR/train.txt").write_text("s0\nRGB/s2.png\n\n")
    (tmp_path / "SIP/RGB").rename(tmp_path / "SIP/Image")
    (tmp_path / "SIP/GT").rename(tmp_path / "SIP/mask")
    data = read(tmp_path, near={"SIP": "dark"})
    assert data.ids == ["NLPR/s0", "NLPR/s1", "NLPR/s2", "NLPR/s3", "SIP/s0", "SIP/s1"]
    assert [value.near for value in data.modalities["depth"].values] == ["bright"] * 4 + ["dark"] * 2
    assert data.split is not None
    assert data.split.tolist() == ["train", "test", "train", "test", "test", "test"]
    assert len(make_folds(data, 3)) == 3
    assert read(tmp_path / "SIP").split is None


@pytest.mark.parametrize(
    ("name", "folders", "endings", "listed"),
    [
        ("NJU2K", ("RGB", "depth", "GT"), (".jpg", ".png", ".png"), ("train", "test")),
        ("NLPR", ("RGB", "depth", "GT"), (".jpg", ".bmp", ".jpg"), ("train",)),
        ("DUT-RGBD", ("image", "Depth", "mask"), (".jpg", ".png", ".png"), ("train", "test")),
        ("SIP", ("RGB", "depth", "GT"), (".jpg", ".png", ".png"), ()),
        ("STEREO", ("RGB", "depth", "GT"), (".jpg", ".jpg", ".png"), ()),
        ("LFSD", ("images", "depths", "masks"), (".bmp", ".png", ".png"), ()),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_the_published_sets(
    tmp_path: Path, name: str, folders: tuple[str, ...], endings: tuple[str, ...], listed: tuple[str, ...], alone: bool
) -> None:
    """Each by itself, and beside NLPR as the training set."""
    root = write_set(tmp_path / "plain" / "set", rows=3)
    target = tmp_path / "sets" / name
    for old, new, ending in zip(("RGB", "depth", "GT"), folders, endings, strict=True):
        (target / new).mkdir(parents=True)
        for row in range(3):
            Image.open(root / old / f"s{row}.png").save(target / new / f"a_{row}.v1{ending}")
    for part, stems in zip(listed, ("a_0.v1\na_1.v1.jpg\n", f"{folders[0]}/a_2.v1.jpg\n"), strict=False):
        (target / f"{part}.txt").write_text(stems)
    if not alone:
        write_set(tmp_path / "sets" / "ATRAIN", rows=2)
        (tmp_path / "sets" / "ATRAIN/train.txt").write_text("s0\ns1\n")
    data = read(target if alone else target.parent)
    prefix, start = ("", 0) if alone else (f"{name}/", 2)
    assert data.ids[start:] == [f"{prefix}a_{row}.v1" for row in range(3)]
    expected = ["train", "train", "test"] if listed else ["test"] * 3
    assert (data.split is None) == (alone and not listed)
    assert data.split is None or data.split[start:].tolist() == expected
    plain = read(root)
    for row in range(3):
        assert np.abs(photo(data, start + row).astype(int) - photo(plain, row)).mean() < 25, "JPEG of noise"
        assert np.abs(depth(data, start + row) - depth(plain, row)).mean() < 0.15
        assert (mask(data, start + row) == mask(plain, row)).mean() > 0.99


def test_extensions_and_sizes_may_differ(tmp_path: Path) -> None:
    write_set(tmp_path)
    image = Image.open(tmp_path / "depth/s1.png").resize((26, 20))
    (tmp_path / "depth/s1.png").unlink()
    image.save(tmp_path / "depth/s1.BMP")
    (tmp_path / "RGB/Thumbs.db").write_bytes(b"x")
    data = read(tmp_path)
    assert depth(data, 1).shape == (20, 26)
    assert resized(depth(data, 1), (8, 9)).shape == (8, 9)
    assert resized(photo(data, 1), (8, 9)).shape == (8, 9, 3)


def test_depth_of_any_range_and_polarity(tmp_path: Path) -> None:
    write_set(tmp_path, rows=3)
    millimetres = np.linspace(400, 9000, 12).reshape(3, 4)
    Image.fromarray(millimetres.astype(np.uint16)).save(tmp_path / "depth/s0.png")
    Image.fromarray(np.full((3, 4), 77, dtype=np.uint8)).save(tmp_path / "depth/s1.png")
    far, near = read(tmp_path), read(tmp_path, near="dark")
    np.testing.assert_allclose(depth(far, 0), np.linspace(0, 1, 12).reshape(3, 4), atol=2e-4)
    np.testing.assert_allclose(depth(near, 0), 1 - depth(far, 0), atol=1e-6)
    assert depth(far, 1).max() == depth(near, 1).max() == 0, "a constant depth says nothing"
    assert len(np.unique(depth(far, 0))) == 12, "16 bits are not cut to 8"


def test_masks_that_are_not_black_and_white(tmp_path: Path) -> None:
    write_set(tmp_path)
    Image.fromarray(np.array([[0, 128, 129, 254]], dtype=np.uint8)).save(tmp_path / "GT/s0.png")
    Image.fromarray(np.array([[0, 1, 1, 0]], dtype=np.uint8)).save(tmp_path / "GT/s1.png")
    Image.fromarray(np.zeros((1, 4), dtype=np.uint8)).save(tmp_path / "GT/s2.png")
    Image.fromarray(np.array([[[255, 255, 255], [0, 0, 0]]], dtype=np.uint8)).save(tmp_path / "GT/s3.png")
    data = read(tmp_path)
    assert mask(data, 0).tolist() == [[False, False, True, True]]
    assert mask(data, 1).tolist() == [[False, True, True, False]]
    assert not mask(data, 2).any()
    assert mask(data, 3).tolist() == [[True, False]]


def test_missing_and_damaged_files_name_the_row(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "GT/s2.png").write_bytes(b"no image")
    data = read(tmp_path)
    with pytest.raises(UserError, match=r"(?s)mask of row 's2'.*GT/s2.png"):
        mask(data, 2)
    (tmp_path / "GT/s1.png").unlink()
    unmasked = read(tmp_path)
    with pytest.raises(UserError, match="row 's1'"):
        mask(unmasked, 1)
    (tmp_path / "depth/s3.png").unlink()
    with pytest.raises(UserError, match=r"(?s)depth of the same stem.*'s3'"):
        read(tmp_path)


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "none")
    with pytest.raises(UserError, match="no RGB/"):
        read(tmp_path)
    write_set(tmp_path)
    with pytest.raises(UserError, match="bright or dark"):
        read(tmp_path, near="far")
    with pytest.raises(UserError, match="bright or dark"):
        read(tmp_path, near={"NLPR": "dark"})
    for lists, message in (
        ({"train": "s0 s9", "test": "s1"}, "'s9'"),
        ({"train": "s0 s1 s2 s3", "test": "s1"}, "both"),
        ({"train": "s0", "test": "s1"}, "neither"),
    ):
        for part, stems in lists.items():
            (tmp_path / f"{part}.txt").write_text("\n".join(stems.split()))
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    (tmp_path / "RGB/s0.jpg").write_bytes((tmp_path / "RGB/s0.png").read_bytes())
    with pytest.raises(UserError, match="one stem"):
        read(tmp_path)
    (tmp_path / "image").mkdir()
    with pytest.raises(UserError, match="two folders"):
        read(tmp_path)


def test_scenes_stay_together(tmp_path: Path) -> None:
    write_set(tmp_path, rows=9)
    lines = tmp_path / "scenes.txt"
    lines.write_text("s3 s1\n\ns2 s5 s8\n")
    data = read(tmp_path, scenes=lines)
    assert data.group is not None
    assert data.group.tolist() == ["s0", "s3", "s2", "s3", "s4", "s2", "s6", "s7", "s2"]
    for split in make_folds(data, 3):
        parts = [set(data.group[rows]) for rows in split]
        assert sum(map(len, parts)) == 6, "no scene in two parts"
    for text, message in (("s0 s77", "'s77'"), ("s0 s1\ns1 s2", "in two scenes")):
        lines.write_text(text)
        with pytest.raises(UserError, match=message):
            read(tmp_path, scenes=lines)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path, scenes=tmp_path / "none.txt")


def test_depth_is_a_column_of_its_kind(tmp_path: Path) -> None:
    data = load_dataset("rgbd-saliency", write_set(tmp_path, rows=4), near="dark")
    kinds_of = {name: modality.kind for name, modality in data.modalities.items()}
    assert kinds_of == {"rgb": "image", "depth": "depth", "mask": "image"}
    for name in data.modalities:
        data.verify(name)
