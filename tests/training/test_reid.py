"""Re-identification models: training finds unseen identities and resumes exactly, the folder embeds the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.systems.tiny import VIT
from weft.data import Dataset, load_dataset, make_splits
from weft.errors import UserError
from weft.training.reid import ReIdGoal, ReIdModel, augmented, fit_reid

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
    alone = model(classes, fusion="tir")
    fit_reid(alone, data, split, {**SETTINGS, "epochs": 1}, progress=False)
    alone.save_pretrained(tmp_path / "alone")
    kept = ReIdModel.from_pretrained(tmp_path / "alone")
    assert kept.network.names == ("tir",)
    np.testing.assert_array_equal(kept.embed(data, split.test), alone.embed(data, split.test))
    with pytest.raises(UserError, match="one class per identity"):
        fit_reid(model(classes + 1), data, split, SETTINGS, progress=False)
    with pytest.raises(UserError, match="P identities"):
        fit_reid(net, data, split, {**SETTINGS, "batch_size": 15}, progress=False)


@pytest.mark.parametrize("fusion", ["mutualformer", "cam"])
def test_a_killed_run_gives_the_same_weights(data: Dataset, tmp_path: Path, monkeypatch: Any, fusion: str) -> None:
    split, settings = make_splits(data), {**SETTINGS, "epochs": 2, "batch_size": 8, "log_every": 1}
    classes = len(np.unique(data.targets["identity"][split.train]))
    whole, resumed = model(classes, fusion=fusion), model(classes, fusion=fusion)
    fit_reid(whole, data, split, settings, progress=False, smoothing=0.1)
    steps, batch = 0, ReIdGoal.batch

    def dying(self: ReIdGoal, positions: np.ndarray, *seed: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return batch(self, positions, *seed)

    monkeypatch.setattr(ReIdGoal, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        fit_reid(model(classes, fusion=fusion), data, split, settings, tmp_path, progress=False, smoothing=0.1)
    with pytest.raises(UserError, match="another run"):
        fit_reid(model(classes, fusion=fusion), data, split, settings, tmp_path, progress=False)
    fit_reid(resumed, data, split, settings, tmp_path, progress=False, smoothing=0.1)
    assert steps == 5 + 2, "three steps an epoch: the four finished ones are not done again"
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_an_identity_with_one_image_is_trained_on_and_left_out_of_the_search(data: Dataset) -> None:
    """It fills its batch with repeats, each augmented on its own; nobody can find it in another camera."""
    identity, camera, part = (data.targets[name] for name in ("identity", "camera", "part"))
    single = data.take(np.flatnonzero(~np.isin(identity, (1, 16)) | (camera == 1)))
    split = make_splits(single)
    split = split._replace(train=np.union1d(split.train, [0]), dev=np.setdiff1d(split.dev, [0]))
    net = model(len(np.unique(single.targets["identity"][split.train])))
    fit_reid(net, single, split, {**SETTINGS, "epochs": 1}, progress=False)
    found = net.evaluate(single)
    assert (found["left out"], found["queries"], found["gallery"]) == (1, 10, 10)
    assert part[identity == 16].tolist() == ["both"] * 3


def test_a_missing_spectrum_is_named(data: Dataset) -> None:
    split = make_splits(data)
    classes = len(np.unique(data.targets["identity"][split.train]))
    values = list(data.modalities["tir"].values)
    values[int(split.test[0])] = None
    torn = replace(data, modalities={**data.modalities, "tir": replace(data.modalities["tir"], values=values)})
    net = model(classes)
    with pytest.raises(UserError, match=f"1 rows without: '{data.ids[split.test[0]]}'"):
        net.evaluate(torn)
    assert model(classes, fusion="rgb").evaluate(torn)["left out"] == 0
    without = replace(data, modalities={"rgb": data.modalities["rgb"]})
    with pytest.raises(UserError, match="the spectrum 'tir'"):
        fit_reid(net, without, split, SETTINGS, progress=False)
    for name in ("identity", "part"):
        less = replace(data, targets={key: value for key, value in data.targets.items() if key != name})
        with pytest.raises(UserError, match=f"no {name};"):
            net.evaluate(less)
    with pytest.raises(UserError, match="0 rows of part 'query'"):
        net.evaluate(data.take(split.train))
    one = split._replace(dev=split.dev[data.targets["camera"][split.dev] == 1])
    with pytest.raises(UserError, match="another camera"):
        fit_reid(net, data, one, SETTINGS, progress=False)
    for wrong in ({"smoothing": 1.0}, {"config": {**SETTINGS, "modality_dropout": 0.5}}):
        with pytest.raises(UserError, match="every spectrum in training"):
            fit_reid(net, data, split, **{"config": SETTINGS, **wrong}, progress=False)


def test_augmentation_moves_the_spectra_alike() -> None:
    torch.manual_seed(0)
    image = torch.rand(8, 3, 24, 40)
    out = augmented({"rgb": image, "nir": image.clone()})
    same = (out["rgb"] == out["nir"]).all(dim=1)
    assert same.any(dim=(1, 2)).all()
    erased = ~same.all(dim=(1, 2))
    assert 0 < int(erased.sum()) < 8, "some samples have a rectangle of noise, drawn for each spectrum"
    assert not torch.equal(out["rgb"], image)
    assert torch.equal(image, torch.rand(8, 3, 24, 40, generator=torch.Generator().manual_seed(0)))
