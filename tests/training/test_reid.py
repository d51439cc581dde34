"""Re-identification models: training finds unseen identities, the folder embeds the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.systems.tiny import VIT
from weft.data import Dataset, load_dataset, make_splits
from weft.errors import UserError
from weft.training.reid import ReIdModel, augmented, fit_reid

SETTINGS: dict[str, Any] = {"epochs": 24, "batch_size": 16, "lr": 1e-2, "patience": 0, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Objects whose colour is seen in visible and whose brightness in thermal light; neither alone names them."""
    root, rng = tmp_path_factory.mktemp("reid"), np.random.default_rng(0)
    for identity in range(16):
        part = "train_171" if identity < 12 else "test"
        colour, heat = 60 * (identity % 4), 60 * (identity // 4)
        for camera in (1, 2, 3):
            for view, level in (("RGB", colour), ("NI", 90), ("TI", heat)):
                folder = root / part / view
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(level + rng.integers(0, 40, (16, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{identity + 1:06d}_cam{camera}_0.png")
    return load_dataset("rgbnt201", root)


def model(classes: int, **options: Any) -> ReIdModel:
    return ReIdModel(VIT, ("rgb", "tir"), classes, size=(16, 32), **{"block": {"heads": 2}, **options})


def test_training_finds_unseen_identities(data: Dataset, tmp_path: Path) -> None:
    split = make_splits(data)
    classes = len(np.unique(data.targets["identity"][split.train]))
    net = model(classes)
    before = net.evaluate(data)["mAP"]
    history = fit_reid(net, data, split, SETTINGS, tmp_path, progress=False, augment=False)
    assert history.epochs[-1]["loss"] < 0.7 * history.epochs[0]["loss"]
    found = net.evaluate(data)
    assert found["mAP"] > max(0.8, before)
    assert found["left out"] == 0
    again = ReIdModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.embed(data, split.test, 8), net.embed(data, split.test), atol=1e-5)
    with pytest.raises(UserError, match="one class per identity"):
        fit_reid(model(classes + 1), data, split, SETTINGS, progress=False)
    with pytest.raises(UserError, match="P identities"):
        fit_reid(net, data, split, {**SETTINGS, "batch_size": 15}, progress=False)


def test_augmentation_moves_the_spectra_alike() -> None:
    torch.manual_seed(0)
    image = torch.rand(8, 3, 24, 40)
    out = augmented({"rgb": image, "nir": image.clone()}, shift=4)
    same = (out["rgb"] == out["nir"]).all(dim=1)
    assert same.any(dim=(1, 2)).all()
    erased = ~same.all(dim=(1, 2))
    assert 0 < int(erased.sum()) < 8, "some samples have a rectangle of noise, drawn for each spectrum"
    assert not torch.equal(out["rgb"], image)
    assert torch.equal(image, torch.rand(8, 3, 24, 40, generator=torch.Generator().manual_seed(0)))
