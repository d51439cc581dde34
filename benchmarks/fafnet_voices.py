"""FAF-Net, small, on real voices: unseen speakers, an unseen noise, at 0, 5 and 10 dB, beside the noisy speech,
spectral subtraction, Wiener's filter, the same network without reference, a wider one without, and the reference of
another speaker. The tables are in ``docs/results/fafnet.md``.

    WEFT_DATA=... python benchmarks/fafnet_voices.py [--seeds 3] [--epochs 10]

Voices at 8 kHz: three LibriSpeech speakers and five of the spoken digits (seven in a row make an utterance) to train
on, the sixth of the digits to choose the epoch, three LibriSpeech speakers to test. Noises to train on: dishes, white,
pink, and a babble of the training digits; to test: a bike. Classical filters choose their quantile on the dev rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import fill_page, write_result

from weft.compare.statistics import sign_flip_test
from weft.data import Dataset, Split, load_dataset
from weft.encoders.audio import read_clip
from weft.models.outputs import wav_bytes
from weft.systems.fafnet.metrics import EnhancementJudge, draw_spectra
from weft.systems.fafnet.reader import mixed
from weft.systems.fafnet.spectra import Spectra, match
from weft.systems.fafnet.system import Fafnet, loudness
from weft.training.system_task import fit_system, make_system

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("WEFT_DATA", ROOT.parent / "shared" / "data"))
PAGE, FIGURE = ROOT / "docs" / "results" / "fafnet.md", ROOT / "docs" / "results" / "figures" / "fafnet.png"
RATE, SNR = 8000, (0.0, 5.0, 10.0)
TEST, DEV = ("1998", "2414", "3331"), "yweweler"
SMALL: dict[str, Any] = {
    "rate": RATE, "n_fft": 256, "hop": 128, "stages": 1, "channels": (8, 8, 16), "reductions": (2, 2, 2),
    "candidates": 3, "blocks": 2, "norms": "separate", "seconds": 1.0, "reference_seconds": 3.0, "snr": (-5.0, 15.0),
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "FAF-Net": {},
    "no reference": {"candidates": 0},
    "no reference, wider": {"candidates": 0, "channels": (8, 16, 16)},
}
METRICS = ("SI-SDR", "STOI", "PESQ")


def make_root(root: Path) -> None:
    """Folders of speakers and of noises."""
    rng = np.random.default_rng(0)
    for speaker in sorted(f for f in (DATA / "speech").iterdir() if f.is_dir() and f.name != "noise"):
        (root / speaker.name).symlink_to(speaker)
    digits = sorted((DATA / "fsdd" / "recordings").glob("*.wav"))
    babble = np.zeros(5 * RATE)
    for speaker in sorted({path.stem.split("_")[1] for path in digits}):
        own = [path for path in digits if path.stem.split("_")[1] == speaker]
        own = [own[k] for k in rng.permutation(len(own))]
        (root / speaker).mkdir()
        for k in range(len(own) // 7):
            said = np.concatenate([read_clip(path, RATE) for path in own[7 * k : 7 * k + 7]])
            (root / speaker / f"{k}.wav").write_bytes(wav_bytes(said, RATE))
            if speaker != DEV:
                babble += np.resize(np.roll(said, rng.integers(len(said))), len(babble))
    spectrum = np.fft.rfft(rng.normal(size=5 * RATE))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    (root / "noise").mkdir()
    for path in (DATA / "speech" / "noise").iterdir():
        (root / "noise" / path.name).symlink_to(path)
    for name, noise in {"white": rng.normal(size=5 * RATE), "pink": pink, "babble": babble}.items():
        (root / "noise" / f"{name}.wav").write_bytes(wav_bytes(0.3 * noise / np.abs(noise).max(), RATE))


def subtraction(power: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Gain ``(F, T)`` of spectral subtraction, Berouti et al. 1979: twice the noise, a floor of .05."""
    return np.sqrt(np.maximum(1 - 2 * noise / np.maximum(power, 1e-12), 0.05**2))


def wiener(power: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Gain ``(F, T)`` of Wiener's filter with the decision-directed ratio, Scalart and Filho 1996."""
    gain, before = np.empty_like(power), np.ones_like(noise)[:, 0]
    for t in range(power.shape[1]):
        posterior = power[:, t] / np.maximum(noise[:, 0], 1e-12)
        prior = 0.98 * before + 0.02 * np.maximum(posterior - 1, 0)
        gain[:, t] = np.maximum(prior / (1 + prior), 0.05)
        before = gain[:, t] ** 2 * posterior
    return gain


def classical(rule: Callable[..., np.ndarray], quantile: float, samples: np.ndarray) -> np.ndarray:
    """Samples under a gain; the noise in each bin is a quantile of its power over time (exponential if noise alone)."""
    window = torch.hann_window(256)
    wave = torch.from_numpy(np.pad(samples, (0, 256)))
    spectrum = torch.stft(wave, 256, 128, window=window, return_complex=True)
    power = spectrum.abs().square().numpy().astype(np.float64)
    noise = np.quantile(power, quantile, axis=1, keepdims=True) / -np.log(1 - quantile)
    gain = torch.from_numpy(rule(power, noise)).float()
    return torch.istft(gain * spectrum, 256, 128, window=window, length=len(wave)).numpy()[: len(samples)]


def alignment(model: Any) -> dict[str, dict[str, float]]:
    """Share of loud frames of a digit whose best frame in all ten digits of the speaker, said again, is of that digit.

    The speaker is the one that chose the epochs. Found in the noisy speech, and in what the network made of it.
    """
    spectra = Spectra(rate=RATE, n_fft=256, hop=128)
    noise, rng = read_clip(DATA / "speech" / "noise" / "bike.flac", RATE), np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {"noisy": {}, "enhanced first": {}}

    def spectrum(samples: np.ndarray) -> torch.Tensor:
        return spectra(torch.from_numpy(samples / loudness(samples)).float()[None])

    for path in sorted((DATA / "fsdd" / "recordings").glob(f"*_{DEV}_*.wav")):
        digit, speaker, take = path.stem.split("_")
        names = [path.with_name(f"{d}_{speaker}_{(int(take) + 1) % 8}.wav") for d in range(10)]
        others = [read_clip(name, RATE) for name in names]
        cepstra = [spectra.mfcc(spectrum(clip)) for clip in others]
        said = np.repeat(np.arange(10), [part.shape[2] for part in cepstra])
        clean = read_clip(path, RATE)
        power = spectrum(clean).abs().square().sum(dim=1)[0]
        loud = (power > power.max() / 100).numpy()
        for shares in found.values():
            shares.setdefault("chance", []).append(float((said == int(digit)).mean()))
        for snr in (np.inf, *SNR[::-1]):
            noisy = clean if snr == np.inf else mixed(clean, noise, snr, rng, "bike")
            heard = np.concatenate([clip / loudness(clip) for clip in others])
            for way, samples in (("noisy", noisy), ("enhanced first", model.enhance(noisy, heard))):
                best = match(spectra.mfcc(spectrum(samples)), torch.cat(cepstra, dim=2), 1)[0, :, 0].numpy()
                share = float((said[best] == int(digit))[loud].mean())
                found[way].setdefault("clean" if snr == np.inf else f"{snr:g} dB", []).append(share)
    return {way: {name: float(np.mean(s)) for name, s in shares.items()} for way, shares in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_root(Path(folder))
        options = {"rate": RATE, "snr": SNR, "test_speakers": TEST, "test_noises": ("bike",)}
        data, other = (load_dataset("voices", folder, **options, voice=voice) for voice in ("own", "other"))
        measure(data, other, given.seeds, given.epochs)


Rows = dict[str, np.ndarray]


def train(data: Dataset, other: Dataset, split: Split, seed: int, epochs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every network answers to the test rows, and how long its training took; of FAF-Net what it finds, too."""
    sounds: dict[str, Any] = {}
    seconds: dict[str, Any] = {}
    for name, options in METHODS.items():
        start = time.process_time()
        model = make_system("fafnet", data, split.train, seed=seed, **{**SMALL, **options})
        settings = {"epochs": epochs, "batch_size": 6, "lr": 3e-3, "patience": 0, "seed": seed}
        fit_system(model, data, split, settings, progress=False)
        seconds[name] = time.process_time() - start
        sounds[name] = list(model.predictions(data, split.test))
        if name == "FAF-Net":
            sounds["FAF-Net, another's reference"] = list(model.predictions(other, split.test))
            seconds["matched"] = alignment(model) if seed == 0 else None
    return sounds, seconds


def filtered(data: Dataset, split: Split, judge: EnhancementJudge) -> dict[str, Any]:
    """What the classical filters make of the test rows."""
    noisy = [read_clip(data.modalities["noisy"].values[row], RATE) for row in range(len(data))]
    truth, sounds = Fafnet.truth(data, split.dev), {"noisy": [(noisy[row], RATE) for row in split.test]}
    for name, rule in {"spectral subtraction": subtraction, "Wiener": wiener}.items():
        found = {
            q: judge.scores([(classical(rule, q, noisy[row]), RATE) for row in split.dev], truth).mean()
            for q in (0.1, 0.2, 0.35, 0.5)
        }
        quantile = max(found, key=lambda q: found[q])
        sounds[name] = [(classical(rule, quantile, noisy[row]), RATE) for row in split.test]
    return sounds


def parts(data: Dataset) -> Split:
    """The rows of every part."""
    assert data.split is not None
    assert data.group is not None
    test, dev = np.flatnonzero(data.split == "test"), np.flatnonzero(data.group == f"train/{DEV}")
    return Split(np.setdiff1d(np.flatnonzero(data.split == "train"), dev), dev[1::3], test)


def measure(data: Dataset, other: Dataset, seeds: int, epochs: int) -> None:
    assert data.ids == other.ids
    split, judge, scores = parts(data), EnhancementJudge(), dict[str, list[Rows]]()
    truth, seconds, first = Fafnet.truth(data, split.test), dict[str, list[Any]](), dict[str, Any]()

    def judged(sounds: dict[str, Any]) -> None:
        for name, outputs in sounds.items():
            scores.setdefault(name, []).append(judge.row_scores(outputs, truth))
            first.setdefault(name, outputs)
            print(name, {key: round(float(np.nanmean(scores[name][-1][key])), 3) for key in METRICS}, flush=True)

    judged(filtered(data, split, judge))
    for seed in range(seeds):
        sounds, spent = train(data, other, split, seed, epochs)
        judged(sounds)
        for name, value in spent.items():
            seconds.setdefault(name, []).append(value)
        report(data, split, scores, seconds, epochs)
    row = next(k for k, i in enumerate(split.test) if data.ids[i].endswith("_0dB"))
    shown = {name: first[name][row] for name in ("noisy", "Wiener", "FAF-Net", "no reference")}
    draw_spectra([{**shown, "clean": truth[row][0]}], FIGURE)


def report(
    data: Dataset, split: Split, scores: dict[str, list[Rows]], seconds: dict[str, list[Any]], epochs: int
) -> None:
    """Fill the page's table and keep every row's score."""
    test, trained, seeds = split.test, len(split.train), len(scores["FAF-Net"])
    matched, seconds = seconds["matched"][0], {name: s for name, s in seconds.items() if name != "matched"}
    level = np.array([float(data.ids[row].rsplit("_", 1)[1].removesuffix("dB")) for row in test])
    order = ["noisy", "spectral subtraction", "Wiener", "FAF-Net", "FAF-Net, another's reference", *list(METHODS)[1:]]
    head = [f"{metric} {snr:g} dB" for metric in METRICS for snr in SNR]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name in order:
        cells = []
        for metric in METRICS:
            for snr in SNR:
                means = [float(np.nanmean(rows[metric][level == snr])) for rows in scores[name]]
                digits = 3 if metric == "STOI" else 2
                spread = f" ({min(means):.{digits}f} to {max(means):.{digits}f})" if len(means) > 1 else ""
                cells.append(f"{np.mean(means):.{digits}f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    utterance = np.array([str(data.modalities["clean"].values[row]) for row in test])
    tests = {}
    for name in order:
        if name != "FAF-Net":
            gain = {
                m: np.mean([r[m] for r in scores["FAF-Net"]], axis=0) - np.mean([r[m] for r in scores[name]], axis=0)
                for m in METRICS
            }
            tests[name] = {m: (float(g.mean()), sign_flip_test(g, utterance)) for m, g in gain.items()}
    lines += ["", "| FAF-Net less | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name, found in tests.items():
        lines.append(f"| {name} | " + " | ".join(f"{gain:+.3f} (p {p:.3f})" for gain, p in found.values()) + " |")
    spent = ", ".join(f"{name} {np.mean(s):.0f} s" for name, s in seconds.items())
    lines += [
        "",
        f"{seeds} seeds (lowest to highest), {trained} training rows, {epochs} epochs; CPU time of a training: {spent}."
        f" Paired sign-flip tests over {len(set(utterance))} utterances.",
        "",
        "| best frame of the same digit | " + " | ".join(matched["noisy"]) + " |",
        "|---" * (len(matched["noisy"]) + 1) + "|",
        *(f"| {way} | " + " | ".join(f"{share:.2f}" for share in s.values()) + " |" for way, s in matched.items()),
    ]
    fill_page(PAGE, lines)
    kept = {name: [{m: rows[m].tolist() for m in METRICS} for rows in runs] for name, runs in scores.items()}
    write_result(
        "fafnet_voices",
        {"rows": [data.ids[row] for row in test], "scores": kept, "seconds": seconds, "matched": matched},
    )


if __name__ == "__main__":
    main()
