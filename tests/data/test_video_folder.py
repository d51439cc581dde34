"""Folders of videos with sound and subtitles, and what is missing in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from tests.systems.verbs import weft
from weft.data import load_dataset
from weft.errors import UserError

CUE = "00:00:00.000 --> 00:00:04.000\n{}\n"


def film(path: Path, level: int = 0, sound: bool = True, said: str | None = "one two", ending: str = ".vtt") -> None:
    """Four frames, four seconds of sound, and subtitles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("RGB", (16, 16), (level, 20 * i, 0)) for i in range(4)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:], duration=100)
    if sound:
        wave = np.sin(np.arange(16000) * (0.1 + level / 400)) * 9000
        wavfile.write(path.with_suffix(".wav"), 4000, wave.astype(np.int16))
    if said is not None:
        path.with_suffix(ending).write_text(CUE.format(said), encoding="utf-8")


def test_what_lies_beside_a_video_is_its_own(tmp_path: Path) -> None:
    film(tmp_path / "a")
    film(tmp_path / "b", sound=False, ending=".srt")
    film(tmp_path / "c", said=None)
    (tmp_path / "d.mp4").write_bytes(b"x")
    data = load_dataset("video_folder", tmp_path)
    columns = {name: column.values for name, column in data.modalities.items()}
    assert data.ids == ["a", "b", "c", "d"]
    assert [path.name for path in columns["video"]] == ["a.gif", "b.gif", "c.gif", "d.mp4"]
    assert [path and path.name for path in columns["audio"]] == ["a.wav", None, "c.wav", "d.mp4"]
    assert [text and text.splitlines()[1] for text in columns["subtitles"]] == ["one two", "one two", None, None]
    assert data.split is None


def test_parts_and_a_system_reads_them(tmp_path: Path) -> None:
    """A folder as it lies is trained on by the verb; a row without sound is named there."""
    for part, count in (("train", 4), ("dev", 2), ("test", 2)):
        for i in range(count):
            film(tmp_path / "films" / part / f"v{i}", level=30 * i, said=("one two", "three four")[i % 2])
    data = load_dataset("video_folder", tmp_path / "films")
    assert [(data.split == part).sum() for part in ("train", "dev", "test")] == [4, 2, 2]
    asked = ["video_folder", "--root", tmp_path / "films", "--system", "merlot-reserve", "--option", "width=16"]
    weft("fit", *asked, "--set", "epochs=1", "--set", "batch_size=2", "--out", tmp_path / "run")
    (tmp_path / "films" / "train" / "v1.wav").unlink()
    with pytest.raises(UserError, match=r"(?s)'audio' of every row.*train/v1"):
        weft("fit", *asked, "--out", tmp_path / "again")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no videos"):
        load_dataset("video_folder", tmp_path)
    film(tmp_path / "a")
    (tmp_path / "a.webp").write_bytes((tmp_path / "a.gif").read_bytes())
    with pytest.raises(UserError, match="two of 'a'"):
        load_dataset("video_folder", tmp_path)
    (tmp_path / "a.webp").unlink()
    (tmp_path / "a.vtt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match=r"a\.vtt"):
        load_dataset("video_folder", tmp_path)
