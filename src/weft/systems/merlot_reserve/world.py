"""A made world of scripts: frames, sound and words of videos whose next scene can be told from the last.

Every segment has a thing, which is seen, and a sound, which is heard; its words name both. Things follow each other in
a fixed circle three times of four (so the script helps), sounds do not.

=========  =====================================  ===========================
modality   what it is                             what it tells
=========  =====================================  ===========================
video      ``(S, size, size, 3)`` coloured discs   the thing (6)
audio      ``S`` tones, rising or falling          the sound (6)
subtitles  SRT: "now a red thing goes low up"      both
=========  =====================================  ===========================
"""

from __future__ import annotations

import numpy as np

from weft.data import Dataset, Modality
from weft.data.dataset import datasets, numbered
from weft.data.generated import Generated

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 220), "yellow": (225, 205, 50),
    "purple": (150, 60, 180), "black": (25, 25, 25),
}  # fmt: skip
TONES = {"low": 300.0, "middle": 600.0, "high": 1200.0}
WAYS = {"up": 1.3, "down": 0.77}
RATE = 4000
SECONDS = 1.0
FOLLOWS = 0.75


@datasets.register("made-scripts")
class MadeScripts(Generated):
    """Drawn videos with sound and subtitles; the answer of each is in the other two.

    Args:
        rows, seed: as for every generated set.
        segments: of a video, a second each.
        size: side of the frames in pixels.
    """

    def __init__(self, *, rows: int = 600, seed: int = 0, segments: int = 4, size: int = 16) -> None:
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
        for segment in range(self.segments):
            follows = rng.random() < FOLLOWS
            thing = (thing + 1) % len(colours) if follows else int(rng.integers(len(colours)))
            tone, way = str(rng.choice(list(TONES))), str(rng.choice(list(WAYS)))
            frames.append(self._frame(rng, colours[thing]))
            sounds.append(_sound(rng, TONES[tone], WAYS[way]))
            start = segment * SECONDS
            for third, text in enumerate((f"now {colours[thing]}", f"sounds {tone}", f"goes {way}")):
                begin, end = start + third * SECONDS / 3 + 0.02, start + (third + 1) * SECONDS / 3 - 0.02
                cues.append(f"00:00:{begin:06.3f} --> 00:00:{end:06.3f}\n{text}")
        return np.stack(frames), (np.concatenate(sounds).astype(np.float32), RATE), "\n\n".join(cues)

    def _frame(self, rng: np.random.Generator, colour: str) -> np.ndarray:
        y, x = np.mgrid[: self.size, : self.size]
        centre, radius = rng.uniform(0.35, 0.65, 2) * self.size, rng.uniform(0.2, 0.3) * self.size
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
        picture = np.where(inside[..., None], COLOURS[colour], 235) + rng.normal(0, 8, (self.size, self.size, 3))
        return picture.clip(0, 255).astype(np.uint8)


def _sound(rng: np.random.Generator, tone: float, way: float) -> np.ndarray:
    time = np.arange(int(RATE * SECONDS)) / RATE
    sweep = tone * (way ** (time / SECONDS) - 1) / np.log(way) * SECONDS
    return 0.5 * np.sin(2 * np.pi * sweep + rng.uniform(0, 2 * np.pi)) + rng.normal(0, 0.02, len(time))
