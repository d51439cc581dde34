"""Text-to-image training: exact resume, model folders, captions, mismatched pairs, images too small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weft.data import Dataset, Modality, load_dataset
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.store import MemoryFeatures, Store, encode
from weft.training.generation import (
    GenerationConfig,
    GenerationModel,
    build_generation,
    fit_generation,
)
from weft.training.image_pairs import ImagePairs, modality_of, pixels_of
from weft.training.log import RunLog

SIZE, ROWS = 16, np.arange(12)
SETTINGS = {"epochs": 3, "batch_size": 5, "average": 0.5, "checkpoint_seconds": 0.0}
SMALL: dict[str, Any] = {"size": SIZE, "base": 2, "noise": 4, "align_width": 8, "heads": 2}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("shapes", rows=16, size=SIZE, complete=True)


@pytest.fixture(scope="module")
def features(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Store:
    texts = replace(data, modalities={"caption": data.modalities["caption"]})
    folder = tmp_path_factory.mktemp("store")
    return encode(texts, {"caption": create_encoder("hashed-text", "text")}, folder, progress=False)


def fitted(data: Dataset, features: Store, folder: Path | None = None, **more: Any) -> GenerationModel:
    model = build_generation(features, **SMALL)
    fit_generation(model, data, features, ROWS, {**SETTINGS, **more}, folder, progress=False)
    return model


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("augment", [False, True])
def test_a_killed_run_goes_on_with_the_same_numbers(
    data: Dataset, features: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, augment: bool
) -> None:
    whole = fitted(data, features, augment=augment).state_dict()
    step = RunLog.step

    def dying(log: RunLog, done: int) -> None:
        step(log, done)
        if done == at:
            raise Killed

    monkeypatch.setattr(RunLog, "step", dying)
    with pytest.raises(Killed):
        fitted(data, features, tmp_path, augment=augment)
    monkeypatch.setattr(RunLog, "step", step)
    resumed = fitted(data, features, tmp_path, augment=augment)
    different = [name for name, value in resumed.state_dict().items() if not torch.equal(value, whole[name])]
    assert not different
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
    with pytest.raises(UserError, match=r"(?s)another run.*settings"):
        fitted(data, features, tmp_path, augment=augment, lr=1e-3)


def test_folder_and_new_captions(data: Dataset, features: Store, tmp_path: Path) -> None:
    model = fitted(data, features, tmp_path)
    loaded = GenerationModel.from_pretrained(tmp_path)
    images = loaded.draw(features, np.arange(12, 16), seed=3)
    assert images.shape == (4, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, model.draw(features, np.arange(12, 16), seed=3))
    assert not np.array_equal(images, model.draw(features, np.arange(12, 16), seed=4))
    captions = list(data.modalities["caption"].values[12:])
    assert np.array_equal(images, loaded.draw(loaded.read(captions), np.arange(4), seed=3))


def test_the_average_follows_the_generator(data: Dataset, features: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step in float64; the decay is min(average, (1 + k) / (10 + k)), which forgets the first weights."""
    model, seen = build_generation(features, **SMALL), []
    follow = GenerationModel.follow

    def watching(self: GenerationModel, decay: float) -> None:
        seen.append((decay, [p.detach().clone().double() for p in self.generator.parameters()]))
        follow(self, decay)

    expected = [p.detach().clone().double() for p in model.generator.parameters()]
    monkeypatch.setattr(GenerationModel, "follow", watching)
    fit_generation(model, data, features, ROWS, {**SETTINGS, "average": 0.3}, progress=False)
    assert [decay for decay, _ in seen] == [0.1, 2 / 11, 0.25, 0.3, 0.3, 0.3]
    for decay, weights in seen:
        expected = [decay * mean + (1 - decay) * new for mean, new in zip(expected, weights, strict=True)]
    for mean, known in zip(model.average.parameters(), expected, strict=True):
        assert torch.allclose(mean.double(), known, atol=1e-6)
    last = fitted(data, features, average=0.0)
    pairs = zip(last.average.parameters(), last.generator.parameters(), strict=True)
    assert all(torch.equal(mean, new) for mean, new in pairs)


def test_first_weights_and_data_order_depend_on_their_seeds(data: Dataset, features: Store) -> None:
    one, same, other = (fitted(data, features, seed=seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_image_once_an_epoch_with_one_of_its_captions() -> None:
    images = [np.full((SIZE, SIZE, 3), value, np.uint8) for value in (10, 20, 30)]
    rows = [0, 0, 1, 1, 1, 2]
    data = Dataset(
        "pairs",
        [f"r{i}" for i in range(6)],
        {"image": Modality("image", [images[i] for i in rows]), "text": Modality("text", list("abcdef"))},
        {},
        None,
        np.array([f"g{i}" for i in rows]),
        "retrieval",
    )
    pairs, rng = ImagePairs(data, np.array([5, 0, 1, 2, 4]), SIZE, False), np.random.default_rng(0)
    assert len(pairs) == 3
    drawn = np.stack([pairs.captions(np.array([0, 1, 2]), rng) for _ in range(50)])
    assert [set(column.tolist()) for column in drawn.T] == [{0, 1}, {2, 4}, {5}]
    shown = pairs.images(np.array([0, 1, 2]), rng)
    assert shown.shape == (3, 3, SIZE, SIZE)
    assert torch.allclose(shown[:, 0, 0, 0], torch.tensor([10.0, 20.0, 30.0]) / 127.5 - 1)


def test_augmentation_moves_and_mirrors() -> None:
    column = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[None, :, None] * 8, (SIZE, SIZE, 3))
    data = Dataset("one", ["a"], {"image": Modality("image", [np.array(column)])}, {}, None, None, "retrieval")
    pairs, rng = ImagePairs(data, np.array([0]), SIZE, True), np.random.default_rng(0)
    seen = [pairs.images(np.array([0]), rng)[0, 0, 0] for _ in range(40)]
    rising = [bool(line[-1] > line[0]) for line in seen]
    assert 5 < sum(rising) < 35
    assert len({tuple(line.tolist()) for line in seen}) > 3


def changed(data: Dataset, **columns: list[Any]) -> Dataset:
    new = {n: Modality(m.kind, columns.get(n, m.values)) for n, m in data.modalities.items()}
    return replace(data, modalities=new)


def without(values: Any, row: int) -> list[Any]:
    return [None if i == row else value for i, value in enumerate(values)]


def texts(data: Dataset, lengths: list[int]) -> MemoryFeatures:
    values = [None if n == 0 else np.random.default_rng(n).normal(size=(n, 6)).astype(np.float32) for n in lengths]
    return MemoryFeatures(data.ids, {"caption": values, "sensor": np.ones((16, 1), np.float32)}, {})


def fit_lengths(data: Dataset, lengths: list[int]) -> None:
    features = texts(data, lengths)
    model = GenerationModel("caption", 6, longest=9, **SMALL)
    fit_generation(model, data, features, ROWS, SETTINGS, progress=False)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda data, _: fit_lengths(data, [4, 5, 10] + [4] * 13), "at most 9 tokens.*shape02: 10"),
        (lambda data, _: fit_lengths(data, [4, 0, 4] + [4] * 13), "no text 'caption' in 1 rows: 'shape01"),
        (
            lambda data, f: fitted(changed(data, image=without(data.modalities["image"].values, 3)), f),
            "no image in 1 rows: 'shape03",
        ),
        (lambda data, f: fitted(data.take(range(14)), f), "16 rows of features, 14 of images"),
        (lambda data, f: fitted(changed(data, image=[np.zeros((20, 9), np.uint8)] * 16), f), "shape00.*9 x 20"),
        (lambda data, f: fitted(data, f, batch_size=13), "12 images, batch_size=13"),
        (lambda data, f: fitted(data, f, lr=1e30), "not finite"),
        (lambda data, f: fitted(data, f, learning_rate=1), "learning_rate"),
        (lambda data, f: modality_of(data, "audio"), "'audio'"),
        (lambda data, f: build_generation(texts(data, [4] * 16)), "caption, sensor"),
        (lambda data, f: build_generation(f, size=40), "size=40"),
        (lambda data, f: build_generation(f, **{**SMALL, "size": 4}), "size=4"),
        (lambda data, f: build_generation(f, **SMALL).read(["a"]) and build_generation(f, **SMALL).read([" "]), "text"),
    ],
)
def test_wrong_input_is_named(
    data: Dataset, features: Store, call: Callable[[Dataset, Store], Any], found: str
) -> None:
    with pytest.raises(UserError, match=f"(?s){found}"):
        call(data, features)


def test_images_are_cut_to_a_square_before_they_are_resized() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 200
    assert (pixels_of(wide, "r", SIZE, SIZE) == 200).all()


def test_settings_are_the_published_recipe() -> None:
    config = GenerationConfig()
    assert (config.lr, config.ratio, config.beta1, config.beta2, config.batch_size) == (2e-4, 4.0, 0.5, 0.99, 24)
