"""Classes, answers and zero-shot: what they read, that they learn, their folders, and bad input."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.systems.merlot_reserve.optimizer import AnchoredOptimizer
from weft.systems.merlot_reserve.world import TONES
from weft.training.config import TrainConfig
from weft.training.system_task import fit_system, make_system

SMALL = {"width": 16, "head": 8}


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> tuple[Dataset, str]:
    """Scripts whose class is the first tone, with a question whose right answer is that, and a pre-trained network."""
    folder = tmp_path_factory.mktemp("reserve")
    data = load_dataset("made-scripts", rows=40)
    tones = [re.search("|".join(TONES), text).group() for text in data.modalities["subtitles"].values]
    rng, names = np.random.default_rng(0), np.array(list(TONES))
    orders = [rng.permutation(3) for _ in tones]
    choices = [tuple(names[order]) for order in orders]
    right = np.array([row.index(tone) for row, tone in zip(choices, tones, strict=True)])
    columns = {
        **data.modalities, "question": Modality("text", ["which sounds first"] * len(tones)),
        "choices": Modality("texts", choices),
    }  # fmt: skip
    data = replace(data, modalities=columns, targets={"label": np.array(tones), "right": right}, task="classification")
    split = make_splits(data)
    net = make_system("merlot-reserve", data, split.train, **SMALL)
    fit_system(net, data, split, {"epochs": 1, "batch_size": 8}, folder, progress=False)
    return data, str(folder)


def choosing(data: Dataset) -> Dataset:
    return replace(data, targets={"label": data.targets["right"]})


def test_classes(asked, tmp_path):
    """Logits of the names are a hundred times cosines; a folder says the same; training moves the loss."""
    data, folder = asked
    split = make_splits(data)
    zero = make_system("merlot-reserve-classes", data, split.train, start=folder, head="words")
    found = np.stack(list(zero.predictions(data, split.test)))
    videos, sequences = zero.inputs(data, split.test)
    with torch.no_grad():
        x = F.normalize(zero.states(videos, sequences), dim=1)
        for k, name in enumerate(zero.answers.config()["classes"]):
            ids = torch.tensor([zero.base.ids[name]])
            y = F.normalize(
                zero.base.network.span_encoder(zero.base.network.token_encoder(ids[None]), ids[None] > 0), dim=1
            )
            np.testing.assert_allclose(found[:, k], 100 * (x * y).sum(dim=1), atol=1e-3)
    net = make_system("merlot-reserve-classes", data, split.train, start=folder)
    settings = {"epochs": 6, "batch_size": 8, "lr": 3e-3}
    history = fit_system(net, data, split, settings, tmp_path, progress=False)
    assert history.epochs[-1]["loss"] < 0.9 * history.epochs[0]["loss"]
    one, two = (np.stack(list(m.predictions(data, split.test))) for m in (net, load_model(tmp_path)))
    np.testing.assert_array_equal(one, two)
    alone = np.concatenate([list(net.predictions(data, split.test[[k]])) for k in range(3)])
    np.testing.assert_allclose(alone, one[:3], atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "words"])
def test_choices(asked, head):
    """Each answer has its own logit wherever it stands; one that is not there is never right; both passes count."""
    data, folder = asked
    data = choosing(data)
    split = make_splits(data)
    net = make_system("merlot-reserve-choices", data, split.train, start=folder, head=head)
    rows = split.test[:4]
    found = np.stack(list(net.predictions(data, rows)))
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)
    values = data.modalities["choices"].values
    turned = [(*row[1:], row[0]) for row in values]
    other = replace(data, modalities={**data.modalities, "choices": Modality("texts", turned)})
    np.testing.assert_allclose(np.stack(list(net.predictions(other, rows))), np.roll(found, -1, axis=1), atol=1e-4)
    fewer = [(*row[:2], None) for row in values]
    other = replace(data, modalities={**data.modalities, "choices": Modality("texts", fewer)})
    assert (np.exp(np.stack(list(net.predictions(other, rows))))[:, 2] == 0).all()
    inputs = net.inputs(data, rows)
    with torch.no_grad():
        words, sound = net.both(*inputs)
        np.testing.assert_allclose(np.exp(found), (words.softmax(1) + sound.softmax(1)) / 2, atol=1e-5)
        target = net.answers.encode(data.targets["label"][rows])
        loss = F.cross_entropy(words, target, reduction="none") + F.cross_entropy(sound, target, reduction="none")
        torch.testing.assert_close(net.loss((inputs, target)), loss)
    net.loss(net.batch(data, rows)).mean().backward()
    assert net.base.network.head.weight.grad.abs().sum() > 0


def test_weights_decay_towards_the_start():
    """Without a gradient's push they come back to where they were."""
    p = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    moves = AnchoredOptimizer([p]).build(TrainConfig(lr=0.5, weight_decay=0.2))
    p.data.zero_()
    p.grad = torch.zeros_like(p)
    moves.step()
    torch.testing.assert_close(p.data, 0.1 * torch.tensor([[1.0, 2.0]]))


def test_bad_input(asked, tmp_path):
    data, folder = asked
    rows = np.arange(30)
    with pytest.raises(UserError, match="start is not given"):
        make_system("merlot-reserve-classes", data, rows)
    net = make_system("merlot-reserve-classes", data, rows, start=folder)
    net.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="start is a merlot-reserve"):
        make_system("merlot-reserve-classes", data, rows, start=str(tmp_path))
    with pytest.raises(UserError, match="number of the right answer"):
        make_system("merlot-reserve-choices", data, rows, start=folder)
