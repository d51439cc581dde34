"""Sound: a path, or ``(samples, rate)``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.files import AUDIO_SUFFIXES, read_audio
from weft.data.kinds.base import Kind, Place, has_suffix, kinds, paths, share


@kinds.register("audio")
class Audio(Kind):
    """Recordings, read as mono samples in [-1, 1]."""

    encoder = "log-mel"
    better = ("hf:facebook/wav2vec2-base", "hf:openai/whisper-tiny")
    transformers = "hf-audio"
    files = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Paths relative to the table."""
        return paths(columns[0], place)

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of sound files."""
        return share(cells, lambda cell: has_suffix(cell, AUDIO_SUFFIXES))

    def read(self, value: Any, where: str) -> Any:
        """``(samples (n,), rate)``."""
        return read_audio(value, where)
