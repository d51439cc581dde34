"""A made world of scripts: frames, sound and words of videos whose next scene can be told from the last.

Every segment has a thing, which is seen unless the frame is dark (two of five), and a sound, which is heard; its words
name both. Things follow each other in a fixed circle two times of three, so that the script tells something of what a
dark frame hides; sounds do not. Who knows the rules, and is asked for a word of a segment beside everything else in it
and its neighbour, is right in .96 of cases; without frames in .91, without sound in .57, without script in .89
(:func:`known`).

=========  =========================================  ===========================
modality   what it is                                 what it tells
=========  =========================================  ===========================
video      ``(S, size, size, 3)`` discs, or dark       the thing (6)
audio      ``S`` tones, rising or falling              the sound (6)
subtitles  SRT: "low", "red", "up"                      both
=========  =========================================  ===========================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weft.data import Dataset, Modality
from weft.data.dataset import datasets, numbered
from weft.data.generated import Generated
from weft.registry import Count, Seed

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 220), "yellow": (225, 205, 50),
    "purple": (150, 60, 180), "white": (235, 235, 235),
}  # fmt: skip
TONES = {"low": 300.0, "middle": 600.0, "high": 1200.0}
WAYS = {"up": 1.3, "down": 0.77}
RATE = 4000
SECONDS = 1.0
FOLLOWS = 2 / 3
DARK = 0.4


@datasets.register("made-scripts")
class MadeScripts(Generated):
    """Drawn videos with sound and subtitles; the answer of each is in the other two.

    Args:
        rows, seed: as for every generated set.
        segments: of a video, a second each.
        size: side of the frames in pixels.
    """

    def __init__(self, *, rows: int = 600, seed: Seed = 0, segments: Count = 4, size: Count = 16) -> None:
        super().__init__(rows=rows, seed=seed)
        self.segments, self.size = segments, size

    def make(self) -> Dataset:
        """Modalities ``video``, ``audio``, ``subtitles``."""
        rng = np.random.default_rng(self.seed)
        made = [self._video(rng) for _ in range(self.rows)]
        columns = zip(("video", "audio", "subtitles"), ("video", "audio", "text"), zip(*made, strict=True), strict=True)
        modalities = {name: Modality(kind, list(values)) for name, kind, values in columns}
        return Dataset("made-scripts", numbered("script ", self.rows), modalities, {}, None, None, "retrieval")

    def _video(self, rng: np.random.Generator) -> tuple[np.ndarray, tuple[np.ndarray, int], str]:
        colours, thing = list(COLOURS), int(rng.integers(len(COLOURS)))
        frames, sounds, cues = [], [], []
        for _ in range(self.segments):
            follows = rng.random() < FOLLOWS
            thing = (thing + 1) % len(colours) if follows else int(rng.integers(len(colours)))
            tone, way = str(rng.choice(list(TONES))), str(rng.choice(list(WAYS)))
            frames.append(self._frame(rng, None if rng.random() < DARK else colours[thing]))
            sounds.append(_sound(rng, TONES[tone], WAYS[way]))
            cues += [tone, colours[thing], way]
        return np.stack(frames), (np.concatenate(sounds).astype(np.float32), RATE), subtitled(cues, SECONDS / 3)

    def _frame(self, rng: np.random.Generator, colour: str | None) -> np.ndarray:
        y, x = np.mgrid[: self.size, : self.size]
        centre, radius = rng.uniform(0.4, 0.6, 2) * self.size, rng.uniform(0.35, 0.5) * self.size
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
        shown = np.where(inside[..., None], COLOURS[colour], 20) if colour else np.full((*y.shape, 3), 20)
        picture = shown + rng.normal(0, 8, (self.size, self.size, 3))
        return picture.clip(0, 255).astype(np.uint8)


def subtitled(texts: Sequence[str], seconds: float) -> str:
    """SRT of texts, one after the other, each said for ``seconds`` with a little silence around it."""
    times = [(i * seconds + 0.02, (i + 1) * seconds - 0.02) for i in range(len(texts))]
    return "\n\n".join(
        f"00:00:{begin:06.3f} --> 00:00:{end:06.3f}\n{text}" for (begin, end), text in zip(times, texts, strict=True)
    )


def known(*, see: bool = True, hear: bool = True, script: bool = True) -> float:
    """The best mean accuracy: the thing by the frame, else by its neighbour, else by chance; the sound by hearing it.

    >>> [round(known(**{name: False} if name else {}), 2) for name in ("", "see", "hear", "script")]
    [0.96, 0.91, 0.57, 0.89]
    """
    guess = 1 / len(COLOURS)
    told = FOLLOWS + (1 - FOLLOWS) * guess if script else guess
    thing = (1 - DARK) + DARK * told if see else told
    return (thing + (2 if hear else 1 / len(TONES) + 1 / len(WAYS))) / 3


def _sound(rng: np.random.Generator, tone: float, way: float) -> np.ndarray:
    time = np.arange(int(RATE * SECONDS)) / RATE
    sweep = tone * (way ** (time / SECONDS) - 1) / np.log(way) * SECONDS
    return 0.5 * np.sin(2 * np.pi * sweep + rng.uniform(0, 2 * np.pi)) + rng.normal(0, 0.02, len(time))
