"""Compressed sound and video, by the ffmpeg that is installed, else by a stand-in; and without any."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from weft.data import Dataset, Modality, files
from weft.data.files import read_audio, read_frames
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.store import encode


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ffmpeg") is None:
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("ffmpeg_program.py")} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def video(path: Path, frames: int = 9) -> Path:
    """Frame ``i`` is all ``(20 i, 0, 0)``; an animated GIF, whatever its name."""
    images = [Image.new("RGB", (32, 16), (20 * i, 0, 0)) for i in range(frames)]
    images[0].save(path, "gif", save_all=True, append_images=images[1:], duration=100)
    return path


def tone(path: Path, rate: int = 22050) -> Path:
    """Half a second of 440 Hz in two channels; a WAV, whatever its name."""
    wave = np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate) * 2**14
    wavfile.write(path.with_suffix(".wav"), rate, np.stack([wave, wave], axis=1).astype(np.int16))
    return path.with_suffix(".wav").rename(path)


@pytest.mark.usefixtures("ffmpeg")
def test_frames_are_evenly_taken(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    frames = read_frames(path, 5)
    assert frames.shape == (5, 16, 32, 3)
    np.testing.assert_allclose(frames[:, 3, 3, 0], [0, 40, 80, 120, 160], atol=3)
    assert len(read_frames(path, 50)) == 9
    encoder = create_encoder("frame-patches", "video", frames=4)
    np.testing.assert_array_equal(encoder.encode([path])[0], encoder.encode([encoder.prepare(path)])[0])


@pytest.mark.usefixtures("ffmpeg")
def test_sound_comes_at_its_rate(tmp_path: Path) -> None:
    samples, rate = read_audio(tone(tmp_path / "a.m4a"))
    expected, _ = read_audio(tone(tmp_path / "b.wav"))
    assert rate == 22050
    np.testing.assert_allclose(samples, expected, atol=1e-4)


def test_soundfile_is_not_needed_with_ffmpeg(tmp_path: Path, ffmpeg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    assert read_audio(tone(tmp_path / "a.flac"))[1] == 22050


@pytest.mark.usefixtures("ffmpeg")
def test_what_ffmpeg_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"(?s)row 'r'.*a\.mp4 .*ffmpeg says: .*Invalid data"):
        read_frames(tmp_path / "a.mp4", 3, "row 'r'")
    with pytest.raises(UserError, match="cannot be read"):
        read_audio(video(tmp_path / "silent.m4a"))
    with pytest.raises(UserError, match="missing"):
        read_frames(tmp_path / "gone.mp4", 3)
    values = [video(tmp_path / "good.mp4"), tmp_path / "a.mp4"]
    rows = {"clip": Modality("video", values), "text": Modality("text", ["a", "b"])}
    data = Dataset("d", ["r", "s"], rows, {}, None, None, "retrieval")
    encoders = {"clip": create_encoder("frame-patches", "video"), "text": create_encoder("hashed-text", "text")}
    store = encode(data, encoders, tmp_path / "store", on_error="skip", progress=False)
    assert [failure.row for failure in store.failures] == ["s"]
    assert "0x" not in store.failures[0].why  # the same words every time


def test_damaged_bytes_of_an_mp4_are_named(tmp_path: Path) -> None:
    """A film of H.264 that a real ffmpeg wrote is read; with its head or its middle destroyed its row is named."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra 'video'")
    path, rng = tmp_path / "whole.mp4", np.random.default_rng(0)
    writer = imageio_ffmpeg.write_frames(str(path), (64, 48), fps=10)
    writer.send(None)
    for level in range(0, 240, 6):
        writer.send((level + rng.integers(16, size=(48, 64, 3))).astype(np.uint8).tobytes())
    writer.close()
    whole = path.read_bytes()
    np.testing.assert_allclose(read_frames(path, 4).mean(axis=(1, 2, 3)), [7.5, 85.5, 163.5, 241.5], atol=4)
    for name, start, count in (("head", 0, 64), ("middle", len(whole) // 2, 400), ("end", len(whole) // 2, len(whole))):
        (tmp_path / f"{name}.mp4").write_bytes((whole[:start] + bytes(count) + whole[start + count :])[: len(whole)])
        with pytest.raises(UserError, match=rf"(?s)row '{name}'.*truncated or damaged.*{name}\.mp4 .*ffmpeg says: "):
            read_frames(tmp_path / f"{name}.mp4", 4, f"row {name!r}")
    values = [path, tmp_path / "head.mp4", path, tmp_path / "middle.mp4"]
    rows = {"clip": Modality("video", values), "text": Modality("text", list("abcd"))}
    data = Dataset("d", list("wxyz"), rows, {}, None, None, "retrieval")
    encoders = {"clip": create_encoder("frame-patches", "video"), "text": create_encoder("hashed-text", "text")}
    with pytest.raises(UserError, match=r"(?s)row 'x'.*head\.mp4"):
        encode(data, encoders, tmp_path / "stopped", progress=False)
    store = encode(data, encoders, tmp_path / "store", on_error="skip", progress=False)
    assert [failure.row for failure in store.failures] == ["x", "z"]


def test_without_ffmpeg_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"(?s)reading \.mp4 needs ffmpeg.*install ffmpeg.*weft\[video\]"):
        read_frames(video(tmp_path / "a.mp4"), 3)
    with pytest.raises(UserError, match=r"reading \.m4a needs ffmpeg"):
        read_audio(tone(tmp_path / "a.m4a"))


def test_the_package_with_a_program_is_found(tmp_path: Path, ffmpeg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("ffmpeg")
    package = type(sys)("imageio_ffmpeg")
    package.get_ffmpeg_exe = lambda: program
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert len(read_frames(video(tmp_path / "a.mp4"), 3)) == 3


def test_a_program_that_hangs_or_is_none_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/nowhere\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="cannot be started"):
        read_audio(tone(tmp_path / "a.m4a"))

    def hang(*args: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("ffmpeg", 600)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UserError, match="not done after 600 s"):
        read_audio(tone(tmp_path / "a.m4a"))
