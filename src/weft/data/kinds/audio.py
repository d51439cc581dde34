"""Sound: a path, or ``(samples, rate)``."""

from __future__ import annotations

from typing import Any

from weft.data.files import AUDIO_SUFFIXES, read_audio
from weft.data.kinds.base import FileKind, kinds


@kinds.register("audio")
class Audio(FileKind):
    """Recordings, read as mono samples in [-1, 1]."""

    encoder = "log-mel"
    better = ("hf:facebook/wav2vec2-base", "hf:openai/whisper-tiny")
    transformers = "hf-audio"
    suffixes = AUDIO_SUFFIXES

    def read(self, value: Any, where: str) -> Any:
        """``(samples (n,), rate)``."""
        return read_audio(value, where)
