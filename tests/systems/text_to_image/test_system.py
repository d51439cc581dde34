"""Text to image: phases of a step, exact resume, model folders, captions, images too small."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from weft.data import Dataset, Modality, Split, load_dataset
from weft.errors import UserError
from weft.models.pretrained import load_model
from weft.systems.text_to_image.loss import discriminator_loss, generator_loss, gradient_penalty
from weft.systems.text_to_image.pairs import ImagePairs, pixels_of
from weft.training.log import RunLog
from weft.training.phase import Average
from weft.training.system_task import fit_system, make_system

SIZE, SPLIT = 16, Split(np.arange(12), np.array([12, 13]), np.array([14, 15]))
SETTINGS = {"epochs": 3, "batch_size": 5, "checkpoint_seconds": 0.0, "log_every": 1}
SMALL: dict[str, Any] = {"size": SIZE, "base": 2, "noise": 4, "align_width": 8, "heads": 2, "average": 0.5}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("shapes", rows=16, size=SIZE, complete=True)


def model(data: Dataset, seed: int = 0, **options: Any) -> Any:
    return make_system("text-to-image", data, SPLIT.train, seed=seed, **{**SMALL, **options})


def fitted(data: Dataset, folder: Path | None = None, *, seed: int = 0, lr: float = 2e-4, **options: Any) -> Any:
    net = model(data, seed, **options)
    fit_system(net, data, SPLIT, {**SETTINGS, "seed": seed, "lr": lr}, folder, progress=False)
    return net


class Killed(Exception):
    pass


@pytest.mark.parametrize(("at", "augment"), [(1, False), (3, True), (5, False)])
def test_a_killed_run_goes_on_with_the_same_numbers(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, augment: bool
) -> None:
    whole = fitted(data, augment=augment).state_dict()
    step = RunLog.step

    def dying(log: RunLog, done: int) -> None:
        step(log, done)
        if done == at:
            raise Killed

    monkeypatch.setattr(RunLog, "step", dying)
    with pytest.raises(Killed):
        fitted(data, tmp_path, augment=augment)
    monkeypatch.setattr(RunLog, "step", step)
    resumed = fitted(data, tmp_path, augment=augment)
    different = [name for name, value in resumed.state_dict().items() if not torch.equal(value, whole[name])]
    assert not different
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(log) == 3
    assert all(f'"{name}"' in log[0] for name in ("discriminator", "penalty", "generator"))
    with pytest.raises(UserError, match=r"(?s)another run.*settings"):
        fitted(data, tmp_path, augment=augment, lr=1e-3)


@pytest.mark.parametrize("weight", [None, 0.3])
def test_the_phases_of_a_step(data: Dataset, weight: float | None) -> None:
    """One step by the loop equals Adam by hand: hinge, then penalty, or both at once; the generator against the new."""
    net = model(data, penalty=weight, gate=1.0)
    made, judge = copy.deepcopy(net.generator), copy.deepcopy(net.discriminator)
    fit_system(net, data, SPLIT, {**SETTINGS, "epochs": 1, "batch_size": 12}, progress=False)
    other = model(data, penalty=weight, gate=1.0)
    rows = other.order(data, SPLIT.train, 12, np.random.default_rng([0, 0]))
    batch = other.batch(data, rows, np.random.default_rng([0, 0, 0]))
    moves = {
        judge: torch.optim.Adam(judge.parameters(), lr=8e-4, betas=(0.5, 0.99)),
        made: torch.optim.Adam(made.parameters(), lr=2e-4, betas=(0.5, 0.99)),
    }
    fake, sentence = made(batch.noise, batch.caption), batch.caption.sentence

    def hinge() -> torch.Tensor:
        return discriminator_loss(judge, batch.images, fake, sentence)

    def slope() -> torch.Tensor:
        return gradient_penalty(judge, batch.images, sentence)

    steps: list[tuple[Any, Callable[[], torch.Tensor]]] = [(judge, hinge), (judge, slope)]
    steps = steps if weight is None else [(judge, lambda: hinge() + weight * slope())]
    for network, loss in [*steps, (made, lambda: generator_loss(judge, fake, sentence))]:
        moves[network].zero_grad()
        loss().backward(inputs=list(network.parameters()))
        moves[network].step()
    for ours, theirs in ((net.generator, made), (net.discriminator, judge)):
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(one, two, atol=2e-5, rtol=1e-4, check_stride=False)


def test_folder_and_new_captions(data: Dataset, tmp_path: Path) -> None:
    net = fitted(data, tmp_path)
    loaded = load_model(tmp_path)
    rows = np.arange(12, 16)
    images = np.stack(list(loaded.predictions(data, rows, seed=3)))
    assert images.shape == (4, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, np.stack(list(net.predictions(data, rows, seed=3))))
    assert not np.array_equal(images, np.stack(list(net.predictions(data, rows, seed=4))))
    captions = [data.modalities["caption"].values[row] for row in rows]
    new = Dataset("new", list("abcd"), {"said": Modality("text", captions)}, {}, None, None, "text-to-image")
    assert np.array_equal(images, np.stack(list(loaded.predictions(new, np.arange(4), seed=3))))


def test_the_average_follows_the_generator(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step in float64; the decay is min(average, (1 + k) / (10 + k)), which forgets the first weights."""
    net, seen = model(data, average=0.3), []
    follow = Average.follow

    def watching(self: Average, step: int) -> None:
        seen.append((step, [p.detach().clone().double() for p in net.generator.parameters()]))
        follow(self, step)

    expected = [p.detach().clone().double() for p in net.generator.parameters()]
    monkeypatch.setattr(Average, "follow", watching)
    fit_system(net, data, SPLIT, SETTINGS, progress=False)
    assert [step for step, _ in seen] == list(range(6))
    for step, weights in seen:
        decay = (0.1, 2 / 11, 0.25, 0.3, 0.3, 0.3)[step]
        expected = [decay * mean + (1 - decay) * new for mean, new in zip(expected, weights, strict=True)]
    for mean, known in zip(net.average.parameters(), expected, strict=True):
        assert torch.allclose(mean.double(), known, atol=1e-6)
    monkeypatch.setattr(Average, "follow", follow)
    last = fitted(data, average=0.0)
    pairs = zip(last.average.parameters(), last.generator.parameters(), strict=True)
    assert all(torch.equal(mean, new) for mean, new in pairs)


def test_first_weights_and_data_order_depend_on_their_seeds(data: Dataset) -> None:
    one, same, other = (fitted(data, seed=seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, same, other)]
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
    rng = np.random.default_rng(0)
    pairs = ImagePairs(data, np.array([5, 0, 1, 2, 4]), "image", SIZE, False)
    assert len(pairs) == 3
    assert pairs.places(pairs.first[[2, 0]]).tolist() == [2, 0]
    drawn = np.stack([pairs.captions(np.array([0, 1, 2]), rng) for _ in range(50)])
    assert [set(column.tolist()) for column in drawn.T] == [{0, 1}, {2, 4}, {5}]
    shown = pairs.images(np.array([0, 1, 2]), rng)
    assert shown.shape == (3, 3, SIZE, SIZE)
    assert torch.allclose(shown[:, 0, 0, 0], torch.tensor([10.0, 20.0, 30.0]) / 127.5 - 1)


def test_augmentation_moves_and_mirrors() -> None:
    column = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[None, :, None] * 8, (SIZE, SIZE, 3))
    data = Dataset("one", ["a"], {"image": Modality("image", [np.array(column)])}, {}, None, None, "retrieval")
    pairs, rng = ImagePairs(data, np.array([0]), "image", SIZE, True), np.random.default_rng(0)
    seen = [pairs.images(np.array([0]), rng)[0, 0, 0] for _ in range(40)]
    rising = [bool(line[-1] > line[0]) for line in seen]
    assert 5 < sum(rising) < 35
    assert len({tuple(line.tolist()) for line in seen}) > 3


def changed(data: Dataset, **columns: list[Any]) -> Dataset:
    new = {n: Modality(m.kind, columns.get(n, m.values)) for n, m in data.modalities.items()}
    return replace(data, modalities=new)


def without(values: Any, row: int) -> list[Any]:
    return [None if i == row else value for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda data: fitted(data, longest=3), "at most 3 tokens.*shape00"),
        (lambda data: fitted(changed(data, caption=without(data.modalities["caption"].values, 1))), "'shape01'"),
        (lambda data: fitted(changed(data, image=without(data.modalities["image"].values, 3))), "'shape03'"),
        (lambda data: fitted(changed(data, image=[np.zeros((20, 9), np.uint8)] * 16)), "shape00.*9 x 20"),
        (
            lambda data: fit_system(model(data), data, SPLIT, {"batch_size": 13}, progress=False),
            "12 images, batch_size",
        ),
        (lambda data: fitted(data, lr=1e30), "not finite"),
        (lambda data: fitted(data, sise=3), "did you mean 'size'"),
        (lambda data: model(load_dataset("shapes", rows=16), size=40), "size=40"),
        (lambda data: model(load_dataset("xor"), size=16), "kind 'text'"),
        (lambda data: model(data).evaluate(data, SPLIT.test), "which rows this model was trained on"),
        (lambda data: fitted(data).make_judge().scores([np.zeros((4, 4, 3))], None), "attributes"),
    ],
)
def test_wrong_input_is_named(data: Dataset, call: Callable[[Dataset], Any], found: str) -> None:
    with pytest.raises(UserError, match=f"(?s){found}"):
        call(data)


def test_images_are_cut_to_a_square_before_they_are_resized() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 200
    assert (pixels_of(wide, "r", SIZE, SIZE) == 200).all()


def test_settings_are_the_published_recipe(data: Dataset) -> None:
    net = model(data, average=0.999)
    discriminator, penalty, generator = net.phases()
    assert discriminator.optimizer is penalty.optimizer
    assert (discriminator.optimizer.rate, discriminator.optimizer.betas) == (4.0, (0.5, 0.99))
    assert (generator.optimizer.rate, generator.optimizer.weight_decay) == (1.0, 0.0)
    assert (net.trained_with["lr"], net.trained_with["batch_size"]) == (2e-4, 24)
