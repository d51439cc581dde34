"""Sound: a path, or ``(samples, rate)``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.files import AUDIO_SUFFIXES, content_of, is_sound, open_sound, read_audio
from weft.data.kinds.base import FileKind, kinds, share


@kinds.register("audio")
class Audio(FileKind):
    """Recordings, read as mono samples in [-1, 1]."""

    encoder = "log-mel"
    better = ("hf:facebook/wav2vec2-base", "hf:openai/whisper-tiny")
    transformers = "hf-audio"
    suffixes = AUDIO_SUFFIXES

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Names of sound files, or embedded sound."""
        named = super().looks(cells, folder)
        return max(named, share(cells, lambda cell: is_sound(content_of(cell) or b"")))

    def held(self, cell: Any, where: str) -> Any:
        """The sound of these bytes."""
        content = content_of(cell)
        return super().held(cell, where) if content is None else open_sound(content, where)

    def read(self, value: Any, where: str) -> Any:
        """``(samples (n,), rate)``."""
        return read_audio(value, where)
