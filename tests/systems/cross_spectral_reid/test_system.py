"""Re-identification: training finds unseen identities and resumes exactly, the folder embeds the same."""

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
from weft.models.pretrained import load_model
from weft.training.system_task import SystemTask, fit_system, make_system

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


def model(data: Dataset, rows: np.ndarray, **options: Any) -> Any:
    two = replace(data, modalities={name: data.modalities[name] for name in ("rgb", "tir") if name in data.modalities})
    options = {"encoder": VIT, "size": (16, 32), "block": {"heads": 2}, **options}
    return make_system("cross-spectral-reid", two, rows, **options)


def held_out(data: Dataset) -> np.ndarray:
    return np.flatnonzero(data.targets["part"] != "train")


def embeddings(net: Any, data: Dataset, rows: np.ndarray, batch_size: int = 64) -> np.ndarray:
    return np.stack(list(net.predictions(data, rows, batch_size=batch_size)))


def test_training_finds_unseen_identities(data: Dataset, tmp_path: Path) -> None:
    split = make_splits(data)
    net = model(data, split.train, augment=False)
    before = net.evaluate(data, held_out(data))["mAP"]
    history = fit_system(net, data, split, SETTINGS, tmp_path, progress=False)
    assert history.epochs[-1]["loss"] < 0.7 * history.epochs[0]["loss"]
    found = net.evaluate(data, held_out(data))
    assert found["mAP"] > max(0.8, before)
    assert found["left out"] == 0
    again = load_model(tmp_path)
    np.testing.assert_allclose(embeddings(again, data, split.test, 8), embeddings(net, data, split.test), atol=1e-5)
    alone = model(data, split.train, fusion="tir")
    fit_system(alone, data, split, {**SETTINGS, "epochs": 1}, progress=False)
    alone.save_pretrained(tmp_path / "alone")
    kept = load_model(tmp_path / "alone")
    assert kept.network.names == ("tir",)
    np.testing.assert_array_equal(embeddings(kept, data, split.test), embeddings(alone, data, split.test))
    with pytest.raises(UserError, match="one class per identity"):
        fit_system(model(data, split.train[3:]), data, split, SETTINGS, progress=False)
    with pytest.raises(UserError, match="P identities"):
        fit_system(net, data, split, {**SETTINGS, "batch_size": 15}, progress=False)


@pytest.mark.parametrize("fusion", ["mutualformer", "cam"])
def test_a_killed_run_gives_the_same_weights(data: Dataset, tmp_path: Path, monkeypatch: Any, fusion: str) -> None:
    split, settings = make_splits(data), {**SETTINGS, "epochs": 2, "batch_size": 8, "log_every": 1}
    whole, resumed = (model(data, split.train, fusion=fusion, smoothing=0.1) for _ in range(2))
    fit_system(whole, data, split, settings, progress=False)
    steps, batch = 0, SystemTask.batch

    def dying(self: SystemTask, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return batch(self, *args)

    monkeypatch.setattr(SystemTask, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        fit_system(
            model(data, split.train, fusion=fusion, smoothing=0.1), data, split, settings, tmp_path, progress=False
        )
    with pytest.raises(UserError, match="another run"):
        fit_system(model(data, split.train, fusion=fusion), data, split, settings, tmp_path, progress=False)
    fit_system(resumed, data, split, settings, tmp_path, progress=False)
    assert steps == 5 + 2, "three steps an epoch: the four finished ones are not done again"
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_an_identity_with_one_image_is_trained_on_and_left_out_of_the_search(data: Dataset) -> None:
    """It fills its batch with repeats, each augmented on its own; nobody can find it in another camera."""
    identity, camera, part = (data.targets[name] for name in ("identity", "camera", "part"))
    single = data.take(np.flatnonzero(~np.isin(identity, (1, 16)) | (camera == 1)))
    split = make_splits(single)
    split = split._replace(train=np.union1d(split.train, [0]), dev=np.setdiff1d(split.dev, [0]))
    net = model(single, split.train)
    fit_system(net, single, split, {**SETTINGS, "epochs": 1}, progress=False)
    found = net.evaluate(single, held_out(single))
    assert (found["left out"], found["queries"], found["gallery"]) == (1, 10, 10)
    assert part[identity == 16].tolist() == ["both"] * 3
    scores = net.make_judge().scores(embeddings(net, single, split.test), net.truth(single, split.test))
    assert np.isnan(scores).sum() == 1
    assert found["mAP"] == pytest.approx(np.nanmean(scores))


def test_a_missing_spectrum_is_named(data: Dataset) -> None:
    split = make_splits(data)
    values = list(data.modalities["tir"].values)
    values[int(split.test[0])] = None
    torn = replace(data, modalities={**data.modalities, "tir": replace(data.modalities["tir"], values=values)})
    net = model(data, split.train)
    with pytest.raises(UserError, match=f"1 rows without: '{data.ids[split.test[0]]}'"):
        net.evaluate(torn, split.test)
    assert model(data, split.train, fusion="rgb").evaluate(torn, split.test)["left out"] == 0
    without = replace(data, modalities={"rgb": data.modalities["rgb"]})
    with pytest.raises(UserError, match="the spectrum 'tir'"):
        fit_system(net, without, split, SETTINGS, progress=False)
    for name in ("identity", "part"):
        less = replace(data, targets={key: value for key, value in data.targets.items() if key != name})
        with pytest.raises(UserError, match=f"no {name};"):
            net.evaluate(less, split.test)
    with pytest.raises(UserError, match="0 rows of part 'query'"):
        net.evaluate(data, split.train)
    one = split._replace(dev=split.dev[data.targets["camera"][split.dev] == 1])
    with pytest.raises(UserError, match="another camera"):
        fit_system(net, data, one, SETTINGS, progress=False)
    with pytest.raises(UserError, match="smoothing"):
        model(data, split.train, smoothing=1.0)
