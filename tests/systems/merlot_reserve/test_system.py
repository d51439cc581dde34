"""MERLOT Reserve as a system: what is read, what is left out, the folder, ablations, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.systems.merlot_reserve.pretrain import AUDIOSPAN, MASK
from weft.systems.merlot_reserve.system import LeftOutSpan, MerlotReserve
from weft.training.system_task import fit_system, make_system

SMALL = {"width": 16, "head": 8, "layers": (1, 1, 1, 1)}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("made-scripts", rows=30)


def with_column(data: Dataset, name: str, value: object) -> Dataset:
    """The first row has another value."""
    column = data.modalities[name]
    return replace(data, modalities={**data.modalities, name: replace(column, values=[value, *column.values[1:]])})


def test_a_run_and_its_folder(data, tmp_path):
    split = make_splits(data)
    net = make_system("merlot-reserve", data, split.train, **SMALL)
    history = fit_system(net, data, split, {"epochs": 2, "batch_size": 8}, tmp_path, progress=False)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    one, two = (np.stack(list(m.predictions(data, split.test))) for m in (net, load_model(tmp_path)))
    np.testing.assert_array_equal(one, two)
    x, y = np.split(one[:, : -net.words], 2, axis=1)
    np.testing.assert_allclose([np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)], 1, atol=1e-5)
    alone = np.stack([next(net.predictions(data, np.array([row]))) for row in split.test])
    np.testing.assert_allclose(alone, one, atol=1e-5, err_msg="a row's prediction does not depend on the others")


def test_the_judge_by_hand():
    """The second row's x is nearest to the third's y; the first and the last have the same words."""
    y, words = np.eye(4)[[0, 1, 2, 0]], np.array([[7, 0], [8, 0], [7, 8], [7, 0]])
    x = np.eye(4)[[0, 2, 2, 0]]
    judge, outputs = LeftOutSpan(words=2), np.concatenate([x, y, words], axis=1)
    assert judge.scores(outputs, None).tolist() == [1, 0, 1, 1]
    assert judge.metrics(outputs, None) == {"accuracy": 0.75, "chance": 6 / 16}


def test_a_collapsed_encoder_gains_nothing():
    """Where all words have one vector, accuracy is chance."""
    words = np.array([[1], [2], [3], [1]])
    outputs = np.concatenate([np.ones((4, 2)), words], axis=1)
    found = LeftOutSpan(words=1).metrics(outputs, None)
    assert found["accuracy"] == found["chance"] == 6 / 16


def test_what_ablations_leave_out(data):
    rows = np.arange(4)
    plain = make_system("merlot-reserve", data, rows, **SMALL)
    batch = plain.batch(data, rows, np.random.default_rng(0))
    assert batch.images.abs().sum()
    assert batch.audio.abs().sum()
    assert not batch.source.any()
    blind, deaf, alone = (
        make_system("merlot-reserve", data, rows, **SMALL, **MerlotReserve.variants[name]).batch(data, rows)
        for name in ("no frames", "no sound", "no script")
    )
    assert not blind.images.any()
    assert not deaf.audio.any()
    assert alone.source.tolist() == [[0, 1, 2, 3]] * 4
    assert (batch.audio2text.ids == AUDIOSPAN).any()
    assert (batch.text2audio.ids == MASK).sum(dim=(1, 2)).tolist() == [3] * 4


def test_the_spectrogram_sees_the_tone(data):
    """A high tone has its energy in higher filters than a low one; a span has its frames, and the speed beside them."""
    net = MerlotReserve(**SMALL, vocabulary=["x"])
    time = np.arange(4 * net.rate) / net.rate
    low, high = (net._mels(np.sin(2 * np.pi * tone * time).astype(np.float32)) for tone in (300, 1200))
    assert low.shape == (4 * 3 * net.frames, net.mels + 1)
    assert low[:, :-1].sum(dim=0).argmax() < high[:, :-1].sum(dim=0).argmax()
    assert (low[:, -1] == 1).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("video", np.zeros((2, 16, 16, 3), np.uint8), "a frame for every segment"),
        ("subtitles", "00:00:50.000 --> 00:00:51.000\nlate", "inside its video"),
        ("audio", (np.zeros(0, np.float32), 4000), "finite samples"),
    ],
)
def test_bad_rows_are_named(data, name, value, message):
    net = make_system("merlot-reserve", data, np.arange(1, 20), **SMALL)
    with pytest.raises(UserError, match=message):
        net.batch(with_column(data, name, value), np.arange(3))


def test_silence_and_bad_options(data):
    net = make_system("merlot-reserve", data, np.arange(10), **SMALL)
    quiet = with_column(data, "audio", (np.zeros(16000, np.float32), 4000))
    assert np.isfinite(np.stack(list(net.predictions(quiet, np.arange(2))))).all()
    with pytest.raises(UserError, match="holds its spans"):
        make_system("merlot-reserve", data, np.arange(10), frames=60)
    empty = replace(
        data,
        modalities={**data.modalities, "subtitles": Modality("text", ["00:00:00.000 --> 00:00:01.000\n."] * len(data))},
    )
    with pytest.raises(UserError, match="have words"):
        make_system("merlot-reserve", empty, np.arange(10))
