"""VCR, NLVR2 and SNLI-VE in their published layouts, of a few lines each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weft.data import load_dataset
from weft.errors import UserError


def write_lines(path: Path, items: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, items)))


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16)).save(path)


def write_vcr(root: Path, rows: int = 2) -> Path:
    """A question about two people, the right one of whose answers is told by its number."""
    photo(root / "vcr1images" / "film" / "1.jpg")
    item = {
        "img_fn": "film/1.jpg", "objects": ["person", "car", "person"], "question": ["Is", [0, 2], "smiling", "?"],
        "answer_choices": [["No"], ["Yes", [0], "is"], ["Maybe"], ["A", [1]]], "answer_label": 1,
        "rationale_choices": [["So", "it", "is"], ["Rain"], [[2], "laughs"], ["Snow"]], "rationale_label": 2,
    }  # fmt: skip
    for part in ("train", "val"):
        write_lines(root / f"{part}.jsonl", [item] * rows)
    return root


def test_vcr(tmp_path: Path) -> None:
    data = load_dataset("vcr", write_vcr(tmp_path))
    assert data.modalities["text"].values[0] == "Is person1 and person3 smiling ?"
    assert data.modalities["choices"].values[0] == ("No", "Yes person1 is", "Maybe", "A car2")
    assert data.targets["label"].tolist() == ["1"] * 4
    assert data.modalities["context"].values == [None] * 4
    assert data.split is not None
    assert data.split.tolist() == ["train", "train", "test", "test"]
    why = load_dataset("vcr", tmp_path, ask="rationale")
    assert why.modalities["context"].values[0] == "Yes person1 is"
    assert why.modalities["choices"].values[0][2] == "person3 laughs"
    assert why.targets["label"][0] == "2"
    (tmp_path / "val.jsonl").write_text('{"objects": []}')
    with pytest.raises(UserError, match=r"val.jsonl, line 1: KeyError"):
        load_dataset("vcr", tmp_path)


def test_nlvr2(tmp_path: Path) -> None:
    for part, label in (("train", "True"), ("dev", False), ("test1", "False")):
        item = {"identifier": f"{part}-7-1-0", "sentence": "Two dogs.", "label": label}
        write_lines(tmp_path / f"{part}.json", [item])
        for side in (0, 1):
            photo(tmp_path / "images" / part / f"{part}-7-1-img{side}.png")
    data = load_dataset("nlvr2", tmp_path)
    assert data.targets["label"].tolist() == ["True", "False", "False"]
    assert data.modalities["other"].values[2].name == "test1-7-1-img1.png"
    assert data.group is not None
    assert data.group.tolist() == ["train-7-1", "dev-7-1", "test1-7-1"]
    (tmp_path / "images" / "dev" / "dev-7-1-img1.png").unlink()
    with pytest.raises(UserError, match=r"1 photos of NLVR2 are missing[\s\S]*dev-7-1-img1"):
        load_dataset("nlvr2", tmp_path)


def test_snli_ve(tmp_path: Path) -> None:
    photo(tmp_path / "flickr30k_images" / "1.jpg")
    for part in ("train", "dev", "test"):
        items = [
            {"Flickr30K_ID": "1", "sentence2": f"A dog {n}.", "gold_label": label, "pairID": f"{part}{n}"}
            for n, label in enumerate(("entailment", "-", "neutral"))
        ]
        write_lines(tmp_path / f"snli_ve_{part}.jsonl", items)
    data = load_dataset("snli-ve", tmp_path)
    assert data.ids == ["train0", "train2", "dev0", "dev2", "test0", "test2"], "what has no label is left out"
    assert data.targets["label"].tolist() == ["entailment", "neutral"] * 3
    (tmp_path / "snli_ve_dev.jsonl").write_text("nothing")
    with pytest.raises(UserError, match=r"snli_ve_dev.jsonl, line 1"):
        load_dataset("snli-ve", tmp_path)
