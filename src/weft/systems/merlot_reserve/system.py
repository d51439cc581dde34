"""MERLOT Reserve as a system: videos with sound and subtitles, trained to find what was left out.

A prediction is what the network says of one span of a video, the words of which it is not given (or its sound, or its
frame: ``find``), beside what it says of the words: two unit vectors and the ids of the words, one after the other. The
judge asks how often the words are the nearest of those of all rows.

What a small network needs otherwise than the published one, to learn in minutes: places counted in units of its own
length (``units``), a temperature that moves faster than the weights (``scale_rate``), attention that is heard from the
start (``gain``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.data import Dataset
from weft.data.files import read_frames
from weft.encoders.audio import read_clip
from weft.errors import UserError
from weft.registry import Count, Learned
from weft.systems.images import resized
from weft.systems.merlot_reserve.network import Rotary, from_flax
from weft.systems.merlot_reserve.optimizer import BETAS, OfficialOptimizer
from weft.systems.merlot_reserve.pretrain import (
    AUDIOSPAN,
    LTOVPOOL,
    MASK,
    MASKAUDIO,
    PAD,
    START,
    SUBSEGMENTS,
    MerlotNet,
    Videos,
    Words,
)
from weft.systems.merlot_reserve.script import Script, Token, build, spans_of, stacked, subtitles
from weft.tasks.base import tasks
from weft.tasks.captions import words
from weft.tasks.judge import Judge
from weft.training.once import Once
from weft.training.phase import Optimizer, Phase
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
    grid=[12, 20] width=768 head=64 layers=[12, 12, 4, 12] length=160 joint=640 units=[16, 1024]
    scale=1 scale_rate=1 gain=1 adam=official``, trained with ``lr=4e-4 weight_decay=0.1 batch_size=1024 clip=0``.

    Args:
        segments, groups: of a video; longer videos are cut into so many parts of equal length.
        seconds: of a segment, that sound and frames are taken from.
        rate, fft, hop, mels, frames: of the spectrogram: samples per second, of a window, between windows, filters,
            windows of a span.
        pieces: vectors of the sound of a span.
        patch, grid: side of a patch in pixels, patches of a column and of a row.
        width, head, layers, rotary: see :class:`~weft.systems.merlot_reserve.pretrain.MerlotNet`.
        length, joint: tokens of a sequence with frames beside it, and of a whole one.
        units, scale, gain: see :class:`~weft.systems.merlot_reserve.pretrain.MerlotNet`.
        words: most words of a span.
        adam: ``"official"``: that of :mod:`~weft.systems.merlot_reserve.optimizer`; ``"usual"``: AdamW.
        scale_rate: times the learning rate, for ``scale``.
        see, hear, script: with frames; with sound; segments hear each other. Without: for comparison.
        find: what a prediction says of a span that was left out: its ``"words"``, its ``"sound"``, or the ``"frame"``.
        vocabulary: learned.
    """

    reads = {"video": Need("video"), "audio": Need("audio"), "subtitles": Need("text")}
    writes = "embedding"
    judge = "left-out-span"
    trained_with = {"lr": 4e-3, "weight_decay": 0.01, "epochs": 20, "batch_size": 16, "warmup": 0.1}
    variants = {
        "merlot-reserve": {}, "no frames": {"see": False}, "no sound": {"hear": False}, "no script": {"script": False},
    }  # fmt: skip
    paper = "Zellers et al. 2022, MERLOT Reserve (CVPR, arXiv 2201.02639)"

    def __init__(
        self,
        *,
        segments: Annotated[int, Field(ge=2)] = 4,
        groups: Annotated[int, Field(ge=1)] = 2,
        seconds: Annotated[float, Field(gt=0)] = 1.0,
        rate: Count = 4000,
        fft: Annotated[int, Field(ge=2)] = 256,
        hop: Count = 64,
        mels: Count = 24,
        frames: Count = 16,
        pieces: Count = 2,
        patch: Count = 8,
        grid: tuple[Count, Count] = (2, 2),
        width: Count = 64,
        head: Count = 16,
        layers: tuple[Count, Count, Count, Count] = (1, 1, 1, 1),
        length: Count = 16,
        joint: Count = 32,
        units: tuple[Count, Count] = (4, 32),
        scale: float = 2.0,
        scale_rate: Annotated[float, Field(ge=0)] = 3.0,
        gain: float = 3.0,
        words: Count = 4,
        rotary: Rotary = "correct",
        adam: Literal["usual", "official"] = "usual",
        see: bool = True,
        hear: bool = True,
        script: bool = True,
        find: Literal["words", "sound", "frame"] = "words",
        vocabulary: Learned[list[str] | None] = None,
    ) -> None:
        super().__init__()
        self.segments, self.groups, self.seconds, self.rate, self.fft, self.hop = (
            segments, groups, seconds, rate, fft, hop
        )  # fmt: skip
        self.mels, self.frames, self.pieces, self.patch, self.grid = mels, frames, pieces, patch, grid
        self.width, self.head, self.layers, self.length, self.joint = width, head, layers, length, joint
        self.words, self.rotary, self.see, self.hear, self.script = words, rotary, see, hear, script
        self.vocabulary, self.units, self.scale, self.scale_rate = vocabulary or [], units, scale, scale_rate
        self.gain, self.adam, self.find = gain, adam, find
        windows = 1 + int(seconds * rate) // hop
        if windows < SUBSEGMENTS * frames:
            raise UserError(
                "the sound of a segment holds its spans",
                f"{windows} windows in {seconds} seconds, {SUBSEGMENTS} spans of {frames}",
                "fewer frames, a smaller hop, or longer segments",
            )
        heard = segments * (1 + SUBSEGMENTS * pieces)
        if joint < heard:
            raise UserError(
                "a whole sequence holds the sound of its segments", f"joint={joint}, {segments} segments",
                f"joint={heard} or more, or fewer pieces",
            )  # fmt: skip
        self.network = MerlotNet(
            FIRST + len(self.vocabulary), patch=3 * patch * patch, grid=grid, features=mels + 1, audio_tokens=pieces,
            frames=frames, width=width, head=head, layers=layers, kept=SUBSEGMENTS * segments,
            rotary=rotary, units=units, scale=scale, gain=gain,
        )  # fmt: skip
        self.ids = {word: FIRST + i for i, word in enumerate(self.vocabulary)}
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

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], vocabulary: Sequence[str] | None = None, **options: Any
    ) -> Self:
        """The published network from its weights, named ``a.b.kernel``; sizes that their shapes show are read there.

        Args:
            state: all tensors of the pre-trained model.
            vocabulary: of ids from 10 on, as the published tokenizer has them; None: their numbers.
            options: those that no shape shows: ``grid``, ``frames``, ``pieces``, spectrogram and segments.

        Raises:
            UserError: names or shapes are not those of the published network.
        """
        try:
            weights = from_flax(state)
            bodies = [f"{kind}_encoder.transformer.body.layers." for kind in ("vision", "audio", "span")]
            numbers = [
                [int(name.removeprefix(body).partition(".")[0]) for name in weights if name.startswith(body)]
                for body in (*bodies, "joint_transformer.layers.")
            ]
            vision, audio, span, both = (1 + max(some) for some in numbers)
            count, width = weights["token_encoder.weight"].shape
            head = next(v.shape[-1] for n, v in state.items() if n.endswith("qkv.kernel"))
            patch = round((weights["vision_encoder.embedding.weight"].shape[1] / 3) ** 0.5)
            known = list(vocabulary) if vocabulary is not None else [str(i) for i in range(FIRST, count)]
            options = {"units": (16, 1024), "rotary": "official", "gain": 1.0, "scale": 1.0, **options}
            found = cls(
                vocabulary=known, width=width, head=head, patch=patch, layers=(vision, audio, span, both), **options
            )
            found.network.load_state_dict(weights)
        except (KeyError, IndexError, RuntimeError, StopIteration, ValueError) as error:
            raise UserError(
                "weights have the names and shapes of the published network", f"{len(state)} tensors: {error}",
                "give all of a checkpoint, and the options that no shape shows as it was trained",
            ) from error  # fmt: skip
        return found.eval()

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

    def phases(self) -> list[Phase]:
        made = OfficialOptimizer if self.adam == "official" else Optimizer
        faster = [(self.scale_rate, [self.network.contrastive_scales])]
        moves = made(list(self.parameters()), betas=BETAS, layers=faster)
        return [Phase("loss", self.loss, moves)]

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
        """What is said of a span of the second half, or of the frame of its segment, beside what it is.

        For words the sound around them, the words elsewhere and the frames are given; for sound the words elsewhere and
        the frames; for a frame the words of all segments.
        """
        videos, scripts = self.without_sequences(data, rows)
        chosen = [self._chosen(script, int(row)) for row, script in zip(rows, scripts, strict=True)]
        batch = self.to_device(videos)
        seen, heard, frames, sound = self.network.encoded(batch)
        numbers, own = torch.from_numpy(np.asarray(rows)), self._half()
        if self.find == "frame":
            words = self.one([self._pooled(s, span) for s, span in zip(scripts, chosen, strict=True)])
            x = self.network.asked(words, LTOVPOOL, sound)
            y = seen[torch.arange(len(rows)), [span // SUBSEGMENTS for span in chosen]]
        else:
            mark = MASK if self.find == "words" else MASKAUDIO
            words = self.one([self._told(s, span) for s, span in zip(scripts, chosen, strict=True)])
            x = self.network.asked(words, mark, sound, frames[:, own], batch.source[:, own])
            y = heard[torch.arange(len(rows)), chosen]
        ids = F.pad(numbers[:, None] + FIRST, (0, self.words - 1))
        if self.find == "words":
            ids = self.padded([[t for w in s.ids[span] for t in w] for s, span in zip(scripts, chosen, strict=True)])
            y = self.network.spoken(ids.to(x.device))
        found = [F.normalize(x, dim=-1), F.normalize(y, dim=-1), ids.to(x)]
        return list(torch.cat(found, dim=-1).float().cpu().numpy())

    def make_judge(self, **options: Any) -> Judge:
        return LeftOutSpan(words=self.words)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Any = None) -> None:
        """Nothing: a prediction holds the words it is to find."""

    def _half(self) -> slice:
        """The segments of the group that is asked about."""
        each = self.segments // self.groups
        return slice(self.groups // 2 * each, (self.groups // 2 + 1) * each)

    def _chosen(self, script: Script, row: int) -> int:
        """The span that is left out of a row: one with words, of the third that the row's number says."""
        inside = range(SUBSEGMENTS * self._half().start, SUBSEGMENTS * self._half().stop)
        able = [span for span in inside if script.ids[span] and span % SUBSEGMENTS == row % SUBSEGMENTS]
        able = able or [span for span in inside if script.ids[span]] or [inside[0]]
        return able[len(able) // 2]

    def _told(self, script: Script, asked: int) -> list[Token]:
        """A group with a span left out; for its words, the rest of its segment is given in sound."""
        found: list[Token] = []
        for span in range(SUBSEGMENTS * self._half().start, SUBSEGMENTS * self._half().stop):
            if span == asked:
                found += [(MASK, span, 0), *([(MASKAUDIO, span, 0)] if self.find == "sound" else [])]
            elif self.find == "words" and self.hear and span // SUBSEGMENTS == asked // SUBSEGMENTS:
                found += [(AUDIOSPAN, span, -1)] * self.pieces
            else:
                found += [(token, span, -1) for word in script.ids[span] for token in word]
        return found

    def _pooled(self, script: Script, asked: int) -> list[Token]:
        """All words; the mark before those of the asked span's segment is the one whose frame is wanted."""
        found: list[Token] = [(START, 0, -1)]
        for span, said in enumerate(script.ids):
            if span % SUBSEGMENTS == 0:
                found.append((LTOVPOOL, span, 0 if span // SUBSEGMENTS == asked // SUBSEGMENTS else -1))
            found += [(token, span, -1) for word in said for token in word]
        return found

    def one(self, tokens: Sequence[Sequence[Token]]) -> Words:
        """Sequences ``(B, 1, L)``, as long as the longest."""
        found = stacked(tokens, max(map(len, tokens)))
        return self.to_device(Words(*(part[:, None] for part in found)))

    def padded(self, ids: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """Spans of words ``(n, length)``; longer ones are cut."""
        length = length or self.words
        return torch.tensor([(list(one) + [PAD] * length)[:length] for one in ids])

    def without_sequences(self, data: Dataset, rows: np.ndarray) -> tuple[Videos, list[Script]]:
        """What is seen and heard of rows, and what is said."""
        read = self._scripts(data, rows)
        nothing = torch.zeros(len(rows), 1, 0, dtype=torch.long)
        videos = self._videos([(i, a) for i, a, _ in read], [Words(nothing, nothing, nothing)] * 4, nothing)
        return videos, [script for _, _, script in read]

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
        ids = [[[self.ids.get(w, UNKNOWN) for w in words(word.text)] for word in span] for span in spans]
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
        window, size = np.hanning(self.fft + 1)[:-1], int(self.seconds * self.rate)
        found = []
        for segment in range(self.segments):
            middle = int((segment + 0.5) * len(samples) / self.segments)
            start = max(0, min(middle - size // 2, len(samples) - size))
            part = np.pad(samples[start : start + size], (0, max(0, size - len(samples))))
            padded = np.pad(part, self.fft // 2, mode="reflect")
            windows = np.lib.stride_tricks.sliding_window_view(padded, self.fft)[:: self.hop] * window
            mel = np.square(np.abs(np.fft.rfft(windows))) @ self._filters
            gap = (len(mel) - SUBSEGMENTS * self.frames) // (SUBSEGMENTS + 1)
            for third in range(SUBSEGMENTS):
                begin = gap + third * (self.frames + gap)
                found.append(np.log(mel[begin : begin + self.frames] + FLOOR) - np.log(FLOOR))
        mels = torch.from_numpy(np.concatenate(found).astype(np.float32))
        return torch.cat([mels, torch.full_like(mels[:, :1], SPEED)], dim=1)
