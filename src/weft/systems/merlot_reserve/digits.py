"""Scripts of real digits: written ones are seen (MNIST), others are said (FSDD), and the words name both.

A segment is a second and a half. Its frame is a written digit, or black two times of five; a speaker says a digit
three times, in takes of his own. Written digits count up two times of three (9 is followed by 0), so the script tells
something of what a black frame hides; what is said, and by whom, is drawn anew for every segment. Words, one a third:
the digit that is said ("three"), the digit that is written ("3"), the speaker ("george").

Rows of the test part have recordings and images that no other row has, see :class:`~weft.data.digits_av.DigitsAv`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets, numbered
from weft.data.digits_av import DigitsAv
from weft.data.files import read_audio
from weft.registry import Count, Seed
from weft.systems.merlot_reserve.world import DARK, FOLLOWS, subtitled

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SECONDS = 1.5
THIRDS = 3


@datasets.register("digit-scripts")
class DigitScripts(FolderReader):
    """Videos of written and spoken digits with subtitles; which word was left out is the question.

    Args:
        rows: how many, a quarter of them test.
        seed: of what is drawn.
        segments: of a video.
    """

    paper = DigitsAv.paper
    layout = DigitsAv.layout

    def __init__(self, *, rows: int = 1000, seed: Seed = 0, segments: Count = 4) -> None:
        self.rows, self.seed, self.segments = rows, seed, segments

    def read(self, root: Path) -> Dataset:
        """Modalities ``video``, ``audio``, ``subtitles``."""
        pool, rng = DigitsAv(seed=self.seed).read(root), np.random.default_rng(self.seed)
        speakers = np.array([name.split("_")[1] for name in pool.ids])
        clips = [read_audio(path, str(path)) for path in pool.modalities["audio"].values]
        rate = clips[0][1]
        size = int(rate * SECONDS / THIRDS)
        said = [np.pad(clip[:size], (0, max(0, size - len(clip)))) for clip, _ in clips]
        images, digits, parts = pool.modalities["image"].values, pool.targets["digit"], pool.split
        split = np.where(np.arange(self.rows) < 0.75 * self.rows, "train", "test")
        made = []
        for part in split:
            inside, written, cues, frames, sounds = np.flatnonzero(parts == part), int(rng.integers(10)), [], [], []
            for _ in range(self.segments):
                written = (written + 1) % 10 if rng.random() < FOLLOWS else int(rng.integers(10))
                image = images[rng.choice(inside[digits[inside] == written])]
                frames.append(np.zeros_like(image) if rng.random() < DARK else image)
                heard = rng.choice(inside)
                takes = inside[(digits[inside] == digits[heard]) & (speakers[inside] == speakers[heard])]
                sounds += [said[take] for take in rng.choice(takes, THIRDS)]
                cues += [NAMES[digits[heard]], str(written), str(speakers[heard])]
            samples = (np.concatenate(sounds) * 32767).astype(np.int16)
            made.append((np.stack(frames), (samples, rate), subtitled(cues, SECONDS / THIRDS)))
        columns = zip(("video", "audio", "subtitles"), ("video", "audio", "text"), zip(*made, strict=True), strict=True)
        modalities = {name: Modality(kind, list(values)) for name, kind, values in columns}
        return Dataset("digit-scripts", numbered("script ", self.rows), modalities, {}, split, None, "retrieval")
