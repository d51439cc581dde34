"""Published shards: records that this file writes, as a step of training, and what is wrong with them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_tfrecord import example, record
from weft.errors import UserError
from weft.systems.merlot_reserve.records import read_videos
from weft.systems.merlot_reserve.script import build


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def made(segments: int = 4) -> dict[str, object]:
    rng, found = np.random.default_rng(0), {}
    for segment in range(segments):
        at = f"c{segment:02d}/"
        found[at + "image/encoded"] = jpeg(np.full((24, 40, 3), 50 * segment, np.uint8))
        found[at + "spectrogram/encoded"] = jpeg(np.full((64, 188), 100 + segment, np.uint8))
        found[at + "spectrogram/magic_number"] = [20.0]
        found[at + "tok_ids"] = rng.integers(10, 60, 3).tolist()
        found[at + "tok_start_times"] = [0.25, 2.0, 4.0]
        found[at + "tok_end_times"] = [0.75, 3.0, 4.5]
        found[at + "playback_speed"] = [1.25]
        found[at + "video_src_index"] = [7 if segment < 2 else 9]
    return {**found, "title": [11, 12], "description": [13], "random_text": list(range(20, 40))}


def test_a_record(tmp_path):
    path, given = tmp_path / "train00000of32800.tfrecord", made()
    path.write_bytes(2 * record(example(given)))
    video, again = read_videos(path, segments=4)
    assert [frame.shape for frame in video.frames] == [(24, 40, 3)] * 4
    assert abs(int(video.frames[2].mean()) - 100) <= 1
    assert video.mels[0].shape == (188, 65)
    torch.testing.assert_close(video.mels[3][:, :-1].mean(), torch.tensor(103 / 20), atol=0.05, rtol=0)
    assert (video.mels[0][:, -1] == 1.25).all()
    assert video.script.ids[0:3] == [[[i]] for i in given["c00/tok_ids"]]
    assert video.script.seconds == 20.0
    assert (video.prefix, video.written) == ([11, 12, 13], list(range(20, 40)))
    assert video.source.tolist() == [0, 0, 1, 1]
    sequences = build(
        again.script, again.written, np.random.default_rng(0), groups=2, length=20, joint=60, pieces=2, words=3,
        written_spans=4, prefix=again.prefix,
    )  # fmt: skip
    assert sequences.matching.ids[0, 1:4].tolist() == [11, 12, 13]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c02/tok_ids": None}, r"record 0: every segment has 'tok_ids'.*segment 2"),
        ({"c01/image/encoded": b"no image"}, r"record 0, segment 1"),
    ],
)
def test_what_is_wrong(tmp_path, change, message):
    path, given = tmp_path / "x.tfrecord", {**made(), **change}
    path.write_bytes(record(example({name: value for name, value in given.items() if value is not None})))
    with pytest.raises(UserError, match="(?s)" + message):
        list(read_videos(path, segments=4))
