from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from weft.data import read_array, read_audio, read_image
from weft.data.files import read_frames
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


# --- levels, transparency, lengths and types that files leave open --------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "top"),
    [
        (np.linspace(0, 1, 2400, dtype=np.float32), 1),
        (np.linspace(0, 255, 2400).astype(np.int32), 255),
        (np.linspace(0, 65535, 2400).astype(np.float32), 65535),
        (np.linspace(0, 4095, 2400).astype(np.uint16), 4095),
    ],
)
def test_grey_is_read_by_its_range(tmp_path: Path, levels: np.ndarray, top: float) -> None:
    Image.fromarray(levels.reshape(40, 60)).save(tmp_path / "grey.tiff")
    grey = np.asarray(read_image(tmp_path / "grey.tiff"))[..., 0]
    np.testing.assert_allclose(grey, levels.reshape(40, 60) * (255 / top), atol=1)


@pytest.mark.parametrize("level", [-1.0, 1e6, float("nan")])
def test_grey_of_no_known_range_is_refused(tmp_path: Path, level: float) -> None:
    Image.fromarray(np.full((8, 8), level, np.float32)).save(tmp_path / "grey.tiff")
    with pytest.raises(UserError, match=r"row 'a'.*grey levels(.|\n)*depth"):
        read_image(tmp_path / "grey.tiff", "row 'a'")


def test_sixteen_bits_keep_their_rotation(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").size == (40, 60)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (200, 30, 30, 0)).convert(mode)
    image.save(tmp_path / "clear.png", **({"transparency": 0} if mode == "P" else {}))
    assert np.asarray(read_image(tmp_path / "clear.png")).min() == 255


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_integers_are_scaled_by_their_type(dtype: str) -> None:
    info = np.iinfo(dtype)
    middle = (info.max + info.min + 1) // 2
    samples, _ = read_audio((np.array([info.min, middle, info.max], dtype), 8000))
    np.testing.assert_allclose(samples, [-1, 0, 1], atol=0.01)


@pytest.mark.parametrize(
    "samples", [[1, -5, 300], np.array([1, 2], np.int64), np.zeros((2, 16000), np.float32), np.array([True, False])]
)
def test_sound_of_no_known_range_or_shape_is_refused(samples: object) -> None:
    with pytest.raises(UserError, match="8, 16 or 32 bits"):
        read_audio((samples, 16000))


@pytest.mark.parametrize("chunk", [b"", b"LIST\x04\x00\x00\x00abcd"])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path, chunk: bytes) -> None:
    wavfile.write(tmp_path / "whole.wav", 8000, np.arange(-400, 400, dtype=np.int16) * 50)
    content = (tmp_path / "whole.wav").read_bytes()
    unknown = b"\xff\xff\xff\xff"
    piped = content[:4] + unknown + content[8:36] + chunk + content[36:40] + unknown + content[44:]
    (tmp_path / "piped.wav").write_bytes(piped)
    np.testing.assert_array_equal(read_audio(tmp_path / "piped.wav")[0], read_audio(tmp_path / "whole.wav")[0])


def test_names_that_no_file_can_have_are_missing_files(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="missing"):
            read_image(tmp_path / name)


def test_videos(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), (40 * i, 0, 0)) for i in range(5)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.save(tmp_path / "moving.npy", np.stack([np.asarray(f) for f in frames]))
    for value in (tmp_path / "moving.webp", tmp_path / "moving.npy", np.stack([np.asarray(f) for f in frames])):
        read = read_frames(value, 3)
        assert read.shape == (3, 4, 6, 3)
        np.testing.assert_allclose(read[:, 0, 0, 0], [0, 80, 160], atol=2)
    with pytest.raises(UserError, match="a video is"):
        read_frames(np.zeros(5, np.uint8), 3)


def test_a_recording_without_samples_is_named(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "none.wav", 8000, np.zeros((0, 2), np.int16))
    with pytest.raises(UserError, match=r"row 4: the file has no samples(.|\n)*none\.wav"):
        read_audio(tmp_path / "none.wav", "row 4")
