"""The encoders that need no weights, against slow loops and well-known libraries."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.numpy import save_file
from scipy.signal import resample_poly, stft
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from transformers.audio_utils import mel_filter_bank

from weft.encoders import BadValue, create_encoder, default_encoder, encoders
from weft.encoders.columns import number
from weft.encoders.log_mel import mel_filters, stft_power
from weft.encoders.random_kernels import draw_kernels
from weft.errors import UserError

RNG = np.random.default_rng(0)
SAMPLES = {
    "text": ["A dog runs.", "two dogs, running through the snow", "", "naïve café"],
    "image": [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((40, 60, 3), (33, 21), (64, 64, 3))],
    "audio": [(RNG.standard_normal(n), rate) for n, rate in ((8000, 8000), (100, 16000), (24000, 16000))],
    "series": [RNG.standard_normal((n, 3)) for n in (50, 7, 50, 33)],
    "tabular": [(1.5, "red", None), (2.5, "blue", "x"), (None, "green", "y"), ("4", "red", "x")],
    "vector": [RNG.standard_normal(5) for _ in range(3)],
    "tokens": [RNG.standard_normal((n, 5)) for n in (1, 4, 2)],
}


def fitted(kind: str, **options):
    encoder = create_encoder(default_encoder(kind), kind, **options)
    encoder.fit(SAMPLES[kind])
    return encoder


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_default_keeps_the_interface(kind):
    encoder = fitted(kind)
    together = encoder.encode(SAMPLES[kind])
    for value, tokens in zip(SAMPLES[kind], together, strict=True):
        assert tokens.dtype == np.float32
        assert tokens.ndim == 2
        assert tokens.shape[0] >= 1
        assert tokens.shape[1] == encoder.width
        assert np.isfinite(tokens).all()
        np.testing.assert_allclose(encoder.encode([value])[0], tokens, rtol=1e-5, atol=1e-5)
    again = create_encoder(default_encoder(kind), kind)
    again.load_state(json.loads(json.dumps(encoder.state())))
    assert again.identity() == json.loads(json.dumps(encoder.identity()))
    for a, b in zip(again.encode(SAMPLES[kind]), together, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(encoder.lengths(SAMPLES[kind])) == len(SAMPLES[kind])


def test_unknown_names_and_kinds_say_the_way_out():
    with pytest.raises(UserError, match="did you mean 'hashed-text'"):
        create_encoder("hashd-text", "text")
    with pytest.raises(UserError, match="for 'text': hashed-text, hf-text"):
        create_encoder("log-mel", "text")
    with pytest.raises(UserError, match="built-in 'columns'"):
        create_encoder("hf:some-model", "tabular")
    with pytest.raises(UserError, match="did you mean 'dims'"):
        create_encoder("hashed-text", "text", dim=3)
    with pytest.raises(UserError, match="option 'dims'"):
        create_encoder("hashed-text", "text", dims=0)
    with pytest.raises(UserError, match="did you mean 'image'"):
        default_encoder("images")
    assert {default_encoder(kind) for kind in SAMPLES} < set(encoders.names())


def test_hashed_text_equals_a_slow_loop_in_any_process():
    encoder = create_encoder("hashed-text", "text", dims=32)
    expected = np.zeros(32)
    marked = "<snow>"
    grams = [marked] + [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked)) if i + n <= len(marked)]
    for gram in grams:
        code = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
        expected[(code // 2) % 32] += 1 if code % 2 else -1
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(encoder.encode(["Snow"])[0][0], expected, atol=1e-6)
    script = (
        "import sys; from weft.encoders import create_encoder;"
        "sys.stdout.write(create_encoder('hashed-text', 'text').encode(['the snow'])[0].tobytes().hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {create_encoder("hashed-text", "text").encode(["the snow"])[0].tobytes().hex().encode()}


def test_hashed_text_words_and_stems():
    encoder = create_encoder("hashed-text", "text", max_tokens=4)
    assert encoder.words("Two dogs, RUNNING fast") == ["two", "dogs", ",", "running"]
    assert encoder.words("  ") == [""]
    run, running, table = (encoder.encode([word])[0][0] for word in ("runner", "running", "table"))
    assert run @ running > 0.3 > abs(run @ table)


def test_image_patches_equal_a_slow_loop():
    image = Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    tokens = create_encoder("image-patches", "image", grid=2, bins=4).encode([image])[0]
    pixels = np.asarray(image, dtype=np.float64) / 255
    grey = pixels.mean(axis=2)
    histogram = np.zeros((2, 2, 2, 2, 4))
    for y in range(32):
        for x in range(32):
            up, down, left, right = max(y - 1, 0), min(y + 1, 31), max(x - 1, 0), min(x + 1, 31)
            dy = (grey[down, x] - grey[up, x]) / (down - up)
            dx = (grey[y, right] - grey[y, left]) / (right - left)
            angle = np.arctan2(dy, dx) % np.pi
            histogram[y // 16, x // 16, y % 16 // 8, x % 16 // 8, min(int(angle / np.pi * 4), 3)] += np.hypot(dx, dy)
    for row in range(2):
        for column in range(2):
            h = histogram[row, column].ravel()
            patch = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].reshape(-1, 3)
            expected = np.concatenate([h / np.sqrt(h @ h + 1e-2), patch.mean(axis=0), patch.std(axis=0)])
            np.testing.assert_allclose(tokens[2 * row + column], expected, atol=2e-4)


def test_image_patches_are_row_major():
    image = np.zeros((112, 112, 3), dtype=np.uint8)
    image[:16, -16:] = (255, 0, 0)
    tokens = create_encoder("image-patches", "image").encode([image])[0]
    assert tokens.shape == (49, 38)
    assert int(tokens[:, 32].argmax()) == 6
    assert tokens[6, 32] == pytest.approx(1.0, abs=0.01)


def test_random_kernels_equal_a_slow_loop():
    encoder = fitted("series", kernels=12, patch=8)
    series = SAMPLES["series"][3]
    standard = (series - series.mean(axis=0)) / series.std(axis=0)
    responses = []
    for weights, biases, dilation in draw_kernels(12, 3, seed=0):
        for weight, bias in zip(weights.numpy(), biases.numpy(), strict=True):
            half = weight.shape[1] // 2
            response = [
                bias
                + sum(
                    weight[c, j] * standard[t + dilation * (j - half), c]
                    for c in range(3)
                    for j in range(weight.shape[1])
                    if 0 <= t + dilation * (j - half) < len(series)
                )
                for t in range(len(series))
            ]
            responses.append(np.array(response))
    everything = np.concatenate(SAMPLES["series"])
    level = (series - everything.mean(axis=0)) / everything.std(axis=0)
    tokens = encoder.encode([series])[0]
    assert tokens.shape == (5, 2 * 12 + 15)
    for index, start in enumerate(range(0, 33, 8)):
        part = level[start : start + 8]
        slope = np.polyfit(np.arange(len(part)), part, 1)[0] if len(part) > 1 else np.zeros(3)
        expected = [
            [(r[start : start + 8] > 0).mean() for r in responses],
            [r[start : start + 8].max() for r in responses],
            part.mean(axis=0), part.std(axis=0), part.min(axis=0), part.max(axis=0), slope,
        ]  # fmt: skip
        np.testing.assert_allclose(tokens[index], np.concatenate(expected), atol=1e-4)


def test_random_kernels_refuse_gaps_and_other_channels():
    encoder = fitted("series")
    gap = SAMPLES["series"][0].copy()
    gap[3, 1] = np.nan
    with pytest.raises(BadValue, match="steps 3 of 50") as error:
        encoder.encode([SAMPLES["series"][1], gap])
    assert error.value.index == 1
    with pytest.raises(BadValue, match="2 channels, expected 3"):
        encoder.encode([np.zeros((5, 2))])
    other = fitted("series", seed=1)
    assert not np.allclose(other.encode(SAMPLES["series"])[0], encoder.encode(SAMPLES["series"])[0])


def test_log_mel_equals_scipy_and_transformers():
    samples, size, hop = RNG.standard_normal(4000), 400, 160
    window = np.hanning(size + 1)[:-1]
    _, _, spectrum = stft(samples, window=window, nperseg=size, noverlap=size - hop, boundary=None, padded=False)
    slow = np.abs(spectrum.T * window.sum()) ** 2
    np.testing.assert_allclose(stft_power(samples, size, hop), slow, rtol=1e-6, atol=1e-8)
    reference = mel_filter_bank(201, 40, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    np.testing.assert_allclose(mel_filters(40, 400, 16000), reference.T, atol=1e-6)
    energy = np.log(slow @ reference + 1e-6)
    tokens = create_encoder("log-mel", "audio").encode([(samples, 16000)])[0]
    assert tokens.shape == (-(-len(energy) // 10), 80)
    last = energy[10 * (len(tokens) - 1) :]
    np.testing.assert_allclose(tokens[0], np.concatenate([energy[:10].mean(0), energy[:10].std(0)]), atol=1e-3)
    np.testing.assert_allclose(tokens[-1], np.concatenate([last.mean(0), last.std(0)]), atol=1e-3)


def test_log_mel_resamples_and_reads_files(data_root: Path):
    encoder = create_encoder("log-mel", "audio")
    path = sorted((data_root / "fsdd" / "recordings").glob("*.wav"))[0]
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 8000
    from_file, from_array, resampled = encoder.encode([path, (samples, rate), (resample_poly(samples, 2, 1), 16000)])
    np.testing.assert_allclose(from_file, from_array, atol=1e-3)
    np.testing.assert_allclose(from_array, resampled, atol=1e-3)


def test_columns_equal_scikit_learn():
    numbers = RNG.normal(5, 3, 20)
    colours = np.array(["red", "green", "blue", "red"] * 5)
    rows = list(zip(numbers.tolist(), colours.tolist(), strict=True))
    encoder = create_encoder("columns", "tabular")
    encoder.fit(rows)
    encoded = np.concatenate(encoder.encode(rows))
    np.testing.assert_allclose(encoded[:, 0], StandardScaler().fit_transform(numbers[:, None])[:, 0], atol=1e-6)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(colours[:, None])
    np.testing.assert_array_equal(encoded[:, 2:5], one_hot)
    assert not encoded[:, [1, 5, 6]].any()
    unseen = encoder.encode([(None, "pink"), (float("nan"), None), ("2.5", "")])
    np.testing.assert_array_equal(unseen[0][0], [0, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(unseen[1][0], [0, 1, 0, 0, 0, 0, 1])
    assert unseen[2][0, 0] == pytest.approx((2.5 - numbers.mean()) / numbers.std(), abs=1e-6)
    with pytest.raises(BadValue, match="was a number in every training row") as error:
        encoder.encode([(1.0, "red"), ("many", "red")])
    assert error.value.index == 1
    with pytest.raises(BadValue, match="3 cells, 2 in training"):
        encoder.encode([(1.0, "red", 2)])
    with pytest.raises(UserError, match="not fitted"):
        create_encoder("columns", "tabular").encode(rows)


def test_columns_keep_the_most_frequent_categories():
    encoder = create_encoder("columns", "tabular", max_categories=1, spelling=0)
    encoder.fit([("a",), ("b",), ("b",)])  # other, then the logarithm of 1 + how often
    np.testing.assert_allclose(
        np.concatenate(encoder.encode([("a",), ("b",), ("c",)])),
        [[0, 1, np.log(2), 0], [1, 0, np.log(3), 0], [0, 1, 0, 0]],
        rtol=1e-6,
    )
    constant = create_encoder("columns", "tabular")
    constant.fit([(3,), (3,)])
    np.testing.assert_array_equal(constant.encode([(3,)])[0], [[0, 0]])
    assert number("inf") is None


def test_precomputed_reads_arrays_and_files(tmp_path: Path):
    matrix = RNG.standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", matrix)
    save_file({"x": matrix[0]}, tmp_path / "b.safetensors")
    encoder = create_encoder("precomputed", "tokens")
    encoder.fit([matrix])
    out = encoder.encode([tmp_path / "a.npy", str(tmp_path / "b.safetensors"), matrix[1].tolist(), matrix])
    assert encoder.width == 4
    for found, expected in zip(out, (matrix, matrix[:1], matrix[1:2], matrix), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(BadValue, match="expected width 4"):
        encoder.encode([np.zeros(5)])
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    save_file({"x": matrix, "y": matrix}, tmp_path / "two.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    for bad in ("pickled.npy", "two.safetensors", "cut.safetensors", "other.txt", "gone.npy"):
        with pytest.raises(BadValue) as error:
            encoder.encode([matrix, tmp_path / bad])
        assert error.value.index == 1


def test_a_truncated_image_is_named_by_its_position(tmp_path: Path):
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadValue, match="truncated or damaged") as error:
        create_encoder("image-patches", "image").encode([tmp_path / "a.png", tmp_path / "b.png"])
    assert error.value.index == 1
