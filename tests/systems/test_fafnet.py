"""FAF-Net: matching against a loop, the metrics against loops and libraries, the reader, and the system from voices to
voices."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from weft.cli import app
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.data.files import read_audio
from weft.errors import UserError
from weft.models import load_model
from weft.models.outputs import wav_bytes
from weft.systems.fafnet import EnhancementJudge, Fafnet, metrics
from weft.systems.fafnet.layers import ComplexConv2d, magnitude
from weft.systems.fafnet.network import FafNet
from weft.systems.fafnet.spectra import Spectra, match
from weft.training.system_task import fit_system, make_system

RATE = 8000
SMALL = {
    "rate": RATE, "n_fft": 128, "hop": 64, "stages": 1, "channels": (4, 4, 4), "reductions": (2, 2, 2),
    "candidates": 2, "blocks": 1, "seconds": 0.4, "reference_seconds": 0.5,
}  # fmt: skip


def voice(seed: int, seconds: float = 0.7, rate: int = RATE) -> np.ndarray:
    """Harmonics of a pitch that the seed chooses, in syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * k * (100 + 20 * (seed % 7)) * t + rng.uniform(0, 6)) / k for k in range(1, 8))
    return (0.2 * tone * np.abs(np.sin(2 * np.pi * rng.uniform(2, 4) * t))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(samples, rate))


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """Four speakers with three utterances, and two noises."""
    root = tmp_path / "voices"
    for speaker in range(4):
        for k in range(3):
            write(root / f"s{speaker}" / f"u{k}.wav", voice(10 * speaker + k))
    rng = np.random.default_rng(0)
    for name, length in (("hiss", 3000), ("hum", 20000)):
        write(root / "noise" / f"{name}.wav", 0.2 * rng.normal(size=length))
    return root


@pytest.fixture
def mixed(voices: Path) -> Dataset:
    return load_dataset("voices", voices, rate=RATE, snr=(0, 10))


def test_the_published_sizes():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in net.parameters()) for net in Fafnet().networks]
    assert counts == [6_938_418, 7_343_658]


def test_matching_equals_a_loop_and_keeps_to_the_frames_that_are_there():
    rng = torch.Generator().manual_seed(0)
    mfcc, ref = (torch.randn(2, 5, n, generator=rng, dtype=torch.float64) for n in (6, 9))
    frames = torch.tensor([9, 4])
    found = match(mfcc, ref, 3, frames)

    def patch(x, t):
        columns = [x[:, u] if 0 <= u < x.shape[1] else torch.zeros(5) for u in (t - 1, t, t + 1)]
        flat = torch.stack(columns, dim=1).flatten()
        return flat / flat.norm()

    for b in range(2):
        for t in range(6):
            alike = [float(patch(mfcc[b], t) @ patch(ref[b], r)) for r in range(int(frames[b]))]
            assert found[b, t].tolist() == sorted(range(len(alike)), key=lambda r: -alike[r])[:3]


def test_a_quiet_clip_has_its_own_floor_of_decibels():
    spectra = Spectra(rate=RATE, n_fft=128, hop=64, mels=20)
    loud, quiet = torch.from_numpy(voice(0)), 1e-6 * torch.from_numpy(voice(1))
    both = spectra.mfcc(spectra(torch.stack([loud, quiet])))
    torch.testing.assert_close(both[1], spectra.mfcc(spectra(quiet[None]))[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_three_products_equal_one_convolution(transposed):
    torch.manual_seed(0)
    conv = ComplexConv2d(3, 2, (6, 5), (2, 1), (2, 4), (1, 2), transposed=transposed).double()
    x, found = torch.randn(2, 2, 3, 8, 7, dtype=torch.float64), []
    for conv.many in (False, True):
        found.append(conv(x))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    real, imag = conv.real, conv.imag
    torch.testing.assert_close(found[0][:, 0], real(x[:, 0]) - imag(x[:, 1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0][:, 1], real(x[:, 1]) + imag(x[:, 0]), rtol=0, atol=1e-12)


def test_silence_has_a_gradient():
    x = torch.zeros(1, 2, 3, requires_grad=True)
    magnitude(x).sum().backward()
    assert x.grad.tolist() == [[[0.0] * 3] * 2]


def test_si_sdr_equals_a_loop():
    rng = np.random.default_rng(0)
    for gain in (0.1, 3.0):
        s, e = rng.normal(size=50) + 0.4, rng.normal(size=50)
        x = gain * (s + 0.3 * e) - 7
        s0, x0 = s - sum(s) / 50, x - sum(x) / 50
        alpha = sum(a * b for a, b in zip(x0, s0, strict=True)) / sum(a * a for a in s0)
        there = sum((alpha * a) ** 2 for a in s0)
        wrong = sum((alpha * a - b) ** 2 for a, b in zip(s0, x0, strict=True))
        found = metrics.si_sdr(torch.from_numpy(x)[None], torch.from_numpy(s)[None])
        assert float(found) == pytest.approx(10 * np.log10(there / wrong), abs=1e-6)
    s = torch.randn(1, 40, dtype=torch.float64)
    assert float(metrics.si_sdr(torch.zeros(1, 40, dtype=torch.float64), s)) == pytest.approx(-100)
    assert float(metrics.si_sdr(2 * s, s)) > 100


def test_the_judge_equals_the_libraries_and_brings_rates_together():
    pystoi, library = pytest.importorskip("pystoi"), pytest.importorskip("pesq")
    rng = np.random.default_rng(0)
    clean = voice(3, 3.0, 16000)
    noisy = (clean + 0.1 * rng.normal(size=len(clean))).astype(np.float32)
    judge = EnhancementJudge()
    found = judge.metrics([(noisy, 16000)], [((clean, 16000), (noisy, 16000))])
    assert found["SI-SDR gain"] == 0
    assert found["STOI"] == pytest.approx(pystoi.stoi(clean, noisy, 16000))
    assert found["PESQ"] == pytest.approx(library.pesq(16000, clean, noisy, "wb"))
    stereo = np.repeat(np.stack([clean, clean], 1), 3, axis=0)  # 48 kHz
    assert judge.scores([(noisy, 16000)], [((stereo, 48000), None)])[0] == pytest.approx(found["SI-SDR"], abs=0.3)
    short = (clean[:2000], 16000)
    row = judge.row_scores([short, (noisy, 16000)], [(short, short), ((clean, 16000), (noisy, 16000))])
    assert np.isnan(row["STOI"]).tolist() == [True, False]
    with pytest.raises(UserError, match="row 0 is silent"):
        judge.scores([(noisy, 16000)], [((0 * clean, 16000), None)])
    with pytest.raises(UserError, match="one length"):
        judge.scores([(noisy[:9000], 16000)], [((clean, 16000), None)])


def test_without_the_extra_it_says_so(monkeypatch):
    for name in ("pystoi", "pesq"):
        monkeypatch.setitem(sys.modules, name, None)
    clean = (voice(0), RATE)
    with pytest.raises(UserError, match="STOI needs pystoi") as error:
        EnhancementJudge().metrics([clean], [(clean, clean)])
    assert "weft[speech]" in str(error.value)
    assert set(EnhancementJudge(perceptual=False).metrics([clean], [(clean, clean)])) == {"SI-SDR", "SI-SDR gain"}


def test_voices_are_mixed_at_the_ratio_that_is_named(voices: Path, mixed: Dataset):
    assert len(mixed) == 4 * 3 * 2
    assert set(mixed.group[mixed.split == "test"]) == {"test/s3"}
    for row in range(len(mixed)):
        clean, _ = read_audio(mixed.modalities["clean"].values[row])
        noise = mixed.modalities["noisy"].values[row][0] - clean
        ratio = 10 * np.log10((clean.astype(float) ** 2).mean() / (noise.astype(float) ** 2).mean())
        assert ratio == pytest.approx(float(mixed.ids[row].split("_")[-1][:-2]), abs=1e-3)
        assert ("hum" in mixed.ids[row]) == (mixed.split[row] == "test")
        refs = {mixed.modalities[name].values[row] for name in ("reference", "reference1")}
        assert refs == set(voices.glob(f"s{mixed.ids[row][1]}/*.wav")) - {mixed.modalities["clean"].values[row]}
    again = load_dataset("voices", voices, rate=RATE, snr=(0, 10))
    other = load_dataset("voices", voices, rate=RATE, snr=(0, 10), voice="other", test_speakers=("s0", "s1"))
    np.testing.assert_array_equal(mixed.modalities["noisy"].values[5][0], again.modalities["noisy"].values[5][0])
    for row in range(len(other)):
        refers = other.modalities["reference"].values[row].parent.name
        assert refers != other.ids[row][:2]
        assert (refers in ("s0", "s1")) == (other.split[row] == "test")


def test_noisy_recordings_as_voicebank_keeps_them(tmp_path: Path):
    for part in ("trainset_28spk", "testset"):
        for speaker in ("p1", "p2"):
            for k in range(2):
                for side in ("noisy", "clean"):
                    write(tmp_path / f"{side}_{part}_wav" / f"{speaker}_{k}.wav", voice(k))
    data = load_dataset("voices", tmp_path)
    assert dict(zip(data.ids, data.split, strict=True))["noisy_testset_wav/p1_0"] == "test"
    row = data.ids.index("noisy_trainset_28spk_wav/p2_1")
    assert data.modalities["reference"].values[row] == tmp_path / "clean_trainset_28spk_wav" / "p2_0.wav"
    (tmp_path / "clean_testset_wav" / "p1_0.wav").unlink()
    with pytest.raises(UserError, match="every noisy file has its clean one"):
        load_dataset("voices", tmp_path)


def test_from_voices_to_voices(voices: Path, tmp_path: Path):
    """Learns, by the command line; enhances 44.1 kHz stereo of odd length, clipped speech and silence; judges files."""
    run = CliRunner()
    options = [f"--option={key}={json.dumps(value)}" for key, value in SMALL.items()]
    fit = ["fit", str(voices), "--system", "fafnet", *options, "--option=snr=[0, 10]", f"--data=rate={RATE}"]
    done = run.invoke(app, [*fit, "--set=epochs=2", "--set=batch_size=4", "--set=lr=0.01", "-o", str(tmp_path / "m")])
    assert done.exit_code == 0, done.output
    asked = tmp_path / "asked"
    stereo = np.stack([voice(3, 1.501, 44100), 0.5 * voice(3, 1.501, 44100)], axis=1)
    from scipy.io import wavfile

    (asked / "noisy").mkdir(parents=True)
    wavfile.write(asked / "noisy" / "a_stereo.wav", 44100, stereo)
    write(asked / "noisy" / "a_clipped.wav", np.clip(20 * voice(4), -1, 1))
    write(asked / "noisy" / "a_silence.wav", np.zeros(5000))
    write(asked / "noisy" / "a_tiny.wav", voice(5)[:40])
    write(asked / "reference" / "a.wav", voice(6, 0.9))
    done = run.invoke(app, ["predict", str(tmp_path / "m"), str(asked), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    sounds = {path.stem: read_audio(path) for path in (tmp_path / "out").glob("*.wav")}
    assert {name: (len(s), rate) for name, (s, rate) in sounds.items()} == {
        "a_stereo": (-(-len(stereo) * RATE // 44100), RATE),
        "a_clipped": (len(voice(4)), RATE),
        "a_silence": (5000, RATE),
        "a_tiny": (40, RATE),
    }
    assert not sounds["a_silence"][0].any()
    assert all(sounds[name][0].any() for name in ("a_stereo", "a_clipped", "a_tiny"))
    done = run.invoke(app, ["evaluate", str(tmp_path / "m"), str(voices), f"--data=rate={RATE}", "--json",
                            "--figures", str(tmp_path / "figures")])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figures" / "spectra.png").stat().st_size > 5000
    assert {"SI-SDR", "SI-SDR gain", "STOI", "PESQ"} <= set(json.loads(done.output))


@pytest.mark.parametrize("stages", [1, 2])
def test_the_loss_falls_and_the_folder_answers_alike(mixed: Dataset, tmp_path: Path, stages: int):
    split = make_splits(mixed)
    model = make_system("fafnet", mixed, split.train, **{**SMALL, "stages": stages}, norms="separate")
    batch = model.batch(mixed, split.train[:6])
    before = model.loss(batch).mean().item()
    first = [p.detach().clone() for p in model.networks[0].parameters()]
    settings = {"epochs": 6, "batch_size": 4, "lr": 1e-2, "patience": 0}
    fit_system(model, mixed, split, settings, tmp_path / "run", progress=False)
    assert model.eval().loss(batch).mean().item() < before - 0.3
    assert any(not torch.equal(a, b) for a, b in zip(first, model.networks[0].parameters(), strict=True))
    (again,) = load_model(tmp_path / "run").predictions(mixed, split.test[:1])
    (here,) = model.predictions(mixed, split.test[:1])
    np.testing.assert_array_equal(here[0], again[0])


def test_the_second_stage_leaves_the_first_as_it_is(mixed: Dataset):
    model = Fafnet(**{**SMALL, "stages": 2}).train()
    batch = model.batch(mixed, np.arange(3), np.random.default_rng(0))
    before = {name: value.clone() for name, value in model.networks[0].state_dict().items()}
    one, two = model.phases()
    assert (one.start, one.stop, two.start, two.stop) == (0, 0.5, 0.5, 1)
    two.loss(batch).mean().backward()
    assert all(p.grad is None for p in model.networks[0].parameters())
    assert all(p.grad is not None for p in model.networks[1].parameters())
    assert all(torch.equal(before[name], value) for name, value in model.networks[0].state_dict().items())
    assert model.networks[0].training


@pytest.mark.parametrize("candidates", [0, 2])
def test_pieces_of_long_speech_meet(candidates: int):
    """Without channel attention a frame depends on near frames and on the reference, so pieces equal the whole; but for
    frames that match others, since the floor of decibels is the piece's own."""
    torch.manual_seed(0)
    options = {**SMALL, "candidates": candidates}
    whole, cut = Fafnet(**options, piece=60).eval(), Fafnet(**options, piece=1.0, overlap=0.45).eval()
    for attention in whole.networks[0].skip:
        torch.nn.init.zeros_(attention.excite.weight)
    cut.load_state_dict(whole.state_dict())
    noisy = voice(1, 3.37) + 0.01 * np.random.default_rng(0).normal(size=round(3.37 * RATE)).astype(np.float32)
    reference = voice(2, 1.2) if candidates else None
    a, b = whole.enhance(noisy, reference), cut.enhance(noisy, reference)
    assert len(a) == len(b) == len(noisy)
    apart = np.abs(a - b) / np.abs(a).max()
    assert np.mean(apart > 1e-5) < (0.05 if candidates else 1e-9)
    assert apart.max() < (0.01 if candidates else 1e-5)


def test_answers_do_not_depend_on_loudness_or_on_other_rows(mixed: Dataset):
    torch.manual_seed(0)
    model = Fafnet(**SMALL).eval()
    noisy, ref = voice(1), voice(2)
    np.testing.assert_allclose(model.enhance(0.01 * noisy, 7 * ref), 0.01 * model.enhance(noisy, ref), atol=1e-6)
    (alone,) = model.predictions(mixed, np.array([3]))
    *_, together = model.predictions(mixed, np.array([0, 3]))
    np.testing.assert_array_equal(alone[0], together[0])


def test_noises_change_places_and_nothing_else(mixed: Dataset):
    model = Fafnet(**SMALL, snr=(3.0, 3.0))
    batch = model.batch(mixed, np.arange(4), np.random.default_rng(1))
    noise = batch["noisy"] - batch["clean"]
    ratio = 10 * (batch["clean"].square().mean(1) / noise.square().mean(1)).log10()
    torch.testing.assert_close(ratio, torch.full((4,), 3.0), rtol=0, atol=1e-3)
    still = model.batch(mixed, np.arange(4))
    again = model.batch(mixed, np.arange(4))
    assert all(torch.equal(still[name], again[name]) for name in still)


def test_a_short_reference_is_repeated_but_heard_once():
    clip = (voice(0, 0.2), RATE)
    columns = {name: Modality("audio", [clip]) for name in ("noisy", "clean", "reference")}
    data = Dataset("x", ["a"], columns, {}, None, None, "speech-enhancement")
    batch = Fafnet(**SMALL).batch(data, np.array([0]))
    assert batch["reference"].shape == (1, 4000 // 64 * 64)
    assert batch["frames"].tolist() == [1600 // 64 + 1]


def test_mistakes_are_named(voices: Path, mixed: Dataset, tmp_path: Path):
    model = Fafnet(**SMALL).eval()
    with pytest.raises(UserError, match="3 frames or more"):
        model.enhance(voice(0), voice(0)[:100])
    with pytest.raises(UserError, match="0 frames, 0 samples"):
        model.enhance(voice(0))
    with pytest.raises(UserError, match="5 frames or more"):
        Fafnet(**{**SMALL, "candidates": 5}).enhance(voice(0), voice(0)[:200])
    short = {"noisy": voice(0), "clean": voice(0)[:3000], "reference": voice(1)[:50]}
    columns = {name: Modality("audio", [(samples, RATE)]) for name, samples in short.items()}
    data = Dataset("x", ["a"], columns, {}, None, None, "speech-enhancement")
    with pytest.raises(UserError, match="row 'a': 5600 and 3000 samples"):
        model.batch(data, np.array([0]))
    with pytest.raises(UserError, match="the reference of row 'a'"):
        list(model.predictions(data, np.array([0])))
    gone = {**columns, "reference": Modality("audio", [None])}
    with pytest.raises(UserError, match="reads 'reference' of every row"):
        list(model.predictions(Dataset("x", ["a"], gone, {}, None, None, "speech-enhancement"), np.array([0])))
    with pytest.raises(UserError, match="8 n \\+ 1 bins"):
        model.networks[0](torch.zeros(1, 60, 5, dtype=torch.complex64), [], None)
    with pytest.raises(UserError, match="lower hop"):
        Fafnet(**{**SMALL, "hop": 100})
    with pytest.raises(UserError, match="not the weights of a FAF-Net"):
        FafNet.from_official({"conv_2.0.conv_re.weight": torch.zeros(2, 1, 7, 5)})
    for given, words in (
        ({"test_speakers": ("s9",)}, "unknown speaker"),
        ({"test_noises": ("hom",)}, "did you mean 'hum'"),
        ({"voice": "other"}, "another utterance to refer to"),
    ):
        with pytest.raises(UserError, match=words):
            load_dataset("voices", voices, **given)
    write(voices / "noise" / "hush.wav", np.zeros(20000))
    with pytest.raises(UserError, match="'hush' has a silent piece"):
        load_dataset("voices", voices, test_noises=("hush",))
    write(voices / "noise" / "hush.wav", voice(0))
    write(voices / "alone" / "u.wav", voice(0))
    with pytest.raises(UserError, match="row 'alone/u_"):
        load_dataset("voices", voices)
    with pytest.raises(UserError, match="two speakers and a noise"):
        load_dataset("voices", voices / "s0")
    write(tmp_path / "only" / "noisy" / "a_1.wav", voice(0))
    with pytest.raises(UserError, match="no clean speech to refer to"):
        load_dataset("voices", tmp_path / "only")
