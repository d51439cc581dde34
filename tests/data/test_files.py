from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from weft.data import read_array, read_audio, read_image
from weft.errors import UserError


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    return np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 3), (40, 60, 4)])
def test_arrays_become_rgb(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    image = read_image(array)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    channels = array.reshape(40, 60, -1).astype(float)
    if shape[-1] == 4:  # on white
        opacity = channels[..., 3:] / 255
        channels = channels[..., :3] * opacity + 255 * (1 - opacity)
    expected = np.broadcast_to(channels, (40, 60, 3))
    np.testing.assert_allclose(np.asarray(image), expected, atol=1)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(UserError, match="uint8"):
        read_image(bad)


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path: Path) -> None:
    depth = np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "depth.png"))[..., 0], depth >> 8)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").size == (40, 60)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_truncated_images_are_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    assert read_image(path).size == (64, 64)
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=f"row 'a17'.*truncated(.|\n)*photo.{suffix}"):
        read_image(path, "modality 'photo', row 'a17'")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_image, read_audio, read_array):
        with pytest.raises(UserError, match=r"row 'x'.*missing(.|\n)*gone.wav"):
            read(tmp_path / "gone.wav", "row 'x'")


@pytest.mark.parametrize(("dtype", "scale", "shift"), [("int16", 32768, 0), ("int32", 2**31, 0), ("uint8", 128, 128)])
def test_wav_scales_by_its_type(tmp_path: Path, dtype: str, scale: float, shift: float) -> None:
    wave = np.sin(np.linspace(0, 20, 800)) * 0.9
    samples = (wave * scale + shift).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 8000, samples)
    read, rate = read_audio(tmp_path / "a.wav")
    assert (rate, read.dtype, read.shape) == (8000, np.float32, (800,))
    np.testing.assert_allclose(read, (samples.astype(np.float64) - shift) / scale, atol=1e-6)
    soundfile = pytest.importorskip("soundfile", reason="needs the extra 'audio'")
    reference, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(read, reference, atol=1e-6)


def test_channels_are_averaged_and_flac_is_read(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs the extra 'audio'")
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, size=(400, 2))
    soundfile.write(tmp_path / "a.flac", stereo, 16000)
    read, rate = read_audio(tmp_path / "a.flac")
    assert rate == 16000
    np.testing.assert_allclose(read, stereo.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("value", [(np.array([0.0, np.nan]), 8000), (np.zeros(0), 8000), (np.zeros(4), 0)])
def test_unusable_samples_are_refused(value: tuple[np.ndarray, int]) -> None:
    with pytest.raises(UserError, match="row 'b'"):
        read_audio(value, "row 'b'")


def test_truncated_audio_and_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF\x00")
    wavfile.write(tmp_path / "half.wav", 8000, np.zeros(800, np.int16))
    (tmp_path / "half.wav").write_bytes((tmp_path / "half.wav").read_bytes()[:900])
    (tmp_path / "a.flac").write_bytes(b"fLaC\x00")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for read, name in [
        (read_audio, "a.wav"),
        (read_audio, "a.flac"),
        (read_array, "a.npy"),
        (read_array, "objects.npy"),
    ]:
        with pytest.raises(UserError, match=f"row 'c'.*truncated(.|\n)*{name}"):
            read(tmp_path / name, "row 'c'")
