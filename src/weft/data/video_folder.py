"""Videos with their sound and subtitles in a folder: ``talk.mp4`` beside ``talk.wav`` and ``talk.srt``.

Modalities ``video``, ``audio`` and ``subtitles``. Sound is a file of the video's name, else the video's own (``.mp4``
and others that ffmpeg reads); animated pictures and arrays have none. Subtitles are SRT, WebVTT or plain words. What is
not there is absent in its row. Row ids are paths below the root; ``train``, ``dev`` and ``test`` may be folders.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES, read_text
from weft.data.image_folder import PARTS
from weft.errors import UserError

STILL = (".gif", ".webp", ".npy")
SUBTITLES = (".srt", ".vtt", ".txt")


@datasets.register("video_folder")
class VideoFolder(FolderReader):
    """Videos with sound and subtitles beside them; retrieval of one by the others."""

    layout = "[{train,dev,test}/]<name>.mp4, .gif, ..., beside <name>.wav and <name>.srt, .vtt or .txt"

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: no videos in it, two of one name, or subtitles that are no text.
        """
        parts = {folder: PARTS[folder.name] for folder in sorted(root.iterdir()) if folder.name in PARTS}
        found = [(path, part) for top, part in (parts or {root: ""}).items() for path in _videos(top)]
        if not found:
            raise UserError("video_folder: no videos", str(root), f"expected {self.layout}")
        videos, split = zip(*found, strict=True)
        ids = [path.relative_to(root).with_suffix("").as_posix() for path in videos]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise UserError("video_folder: videos have names of their own", f"two of {twice[0]!r}", "rename one")
        sounds = [_beside(path, AUDIO_SUFFIXES) or (None if path.suffix.lower() in STILL else path) for path in videos]
        texts = [_beside(path, SUBTITLES) for path in videos]
        said = [None if path is None else read_text(path, f"subtitles {path.name}") for path in texts]
        return Dataset(
            name=root.name,
            ids=ids,
            modalities={
                "video": Modality("video", list(videos)),
                "audio": Modality("audio", sounds),
                "subtitles": Modality("text", said),
            },
            targets={},
            split=np.array(split) if parts else None,
            group=None,
            task="retrieval",
        )


def _videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (*VIDEO_SUFFIXES, *STILL))


def _beside(video: Path, suffixes: Iterable[str]) -> Path | None:
    """The file of the video's name with the first of these endings, None if there is none."""
    return next((path for suffix in sorted(suffixes) if (path := video.with_suffix(suffix)).is_file()), None)
