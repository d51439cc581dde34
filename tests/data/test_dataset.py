from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weft.data import Dataset, Modality, datasets, load_dataset
from weft.errors import UserError

IDS = ["a", "b", "c", "d"]


def make(**changes: Any) -> Dataset:
    parts: dict[str, Any] = {
        "name": "toy",
        "ids": list(IDS),
        "modalities": {
            "text": Modality("text", ["one", "two", None, "four"]),
            "vector": Modality("vector", list(np.eye(4, dtype=np.float32))),
        },
        "targets": {"label": np.array([0, 1, 0, 1])},
        "split": np.array(["train", "train", "dev", "test"]),
        "group": np.array([0, 0, 1, 2]),
        "task": "classification",
    }
    return Dataset(**parts | changes)


def one(kind: str, values: list[Any], fields: tuple[str, ...] = ()) -> dict[str, Any]:
    other = Modality("text", ["x"] * 4)
    return {"modalities": {"other": other, "m": Modality(kind, values, fields)}}


def test_take_keeps_the_order_of_rows() -> None:
    part = make().take([3, 0])
    assert part.ids == ["d", "a"]
    assert part.modalities["text"].values == ["four", "one"]
    np.testing.assert_array_equal(np.stack(part.modalities["vector"].values), np.eye(4)[[3, 0]])
    assert part.targets["label"].tolist() == [1, 0]
    assert part.split is not None
    assert part.split.tolist() == ["test", "train"]
    assert part.group is not None
    assert part.group.tolist() == [2, 0]
    assert len(part) == 2
    assert make().modalities["text"].presence.tolist() == [True, True, False, True]


@pytest.mark.parametrize("rows", [[4], [-1], [0, 0]])
def test_take_refuses_unknown_and_repeated_rows(rows: list[int]) -> None:
    with pytest.raises(UserError):
        make().take(rows)


X = np.zeros(3, dtype=np.float32)
S = np.zeros((5, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["a", "b", "a", "b"]}, "unique(.|\n)*'a', 'b'"),
        ({"ids": []}, "rows"),
        ({"modalities": {}}, "modalities"),
        ({"targets": {"label": np.zeros(3)}}, "4 ids, but target 'label': 3"),
        ({"group": np.zeros(5)}, "group: 5"),
        ({"modalities": {"m": Modality("text", ["x"])}}, "modality 'm': 1"),
        ({"split": np.array(["train", "train", "holdout", "test"])}, "c: holdout"),
        ({"modalities": {"m": Modality("text", ["x", None, "y", None])}}, "none of m in 2 rows: 'b', 'd'"),
        (one("picture", [None] * 4), "unknown kind"),
        (one("vektor", [None] * 4), "did you mean 'vector'"),
        (one("text", ["x", " ", 3, None]), "'b', 'c'"),
        (one("tabular", [(1.0, "x"), (1.0,), None, None], ("p", "q")), "'b'"),
        (one("vector", [X, np.zeros(4), X, None]), "mostly 3, but 'b: 4'"),
        (one("vector", [X, [0, 0, 0], X, None]), "numeric array(.|\n)*'b'"),
        (one("vector", [X, X, np.array([0, np.nan, 0]), None]), "NaN(.|\n)*'c'"),
        (one("series", [S, np.full((5, 2), np.inf), S, None]), "infinite(.|\n)*'b'"),
        (one("series", [S, X, S, None]), r"\(T, C\)(.|\n)*'b'"),
        (one("series", [S, np.zeros((9, 2)), np.zeros((5, 3)), None]), "mostly 2, but 'c: 3'"),
        (one("tokens", [S, np.zeros((0, 2)), S, None]), "without values(.|\n)*'b'"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_verify_reads_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in IDS]
    for path in paths:
        Image.new("RGB", (32, 32)).save(path)
    data = make(modalities={"photo": Modality("image", paths), "text": Modality("text", ["x"] * 4)})
    data.verify("photo")
    data.verify("text")
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    with pytest.raises(UserError, match=r"'photo', row 'c'(.|\n)*c\.jpg"):
        data.verify("photo")
    with pytest.raises(UserError, match="did you mean 'photo'"):
        data.verify("foto")


def test_names_options_and_roots_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'flickr8k'"):
        load_dataset("flickr8")
    with pytest.raises(UserError, match="did you mean 'rows'"):
        load_dataset("xor", row=3)
    with pytest.raises(UserError, match="needs no files"):
        load_dataset("xor", tmp_path)
    for name in ("flickr8k", "coco", "vqa", "ett", "image_folder", "digits_av", "mosi", "multiview"):
        assert name in datasets.names()
        with pytest.raises(UserError, match="give root="):
            load_dataset(name)
        with pytest.raises(UserError, match="no such folder"):
            load_dataset(name, tmp_path / "nowhere")
        with pytest.raises(UserError, match="expected"):
            load_dataset(name, tmp_path)
