"""MERLOT Reserve as a system: videos with sound and subtitles, trained to find what was left out.

A prediction is what the network says of one span of a video, the words of which it is not given, beside what it says of
the words: two unit vectors and the ids of the words, one after the other. The judge asks how often the words are the
nearest of those of all rows.

The published optimiser (Adam without bias correction, betas .9 and .98, decay of matrices) is AdamW here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.data import Dataset
from weft.data.files import read_frames
from weft.encoders.audio import read_clip
from weft.errors import UserError
from weft.systems.images import resized
from weft.systems.merlot_reserve.network import Rotary
from weft.systems.merlot_reserve.pretrain import AUDIOSPAN, MASK, PAD, SUBSEGMENTS, MerlotNet, Videos, Words
from weft.systems.merlot_reserve.script import Script, build, spans_of, subtitles
from weft.tasks.base import tasks
from weft.tasks.captions import words
from weft.tasks.judge import Judge
from weft.training.once import Once
from weft.training.system import Gather, Need, Scatter, System, alone, systems, take, whole

FIRST = 10
"""Ids below are marks."""
UNKNOWN = 7
SPEED = 1.0
FLOOR = 0.1


@tasks.register("left-out-span")
class LeftOutSpan(Judge):
    """How often the words of a row are the nearest to what is said of its span, of the words of all rows.

    Outputs are ``[x, y, words]``: unit vectors ``(H,)`` of the span and of its words, and the ids of these. Rows with
    the same words are right for each other; different words with one vector share the nearest place, and count in
    expectation.

    Args:
        words: how many ids there are.
    """

    primary = "accuracy"

    def __init__(self, *, words: Annotated[int, Field(ge=1)] = 4) -> None:
        self.words = words

    def metrics(self, outputs: np.ndarray, target: Any) -> dict[str, float]:
        """``accuracy``, and ``chance``: the mean share of rows with the same words."""
        same = self._split(outputs)[2]
        return {"accuracy": float(self.scores(outputs, target).mean()), "chance": float(same.mean())}

    def scores(self, outputs: np.ndarray, target: Any) -> np.ndarray:
        """``(N,)`` share of the nearest rows, all within 1e-6, that have the words of the row."""
        x, y, same = self._split(outputs)
        near = x @ y.T
        nearest = near >= near.max(axis=1, keepdims=True) - 1e-6
        found: np.ndarray = (nearest & same).sum(axis=1) / nearest.sum(axis=1)
        return found

    def _split(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outputs = np.asarray(outputs)
        x, y = np.split(outputs[:, : -self.words], 2, axis=1)
        ids = outputs[:, -self.words :]
        return x, y, (ids[:, None] == ids[None]).all(axis=2)


@systems.register("merlot-reserve")
class MerlotReserve(System):
    """Frames, sound and words of videos; MERLOT Reserve, Zellers et al. 2022.

    Published: ``segments=16 groups=2 seconds=5 rate=22050 fft=1536 hop=588 mels=64 frames=60 pieces=6 patch=16
    grid=[12, 20] width=768 head=64 layers=[12, 12, 4, 12] length=160 joint=640``.

    Args:
        segments, groups: of a video; longer videos are cut into so many parts of equal length.
        seconds: of a segment, that sound and frames are taken from.
        rate, fft, hop, mels, frames: of the spectrogram: samples per second, of a window, between windows, filters,
            windows of a span.
        pieces: vectors of the sound of a span.
        patch, grid: side of a patch in pixels, patches of a column and of a row.
        width, head, layers, rotary: see :class:`~weft.systems.merlot_reserve.pretrain.MerlotNet`.
        length, joint: tokens of a sequence with frames beside it, and of a whole one.
        words: most words of a span.
        see, hear, script: with frames; with sound; segments hear each other. Without: for comparison.
        vocabulary: learned.
    """

    reads = {"video": Need("video"), "audio": Need("audio"), "subtitles": Need("text")}
    writes = "embedding"
    judge = "left-out-span"
    trained_with = {"lr": 4e-4, "weight_decay": 0.1, "epochs": 10, "batch_size": 32}
    variants = {
        "merlot-reserve": {}, "no frames": {"see": False}, "no sound": {"hear": False}, "no script": {"script": False},
    }  # fmt: skip
    paper = "Zellers et al. 2022, MERLOT Reserve (CVPR, arXiv 2201.02639)"

    def __init__(
        self,
        *,
        segments: Annotated[int, Field(ge=2)] = 4,
        groups: Annotated[int, Field(ge=1)] = 2,
        seconds: float = 1.0,
        rate: int = 4000,
        fft: int = 256,
        hop: int = 64,
        mels: int = 24,
        frames: int = 16,
        pieces: int = 2,
        patch: int = 4,
        grid: tuple[int, int] = (4, 4),
        width: int = 64,
        head: int = 32,
        layers: tuple[int, int, int, int] = (1, 1, 1, 2),
        length: int = 24,
        joint: int = 64,
        words: int = 4,
        rotary: Rotary = "official",
        see: bool = True,
        hear: bool = True,
        script: bool = True,
        vocabulary: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.segments, self.groups, self.seconds, self.rate, self.fft, self.hop = (
            segments, groups, seconds, rate, fft, hop
        )  # fmt: skip
        self.mels, self.frames, self.pieces, self.patch, self.grid = mels, frames, pieces, patch, grid
        self.width, self.head, self.layers, self.length, self.joint = width, head, layers, length, joint
        self.words, self.rotary, self.see, self.hear, self.script = words, rotary, see, hear, script
        self.vocabulary = vocabulary or []
        windows = 1 + int(seconds * rate) // hop
        if windows < SUBSEGMENTS * frames:
            raise UserError(
                "the sound of a segment holds its spans",
                f"{windows} windows in {seconds} seconds, {SUBSEGMENTS} spans of {frames}",
                "fewer frames, a smaller hop, or longer segments",
            )
        self.network = MerlotNet(
            FIRST + len(self.vocabulary), patch=3 * patch * patch, grid=grid, features=mels + 1, audio_tokens=pieces,
            frames=frames, width=width, head=head, layers=layers, length=joint, kept=SUBSEGMENTS * segments,
            rotary=rotary,
        )  # fmt: skip
        self._ids = {word: FIRST + i for i, word in enumerate(self.vocabulary)}
        self._scripts: Once[tuple[Tensor, Tensor, Script]] = Once(
            lambda data, rows: [self._read(data, int(row)) for row in rows]
        )

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        column = cls.columns(data)["subtitles"]
        texts = (data.modalities[column].values[row] or "" for row in rows)
        counted = Counter(word for text in texts for cue in subtitles(text, np.inf) for word in words(cue.text))
        if not counted:
            raise UserError("the subtitles have words", f"none in {len(rows)} training rows", "check the column")
        return cls(**{**options, "vocabulary": sorted(counted)})

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Videos:
        rng = rng or np.random.default_rng(0)
        read = self._scripts(data, rows)
        scripts = [script for _, _, script in read]
        written = np.roll(np.arange(len(rows)), 1)
        built = [
            build(
                script, [t for span in scripts[other].ids for word in span for t in word], rng, groups=self.groups,
                length=self.length, joint=self.joint, pieces=self.pieces, words=self.words, written_spans=self.segments,
            )
            for script, other in zip(scripts, written, strict=True)
        ]  # fmt: skip
        kinds = [
            Words(*(torch.stack(part) for part in zip(*(getattr(one, name) for one in built), strict=True)))
            for name in ("text2audio", "audio2text", "matching", "random_text")
        ]
        spans = torch.stack([one.text_spans for one in built])
        return self._videos([(images, audio) for images, audio, _ in read], kinds, spans)

    def loss(self, batch: Videos) -> Tensor:
        losses = self.network.losses(self.network(batch)[0])
        if not self.hear:
            losses.pop("text_to_audio")
        return torch.stack(list(losses.values())).sum()

    def validate(
        self, data: Dataset, rows: np.ndarray, batch_size: int, scatter: Scatter = alone, gather: Gather = whole
    ) -> dict[str, float]:
        """Mean loss of batches of the dev rows, and the accuracy over all of them; every process judges all."""
        cuts = np.array_split(rows, -(-len(rows) // batch_size))
        loss = float(np.mean([float(self.loss(self.to_device(self.batch(data, part)))) for part in cuts]))
        found = np.stack(list(self.predictions(data, rows)))
        return {"loss": loss, "score": float(self.make_judge().scores(found, None).mean())}

    def predict(self, data: Dataset, rows: np.ndarray) -> Sequence[np.ndarray]:
        """A span in the second half is left out; the sound around it, the words elsewhere and the frames are given."""
        read = self._scripts(data, rows)
        each = SUBSEGMENTS * self.segments // self.groups
        group = self.groups // 2
        asked, targets = [], []
        for row, (_, _, script) in zip(rows, read, strict=True):
            inside = range(group * each, (group + 1) * each)
            middle = [span for span in inside if script.ids[span] and span % SUBSEGMENTS == int(row) % SUBSEGMENTS]
            middle = middle or [span for span in inside if script.ids[span]] or [inside[0]]
            span = middle[len(middle) // 2]
            tokens = [
                (MASK, span, 0) if other == span and first else (token, other, -1)
                for other in inside
                for first, token in self._told(script, other, span)
            ][: self.length]
            asked.append(tokens + [(PAD, 0, -1)] * (self.length - len(tokens)))
            target = [t for word in script.ids[span] for t in word][: self.words]
            targets.append(target + [PAD] * (self.words - len(target)))
        ids, sound, text = torch.tensor(asked).unbind(dim=2)
        one = Words(ids[:, None], sound[:, None], text[:, None])
        batch = self.to_device(self._videos([(i, a) for i, a, _ in read], [one] * 4, torch.tensor(targets)[:, None]))
        x = self.network.asked(
            batch, slice(group * self.segments // self.groups, (group + 1) * self.segments // self.groups)
        )
        y = self.network.span_encoder(self.network.token_encoder(batch.text_spans[:, 0]), batch.text_spans[:, 0] != PAD)
        ids = batch.text_spans[:, 0].to(x)
        return list(torch.cat([F.normalize(x, dim=-1), F.normalize(y, dim=-1), ids], dim=-1).float().cpu().numpy())

    def make_judge(self, **options: Any) -> Judge:
        return LeftOutSpan(words=self.words)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Any = None) -> None:
        """Nothing: a prediction holds the words it is to find."""

    def _told(self, script: Script, other: int, span: int) -> list[tuple[bool, int]]:
        """What is given of a span: sound in the segment of the one that is asked for, words in the others."""
        if other == span:
            return [(True, MASK)]
        if self.hear and other // SUBSEGMENTS == span // SUBSEGMENTS:
            return [(False, AUDIOSPAN)] * self.pieces
        return [(False, token) for word in script.ids[other] for token in word]

    def _videos(self, read: Sequence[tuple[Tensor, Tensor]], kinds: Sequence[Words], spans: Tensor) -> Videos:
        images, audio = (torch.stack(part) for part in zip(*read, strict=True))
        if not self.see:
            images = torch.zeros_like(images)
        if not self.hear:
            audio = torch.zeros_like(audio)
        source = torch.zeros(len(images), self.segments, dtype=torch.long)
        if not self.script:
            source = torch.arange(self.segments).expand_as(source).clone()
        said, heard, matching, written = kinds
        return Videos(images, audio, said, heard, matching, written, spans, source)

    def _read(self, data: Dataset, row: int) -> tuple[Tensor, Tensor, Script]:
        """Patches ``(S h w, 3 p p)``, spectrograms ``(3 S frames, mels + 1)`` and the script of a row."""
        values: Mapping[str, Any] = {role: take(data, c, np.array([row]))[0] for role, c in self.columns(data).items()}
        where = f"row {data.ids[row]!r}"
        samples = read_clip(values["audio"], self.rate, f"audio of {where}")
        length = len(samples) / self.rate
        spans = spans_of(subtitles(values["subtitles"], length), self.segments, length)
        ids = [[[self._ids.get(w, UNKNOWN) for w in words(word.text)] for word in span] for span in spans]
        frames = read_frames(values["video"], self.segments, f"video of {where}")
        if len(frames) < self.segments:
            raise UserError(
                "a video has a frame for every segment",
                f"{where}: {len(frames)} frames, {self.segments} segments",
                "leave it out, or ask for fewer segments",
            )
        return self._patches(frames), self._mels(samples), Script(spans, ids, length)

    def _patches(self, frames: np.ndarray) -> Tensor:
        (h, w), p = self.grid, self.patch
        pixels = np.stack([resized(frame, (h * p, w * p)) for frame in frames]).astype(np.float32) / 255
        cut = torch.from_numpy(pixels).unflatten(1, (h, p)).unflatten(3, (w, p))
        return cut.transpose(2, 3).flatten(3).flatten(0, 2)

    @cached_property
    def _filters(self) -> np.ndarray:
        """Triangles on Slaney's mel scale, of equal area, from 20 Hz to half the rate."""
        from transformers.audio_utils import mel_filter_bank

        found: np.ndarray = mel_filter_bank(
            self.fft // 2 + 1, self.mels, 20.0, self.rate / 2, self.rate, "slaney", "slaney"
        )
        return found

    def _mels(self, samples: np.ndarray) -> Tensor:
        """``log(mel + .1) - log .1`` of three spans of each segment, with equal gaps, and the speed."""
        from transformers.audio_utils import spectrogram, window_function

        window, size = window_function(self.fft, "hann"), int(self.seconds * self.rate)
        found = []
        for segment in range(self.segments):
            middle = int((segment + 0.5) * len(samples) / self.segments)
            start = max(0, min(middle - size // 2, len(samples) - size))
            part = np.pad(samples[start : start + size], (0, max(0, size - len(samples))))
            mel = spectrogram(part, window, self.fft, self.hop, power=2.0, mel_filters=self._filters).T
            gap = (len(mel) - SUBSEGMENTS * self.frames) // (SUBSEGMENTS + 1)
            for third in range(SUBSEGMENTS):
                begin = gap + third * (self.frames + gap)
                found.append(np.log(mel[begin : begin + self.frames] + FLOOR) - np.log(FLOOR))
        mels = torch.from_numpy(np.concatenate(found).astype(np.float32))
        return torch.cat([mels, torch.full_like(mels[:, :1], SPEED)], dim=1)
