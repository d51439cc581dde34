"""Saliency models: training learns, resumes exactly, is kept; augmentation moves photo, depth and mask alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.saliency_files import write_set
from tests.systems.tiny import RESNET
from weft.data import make_splits
from weft.data.rgbd_saliency import RgbdSaliency, read_rgbd_saliency
from weft.errors import UserError
from weft.tasks.saliency import score_map, summarise
from weft.training.config import TrainConfig
from weft.training.loop import run
from weft.training.saliency import FeatureMaps, SaliencyGoal, SaliencyModel, cut_and_flip, fit_saliency

SETTINGS: dict[str, Any] = {"epochs": 12, "batch_size": 4, "lr": 1e-2, "patience": 0, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RgbdSaliency:
    return read_rgbd_saliency(write_set(tmp_path_factory.mktemp("set"), rows=12))


def model(**options: Any) -> SaliencyModel:
    return SaliencyModel(RESNET, size=32, **{"width": 8, "block": {"heads": 2}, **options})


def test_training_learns_and_the_folder_predicts_the_same(data: RgbdSaliency, tmp_path: Path) -> None:
    net, split = model(), make_splits(data)
    history = fit_saliency(net, data, split, SETTINGS, tmp_path, progress=False, augment=False)
    assert history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]
    assert history.best["dev_score"] > 0.7
    again = SaliencyModel.from_pretrained(tmp_path)
    assert (again.size, again.network.options) == (32, net.network.options)
    found = dict(again.predict(data, split.test, batch_size=2))
    assert sorted(found) == split.test.tolist()
    for row, expected in net.predict(data, split.test, batch_size=1):
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        assert found[row].shape == data.mask(row).shape
    assert summarise(score_map(found[row], data.mask(row)) for row in found)["S"] > 0.7


def test_a_killed_run_gives_the_same_weights(data: RgbdSaliency, tmp_path: Path, monkeypatch: Any) -> None:
    split, settings = make_splits(data), {**SETTINGS, "epochs": 2, "log_every": 1}
    whole = model()
    fit_saliency(whole, data, split, settings, progress=False)
    steps, step = 0, SaliencyGoal.batch

    def dying(self: SaliencyGoal, positions: np.ndarray, *seed: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return step(self, positions, *seed)

    monkeypatch.setattr(SaliencyGoal, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        fit_saliency(model(), data, split, settings, tmp_path, progress=False)
    resumed = model()
    fit_saliency(resumed, data, split, settings, tmp_path, progress=False)
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


def test_the_split_is_drawn_by_the_step_alone(data: RgbdSaliency) -> None:
    goal = SaliencyGoal(model(), data, make_splits(data), TrainConfig())
    goal.prepare(torch.device("cpu"))
    batches = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches.append(goal.batch(np.arange(2))[0])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_mistakes_are_named(data: RgbdSaliency, tmp_path: Path) -> None:
    split = make_splits(data)
    with pytest.raises(UserError, match="photo and depth"):
        fit_saliency(model(), data, split, {"modality_dropout": 0.5}, progress=False)
    with pytest.raises(UserError, match="32 pixels"):
        SaliencyModel(RESNET, size=16)
    fit_saliency(model(), data, split, {**SETTINGS, "epochs": 1}, tmp_path, progress=False)
    with pytest.raises(UserError, match="another run"):
        fit_saliency(model(strides=(32,)), data, split, {**SETTINGS, "epochs": 1}, tmp_path, progress=False)
    (tmp_path / "best/config.json").write_text('{"format": "SaliencyModel/1", "colour": 3}')
    with pytest.raises(UserError, match="does not describe"):
        SaliencyModel.from_pretrained(tmp_path)


def test_kept_maps_of_frozen_backbones_change_nothing(data: RgbdSaliency, tmp_path: Path) -> None:
    """The same run on kept maps (shared, or its own), and on images with the frozen network called as a whole."""
    split, settings = make_splits(data), TrainConfig.of({**SETTINGS, "epochs": 3})
    shared, own, whole = (model(freeze=True) for _ in range(3))
    maps = FeatureMaps(model(freeze=True, fusion="concat"), data)
    histories = [
        fit_saliency(shared, data, split, settings, tmp_path, progress=False, augment=False, maps=maps),
        fit_saliency(own, data, split, settings, progress=False, augment=False),
        run(SaliencyGoal(whole, data, split, settings, augment=False), settings, progress=False),
    ]
    curves = [[(epoch["loss"], epoch["dev_loss"], epoch["dev_score"]) for epoch in h.epochs] for h in histories]
    assert curves[0][-1][0] < curves[0][0][0]
    assert curves[0] == curves[1]
    np.testing.assert_allclose(curves[0], curves[2], rtol=2e-3)
    again = SaliencyModel.from_pretrained(tmp_path)
    found, expected = (next(iter(net.predict(data, split.test[:1]))) for net in (again, shared))
    np.testing.assert_array_equal(found[1], expected[1])


def test_mirrored_maps_are_of_the_mirror_image(data: RgbdSaliency) -> None:
    net = model(freeze=True)
    rgb, depth = net.images(data, 3)
    expected = net.eval().network.encode(rgb.flip(2)[None], depth.flip(2)[None])
    maps = FeatureMaps(net, data)
    levels, mask = maps.row(3, True)
    assert maps.row(3, True)[1] is mask, "kept"
    narrow = FeatureMaps(net, data, cache_mb=0)
    assert narrow.row(3, True)[1] is not narrow.row(3, True)[1], "no room: computed every time"
    torch.testing.assert_close(narrow.row(3, True), (levels, mask), rtol=0, atol=0)
    for name in ("rgb", "depth"):
        for level, wanted in zip(levels[name], expected[name], strict=True):
            torch.testing.assert_close(level, wanted[0], rtol=0, atol=0)
    torch.testing.assert_close(mask.flip(2), FeatureMaps(net, data).row(3, False)[1], rtol=0, atol=0)


def test_kept_maps_of_other_backbones_are_refused(data: RgbdSaliency) -> None:
    maps, split = FeatureMaps(model(freeze=True, fusion="rgb"), data), make_splits(data)
    others = (model(freeze=True), model(freeze=True, fusion="rgb", seed=1), model(fusion="rgb"))
    other_size = SaliencyModel(RESNET, size=64, freeze=True, fusion="rgb", width=8)
    for other in (*others, other_size):
        with pytest.raises(UserError, match="same frozen backbones"):
            fit_saliency(other, data, split, SETTINGS, progress=False, maps=maps)
