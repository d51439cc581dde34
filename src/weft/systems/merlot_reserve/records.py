"""Videos of the published pre-training shards: TFRecord files ``train{i:05d}of32800.tfrecord``.

An ``Example`` is 16 segments of five seconds, ``c00/...`` to ``c15/...``:

=============================================  ===============================================================
key                                            what it is
=============================================  ===============================================================
``image/encoded``                              the frame in the middle, JPEG
``spectrogram/encoded``                        ``(64, 188)`` or ``(188, 64)`` grey JPEG, which, divided by
``spectrogram/magic_number``                   the number, is the logarithmic spectrogram
``tok_ids``                                    words, as ids of the published vocabulary
``tok_start_times``, ``tok_end_times``         when they are said, in seconds of the segment
``playback_speed``                             1: as it was recorded
``video_src_index``                            which film the segment is of
``title``, ``tags``, ``description``           ids that stand before the words of the whole video
``random_text``                                ids of a text that has nothing to do with it
=============================================  ===============================================================

A key without its ``c..`` counts for all segments. The shards are not published, only the code that reads them; what
that does not say (which side of a spectrogram is time) is told by its size.

Source: Zellers et al. 2022 (arXiv 2201.02639), released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.data.files import open_image, read_image
from weft.data.tfrecord import Value, read_example, read_records
from weft.errors import UserError, some
from weft.systems.merlot_reserve.script import Script, Word, spans_of

SECONDS = 5.0
SEGMENTS = 16
MELS = 64
TITLES = ("title", "tags", "description")


@dataclass
class Published:
    """A video of a shard.

    Attributes:
        frames: ``(H, W, 3)`` uint8 of each segment.
        mels: ``(T, 65)`` of each segment: the spectrogram, and the speed beside it.
        script: words and their ids, for :func:`~weft.systems.merlot_reserve.script.build`.
        prefix, written: ids of title, tags and description; of the other text.
        source: ``(S,)`` the film of each segment.
    """

    frames: list[np.ndarray]
    mels: list[Tensor]
    script: Script
    prefix: list[int]
    written: list[int]
    source: Tensor


def read_videos(path: Path | str, segments: int = SEGMENTS) -> Iterator[Published]:
    """The videos of a shard.

    Raises:
        UserError: the file is damaged, or a record lacks a key or has an image that cannot be read; record, segment
            and key are named.
    """
    for number, data in enumerate(read_records(path)):
        yield _video(read_example(data), f"{path}: record {number}", segments)


def _video(record: dict[str, Value], where: str, segments: int) -> Published:
    def of(segment: int, key: str, default: Any = None) -> Any:
        found = record.get(f"c{segment:02d}/{key}", record.get(key, default))
        if found is None:
            raise UserError(
                f"{where}: every segment has {key!r}", f"segment {segment} has none, among {some(sorted(record))}",
                "the keys are listed in weft.systems.merlot_reserve.records",
            )  # fmt: skip
        return found

    words, frames, mels, source = [], [], [], []
    for segment in range(segments):
        at = f"{where}, segment {segment}"
        frames.append(np.asarray(read_image(open_image(of(segment, "image/encoded")[0], at), at)))
        grey = np.asarray(open_image(of(segment, "spectrogram/encoded")[0], at).convert("L"), dtype=np.float32)
        mel = torch.from_numpy(grey if grey.shape[1] == MELS else grey.T) / float(
            of(segment, "spectrogram/magic_number")[0]
        )
        speed = torch.full_like(mel[:, :1], float(of(segment, "playback_speed", [1.0])[0]))
        mels.append(torch.cat([mel, speed], dim=1))
        source.append(of(segment, "video_src_index", [0])[0])
        said = zip(*(of(segment, key) for key in ("tok_ids", "tok_start_times", "tok_end_times")), strict=True)
        words += [Word(str(i), *(SECONDS * segment + float(time) for time in times)) for i, *times in said]
    spans = spans_of(words, segments, SECONDS * segments)
    script = Script(spans, [[[int(word.text)] for word in span] for span in spans], SECONDS * segments)
    prefix = [int(i) for key in TITLES for i in of(0, key, [])]
    films = {film: number for number, film in enumerate(dict.fromkeys(source))}
    return Published(
        frames, mels, script, prefix, [int(i) for i in of(0, "random_text", [])],
        torch.tensor([films[film] for film in source]),
    )  # fmt: skip
