"""Saliency: training learns, resumes exactly, is kept; augmentation moves photo, depth and mask alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.systems.rgbd_saliency.files import write_set
from tests.systems.tiny import RESNET
from weft.data import Dataset, load_dataset, make_splits
from weft.errors import UserError
from weft.models.pretrained import load_model
from weft.systems.rgbd_saliency import RgbdSaliency
from weft.systems.rgbd_saliency import system as module
from weft.systems.rgbd_saliency.reader import depth, mask, photo
from weft.systems.rgbd_saliency.system import FeatureMaps, as_grey, as_photo, cut_and_flip
from weft.training.config import TrainConfig
from weft.training.system_task import SystemTask, fit_system, make_system

SETTINGS: dict[str, Any] = {"epochs": 12, "batch_size": 4, "lr": 1e-2, "patience": 0, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset("rgbd-saliency", write_set(tmp_path_factory.mktemp("set"), rows=12))


def model(data: Dataset, **options: Any) -> Any:
    options = {"backbone": RESNET, "size": 32, "width": 8, "block": {"heads": 2}, "augment": False, **options}
    return make_system("rgbd-saliency", data, make_splits(data).train, **options)


def test_training_learns_and_the_folder_predicts_the_same(data: Dataset, tmp_path: Path) -> None:
    net, split = model(data), make_splits(data)
    history = fit_system(net, data, split, SETTINGS, tmp_path, progress=False)
    assert history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]
    assert history.best["dev_score"] > 0.7
    again = load_model(tmp_path)
    assert isinstance(again, RgbdSaliency)
    assert again.config() == net.config()
    found = list(again.predictions(data, split.test, batch_size=2))
    assert len(found) == len(split.test)
    for row, one, expected in zip(split.test, found, net.predictions(data, split.test, batch_size=1), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)
        assert one.shape == mask(data, row).shape
    assert again.evaluate(data, split.test)["S"] > 0.7


def test_a_killed_run_gives_the_same_weights(data: Dataset, tmp_path: Path, monkeypatch: Any) -> None:
    split, settings = make_splits(data), {**SETTINGS, "epochs": 2, "log_every": 1}
    whole = model(data, augment=True)
    fit_system(whole, data, split, settings, progress=False)
    steps, step = 0, SystemTask.batch

    def dying(self: SystemTask, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(SystemTask, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        fit_system(model(data, augment=True), data, split, settings, tmp_path, progress=False)
    resumed = model(data, augment=True)
    fit_system(resumed, data, split, settings, tmp_path, progress=False)
    assert steps < 8, "the finished steps are not done again"
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_augmentation_moves_all_three_alike() -> None:
    image = np.add.outer(100 * np.arange(64), np.arange(80)).astype(np.float32)
    cut = cut_and_flip(image, [0.99, 0.5, 0.25, 0.5, 0.9])
    assert cut.shape == (56, 76)
    assert cut[0, 0] == 100 * 2 + 2
    np.testing.assert_array_equal(cut_and_flip(image, [0.99, 0.5, 0.25, 0.5, 0.1]), cut[:, ::-1])
    half = cut_and_flip(image[::2, ::2], [0.99, 0.5, 0.25, 0.5, 0.9])
    assert half.shape == (28, 38)
    assert half[0, 0] == cut[0, 0]
    np.testing.assert_array_equal(cut_and_flip(image, [0, 0, 0, 0, 0.9]), image)


def test_what_is_augmented_is_drawn_by_the_step_alone(data: Dataset) -> None:
    task = SystemTask(model(data, augment=True), data, make_splits(data), TrainConfig())
    batches = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches.append(task.batch(np.arange(2), (0, 0))[0]["rgb"])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_mistakes_are_named(data: Dataset, tmp_path: Path) -> None:
    split = make_splits(data)
    with pytest.raises(UserError, match="none can be dropped"):
        fit_system(model(data), data, split, {"modality_dropout": 0.5}, progress=False)
    with pytest.raises(UserError, match="32 pixels"):
        model(data, size=16)
    with pytest.raises(UserError, match="did you mean 'freeze'"):
        model(data, freze=True)
    fit_system(model(data), data, split, {**SETTINGS, "epochs": 1}, tmp_path, progress=False)
    with pytest.raises(UserError, match="another run"):
        fit_system(model(data, strides=(32,)), data, split, {**SETTINGS, "epochs": 1}, tmp_path, progress=False)
    (tmp_path / "best/config.json").write_text('{"format": "rgbd-saliency/1", "colour": 3}')
    with pytest.raises(UserError, match="colour"):
        load_model(tmp_path)
    blind = {**data.modalities, "mask": type(data.modalities["mask"])("image", [None] * len(data))}
    masked = Dataset("blind", data.ids, blind, {}, None, None, "saliency")
    with pytest.raises(UserError, match="'mask' of every row"):
        fit_system(model(data), masked, split, SETTINGS, progress=False)
    assert len(list(model(data).predictions(masked, split.test[:1]))) == 1


def test_kept_maps_of_frozen_backbones_change_nothing(data: Dataset, tmp_path: Path) -> None:
    """The same run on kept maps, twice, and on images with the frozen network called as a whole."""
    split, settings = make_splits(data), {**SETTINGS, "epochs": 3}
    nets = [model(data, freeze=True) for _ in range(3)]
    nets[2].network.freeze = False
    nets[2].network.backbones.eval()
    module._MAPS.clear()
    histories = [fit_system(nets[0], data, split, settings, tmp_path, progress=False)]
    kept = {key: len(maps._rows) for key, maps in module._MAPS[data].items()}
    histories.append(fit_system(nets[1], data, split, settings, progress=False))
    assert kept == {key: len(maps._rows) for key, maps in module._MAPS[data].items()}, "the second run finds them all"
    monkey = nets[2].network.train
    nets[2].network.train = lambda mode=True: (monkey(mode), nets[2].network.backbones.eval())[0]
    histories.append(fit_system(nets[2], data, split, settings, progress=False))
    curves = [[(epoch["loss"], epoch["dev_loss"], epoch["dev_score"]) for epoch in h.epochs] for h in histories]
    assert curves[0][-1][0] < curves[0][0][0]
    assert curves[0] == curves[1]
    np.testing.assert_allclose(curves[0], curves[2], rtol=2e-3)
    again = load_model(tmp_path)
    found, expected = (next(iter(net.predictions(data, split.test[:1]))) for net in (again, nets[0]))
    np.testing.assert_array_equal(found, expected)


def test_mirrored_maps_are_of_the_mirror_image(data: Dataset) -> None:
    net = model(data, freeze=True).eval()
    columns = net.columns(data)
    images = {"rgb": as_photo(photo(data, 3), 32), "depth": as_grey(depth(data, 3), 32)}
    expected = net.network.encode(images["rgb"].flip(2)[None], images["depth"].flip(2)[None])
    for name in ("rgb", "depth"):
        for level, wanted in zip(net._encode(data, 3, True, name, columns), expected[name], strict=True):
            torch.testing.assert_close(level, wanted[0], rtol=0, atol=0)
    (mirrored,), (plain,) = (net._encode(data, 3, flip, "mask", columns) for flip in (True, False))
    torch.testing.assert_close(mirrored.flip(2), plain, rtol=0, atol=0)


def test_maps_are_kept_while_there_is_room() -> None:
    made: list[int] = []

    def make() -> list[torch.Tensor]:
        made.append(1)
        return [torch.zeros(2**18)]

    room, narrow = FeatureMaps(1.5), FeatureMaps(0)
    assert room.of(3, True, make) is room.of(3, True, make)
    assert narrow.of(3, True, make) is not narrow.of(3, True, make)
    assert len(made) == 3
    assert room.of(3, False, make) is not room.of(3, False, make), "full"


def test_maps_are_shared_by_equal_frozen_backbones_alone(data: Dataset) -> None:
    def keys(**options: Any) -> set[str]:
        net = model(data, freeze=True, **options)
        return {net._frozen_key(name) for name in net.network.names}

    assert keys(fusion="rgb") < keys() == keys(fusion="concat", width=16)
    assert keys(fusion="rgb").isdisjoint(keys(fusion="rgb", seed=1))
    assert keys(fusion="rgb").isdisjoint(keys(fusion="rgb", size=64))
