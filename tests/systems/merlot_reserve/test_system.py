"""MERLOT Reserve as a system: what is read, what is left out, the folder, ablations, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from weft.cli.source import settings
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.recipes.recipe import load_recipe
from weft.systems.merlot_reserve.optimizer import OfficialAdam, OfficialOptimizer
from weft.systems.merlot_reserve.pretrain import AUDIOSPAN, MASK
from weft.systems.merlot_reserve.system import LeftOutSpan, MerlotReserve
from weft.training.config import TrainConfig
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


def test_a_batch_is_learned_by_heart(data):
    """Six videos: every word that is asked for is found, of all words of the batch."""
    rows = np.arange(6)
    torch.manual_seed(0)
    net = make_system("merlot-reserve", data, rows).train()
    batch, moves = net.batch(data, rows, np.random.default_rng(0)), torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(60):
        moves.zero_grad()
        net.loss(batch).backward()
        moves.step()
    with torch.no_grad():
        x, y, _ = net.network(batch)[0]["stuff_to_span"]
        spans = batch.text_spans.flatten(0, 1).unique(dim=0)
        said = F.normalize(net.network.spoken(spans), dim=1)
    words, nearest = (spans[(F.normalize(part, dim=1) @ said.T).argmax(dim=1)] for part in (y, x))
    asked = words.any(dim=1)
    assert asked.sum() > 30
    assert (nearest == words).all(dim=1)[asked].float().mean() > 0.95


@pytest.mark.parametrize("find", ["words", "sound", "frame"])
def test_what_is_found(data, find):
    """What is asked for is beside what is said; neither depends on the rows beside it, and sound is not given away."""
    net = make_system("merlot-reserve", data, np.arange(10), find=find, **SMALL)
    found = np.stack(list(net.predictions(data, np.arange(6))))
    assert found.shape == (6, 2 * 16 + net.words)
    each = np.concatenate([list(net.predictions(data, np.array([row]))) for row in range(6)])
    np.testing.assert_allclose(each, found, atol=1e-5)
    if find == "frame":
        blind = with_column(data, "video", np.zeros((4, 16, 16, 3), np.uint8))
        other = np.stack(list(net.predictions(blind, np.arange(1))))
        np.testing.assert_allclose(other[:, :16], found[:1, :16], atol=1e-6, err_msg="frames are not given")
        assert not np.allclose(other[:, 16:32], found[:1, 16:32])
    if find == "sound":
        deaf = with_column(data, "audio", (np.zeros(16000, np.float32), 4000))
        other = np.stack(list(net.predictions(deaf, np.arange(1))))
        np.testing.assert_allclose(other[:, :16], found[:1, :16], atol=1e-6, err_msg="sound is not given")


@pytest.mark.parametrize("half", [True, False])
def test_the_published_optimiser_by_hand(half):
    torch.manual_seed(0)
    matrix, vector = torch.nn.Parameter(torch.randn(2, 3)), torch.nn.Parameter(torch.randn(3))
    build = OfficialOptimizer([matrix, vector], layers=[(0.5, [vector])]).build(TrainConfig(lr=0.1, weight_decay=0.2))
    groups = build.param_groups
    moves = OfficialAdam([{k: g[k] for k in ("params", "weight_decay")} for g in groups], 0.1, half=half)
    wanted = {id(p): p.detach().double().clone() for p in (matrix, vector)}
    kept = {
        id(p): [torch.zeros_like(w), torch.zeros_like(w)]
        for p, w in zip((matrix, vector), wanted.values(), strict=True)
    }
    for step in range(5):
        for p, decay in ((matrix, 0.2), (vector, 0.0)):
            p.grad = torch.randn_like(p)
            p.grad.view(-1)[0] = torch.nan if step == 2 else 1.0
            g, (m, v), w = p.grad.double().nan_to_num(0.0), kept[id(p)], wanted[id(p)]
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.98).add_(0.02 * g**2)
            w -= 0.1 * (m / (v.sqrt() + 1e-6) + decay * w)
        moves.step()
    assert {tuple(g["params"][0].shape): g["factor"] for g in groups if g["params"]} == {(2, 3): 1.0, (3,): 0.5}
    for p in (matrix, vector):
        torch.testing.assert_close(p.double(), wanted[id(p)], atol=0.05 if half else 1e-5, rtol=0)
        assert moves.state[p]["m"].dtype == (torch.bfloat16 if half else torch.float32)


def test_the_published_optimiser_trains(data, tmp_path):
    split = make_splits(data)
    net = make_system("merlot-reserve", data, split.train, adam="official", **SMALL)
    history = fit_system(net, data, split, {"epochs": 2, "batch_size": 8, "lr": 1e-3}, tmp_path, progress=False)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]


def test_the_spectrogram_is_that_of_transformers():
    from transformers.audio_utils import spectrogram, window_function

    net, rng = MerlotReserve(**SMALL, vocabulary=["x"]), np.random.default_rng(0)
    samples = rng.normal(size=4 * net.rate).astype(np.float32)
    window = window_function(net.fft, "hann")
    mel = spectrogram(samples[: net.rate], window, net.fft, net.hop, power=2.0, mel_filters=net._filters).T
    gap = (len(mel) - 3 * net.frames) // 4
    wanted = np.log(mel[gap : gap + net.frames] + 0.1) - np.log(0.1)
    np.testing.assert_allclose(net._mels(samples)[: net.frames, :-1], wanted, atol=1e-5)


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
        ("audio", (np.zeros(0, np.float32), 4000), "no samples"),
        ("video", np.full((4, 16, 16, 3), np.nan), "uint8"),
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


def test_a_video_without_sound_and_a_damaged_one(data, tmp_path):
    split = make_splits(data)
    row = data.ids[split.train[0]]
    values = [None if i == split.train[0] else v for i, v in enumerate(data.modalities["audio"].values)]
    mute = replace(data, modalities={**data.modalities, "audio": Modality("audio", values)})
    net = make_system("merlot-reserve", mute, split.train, **SMALL)
    with pytest.raises(UserError, match=f"reads 'audio' of every row[\\s\\S]*{row}[\\s\\S]*leave these rows out"):
        fit_system(net, mute, split, {"epochs": 1}, progress=False)
    pictures = [Image.fromarray(frame) for frame in data.modalities["video"].values[0]]
    pictures[0].save(tmp_path / "whole.gif", save_all=True, append_images=pictures[1:])
    whole = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    net.batch(with_column(data, "video", tmp_path / "whole.gif"), np.arange(2))
    with pytest.raises(UserError, match=r"video of row 'script 00'[\s\S]*cut\.gif"):
        net.batch(with_column(data, "video", tmp_path / "cut.gif"), np.arange(2))


@pytest.mark.parametrize(("given", "million"), [({}, 316.4), ({"WIDTH": 1024, "LAYERS": "[24, 12, 4, 24]"}, 853.1)])
def test_the_recipe_at_published_size(given, million):
    """All weights, counted from the sizes that the paper gives, and the shapes of a batch; nothing is computed."""
    command = load_recipe("merlot-reserve/pretrain").commands({"DATA": "x", **given})[0]
    options = settings([command[i + 1] for i, part in enumerate(command) if part == "--option"], "--option")
    with torch.device("meta"):
        net = MerlotReserve(**options, vocabulary=[str(i) for i in range(32768 - 10)]).network
    h, layers = options["width"], options["layers"]
    block = 3 * h * h + 3 * h + h * h + 4 * h * h + 4 * h + 4 * h * h + 4 * h  # qkv, projection, perceptron, two norms
    bodies = sum(layers) * block + 4 * 4 * h  # and the norms of input and output of four transformers
    summaries = 3 * (h + h * h + h)
    into = (768 + 1) * h + (2 * 65 + 1) * h + 2 * 4 * (h * h + h)
    assert sum(p.numel() for p in net.parameters()) == bodies + summaries + into + 32768 * h + h * h + h + 3
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == million
    seen, patches, frames = net.vision_encoder(torch.zeros(2, 240, 768, device="meta"))
    assert (seen.shape, patches.shape, frames.shape) == ((2, h), (2, 240, h), (2, 60, h))
    heard, _, sound = net.audio_encoder(torch.zeros(2, 60, 65, device="meta"))
    assert (heard.shape, sound.shape) == ((2, h), (2, 6, h))


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_left_out_span_sees_the_frame_of_its_own_segment(data, row):
    """Where segments do not hear each other, what is said of a span changes with that frame and with no other."""
    net = make_system("merlot-reserve", data, np.arange(20), script=False, **SMALL)
    asked = net._chosen(net.without_sequences(data, np.array([row]))[1][0], row) // 3

    def said(video: np.ndarray) -> np.ndarray:
        values = list(data.modalities["video"].values)
        values[row] = video
        other = replace(data, modalities={**data.modalities, "video": Modality("video", values)})
        fresh = make_system("merlot-reserve", data, np.arange(20), script=False, **SMALL)
        fresh.load_state_dict(net.state_dict())
        return np.stack(list(fresh.predictions(other, np.array([row]))))

    video = data.modalities["video"].values[row]
    changed = [np.where((np.arange(4) == at)[:, None, None, None], 255 - video, video) for at in range(4)]
    apart = [np.abs(said(one) - said(video)).max() > 1e-5 for one in changed]
    assert apart == [at == asked for at in range(4)]
