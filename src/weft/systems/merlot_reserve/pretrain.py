r"""MERLOT Reserve in pre-training: four kinds of sequences through one joint encoder, three contrastive losses.

A video is segments, each a frame and ``SUBSEGMENTS`` spans of sound and words; a group of segments is one sequence.

* text to audio: words; a chosen span is ``MASK MASKAUDIO``, whose outputs find the words and the sound of it;
* audio to text: sound (``AUDIOSPAN``, replaced by vectors of the span); a chosen span is ``MASK``, finding its words;
* matching: ``LTOVPOOL`` before every segment's words or sound, no frames; its output finds the segment's frame;
* random text: written words, whose ``MASK`` find spans as well.

With unit vectors times :math:`e^{s/2}`, :math:`s = \min(s_0, \log 100)`, each loss is, over all rows of all processes,

.. math::

    \tfrac12 \overline{\mathrm{LSE}_j(x_i y_j) - x_i y_i} + \tfrac12 \overline{\mathrm{LSE}_j(y_i x_j) - x_i y_i}

where the sound of spans that nobody asked for joins the first sum. Words of at most ``kept`` spans per video are asked
for: those present before those absent, of videos four times as likely as written ones.

Source: Zellers et al. 2022 (arXiv 2201.02639), sections 3.3 and 3.4; see :mod:`weft.systems.merlot_reserve.network`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.ops.contrastive import gather_with_grad, world_size
from weft.systems.merlot_reserve.network import (
    SPAN,
    Attention,
    AudioEncoder,
    Rotary,
    SpanEncoder,
    Transformer,
    VisionEncoder,
)

PAD, START, END, MASK, MASKAUDIO, AUDIOSPAN, LTOVPOOL = range(7)
SUBSEGMENTS = 3
TOKENS = 1024
LARGEST = math.log(100)
PRESENT, FROM_VIDEO = 1e6, math.log(4)
KINDS = ("text2audio", "audio2text", "random_text")


class Words(NamedTuple):
    """Sequences ``(B, groups, L)``: tokens, the span of sound each belongs to, the span of words it asks for, or -1."""

    ids: Tensor
    audio_ptr: Tensor
    text_ptr: Tensor


@dataclass
class Videos:
    """A batch of ``B`` videos of ``S`` segments.

    Attributes:
        images: patches ``(B, S * h * w, patch)``.
        audio: spectrograms of the spans, one after the other, ``(B, S * SUBSEGMENTS * frames, features)``.
        text2audio, audio2text: ``(B, groups, L)``.
        matching, random_text: ``(B, 1, L)``; their unused pointers are 0 and -1.
        text_spans: ``(B, n, words)``, of text2audio, audio2text and random_text in this order.
        source: ``(B, S)`` which film a segment is of; segments of different films do not hear each other.
    """

    images: Tensor
    audio: Tensor
    text2audio: Words
    audio2text: Words
    matching: Words
    random_text: Words
    text_spans: Tensor
    source: Tensor


class Pairs(NamedTuple):
    """Vectors that belong together ``(n, H)``, and further ones that ``x`` must tell from ``y``."""

    x: Tensor
    y: Tensor
    extra: Tensor | None = None


class MerlotNet(nn.Module):
    """All encoders.

    Args:
        vocabulary: tokens, the marks among them.
        patch, grid, pool: of frames, see :class:`~weft.systems.merlot_reserve.network.VisionEncoder`.
        features, audio_patch, audio_tokens: of sound: numbers of a frame, frames of a token, vectors of a span.
        frames: of the spectrogram of a span.
        width, head, rotary: see :class:`~weft.systems.merlot_reserve.network.Transformer`.
        layers: of the encoders of frames, sound, spans and all together.
        kept: spans of words that are asked for, per video.
        units: segments and tokens in which places of the joint encoder are counted: about as many as a sequence has,
            since places that are small parts of them look alike.
        scale: ``s`` of all losses at first.
        gain: times the first weights of what attention adds to a token. A few tokens that all start as themselves say
            nothing of what they hear, and small networks take long to leave that.
    """

    def __init__(
        self,
        vocabulary: int = 32768,
        *,
        patch: int = 768,
        grid: tuple[int, int] = (12, 20),
        pool: int = 2,
        features: int = 65,
        audio_patch: int = 2,
        audio_tokens: int = 6,
        frames: int = 60,
        width: int = 768,
        head: int = 64,
        layers: tuple[int, int, int, int] = (12, 12, 4, 12),
        kept: int = 48,
        rotary: Rotary = "official",
        units: tuple[int, int] = (SPAN, TOKENS),
        scale: float = 1.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if frames % (audio_patch * audio_tokens):
            raise UserError(
                "the windows of a span make whole vectors of its sound", f"frames={frames}, {audio_tokens} pieces",
                f"frames a multiple of {audio_patch * audio_tokens}",
            )  # fmt: skip
        self.frames, self.audio_tokens, self.kept, self.units = frames, audio_tokens, kept, units
        vision, audio, span, joint = layers
        self.token_encoder = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.token_encoder.weight, std=0.02)
        self.vision_encoder = VisionEncoder(patch, grid, width, vision, head=head, pool=pool, rotary=rotary)
        self.audio_encoder = AudioEncoder(
            features, width, audio, head=head, patch=audio_patch, pool=frames // audio_patch // audio_tokens,
            rotary=rotary,
        )  # fmt: skip
        self.span_encoder = SpanEncoder(width, span, head=head, rotary=rotary)
        self.joint_transformer = Transformer(width, joint, head=head, rotary=rotary)
        self.head = nn.Linear(width, width)
        self.contrastive_scales = nn.Parameter(torch.full((3,), float(scale)))
        for module in self.modules():
            if isinstance(module, Attention):
                module.attn_proj.weight.data *= gain

    def forward(self, batch: Videos, draw: Tensor | None = None) -> tuple[dict[str, Pairs], Tensor]:
        """Pairs of the three losses, and the kind of the sequence that asks for each span, an index of ``KINDS``.

        Args:
            batch: see :class:`Videos`.
            draw: ``(B, n)`` in (0, 1), for the choice of spans; None: drawn.
        """
        videos, segments = batch.source.shape
        groups = batch.text2audio.ids.shape[1]
        each = segments // groups
        seen, heard, frames, sound = self.encoded(batch)
        seen, frames = seen.flatten(0, 1), frames.flatten(0, 1)
        frames = frames.view(videos * groups, each, *frames.shape[1:])
        source = batch.source.view(videos * groups, each)

        kinds: list[Words] = [batch.text2audio, batch.audio2text, batch.matching, batch.random_text]
        prepared = [
            self.prepared(words, sound, frames, source)
            if place < 2
            else self.prepared(words, sound, counted=place == 2)
            for place, words in enumerate(kinds)
        ]
        outs = []
        for alike in (slice(0, 2), slice(2, 4)):
            parts = (torch.cat(part) for part in zip(*prepared[alike], strict=True))
            out = self.head(self.joint_transformer(*parts)).unflatten(0, (2, videos, -1))
            outs += [part[:, :, : one.ids.shape[2]] for part, one in zip(out, kinds[alike], strict=True)]

        found = {"imgs_to_audio": Pairs(outs[2][batch.matching.ids == LTOVPOOL], seen)}
        asking = (batch.text2audio.ids == MASKAUDIO).to(out)
        by_span = _gathered(outs[0], asking, batch.text2audio.audio_ptr, heard.shape[1])
        asked = torch.zeros_like(heard[:, :, 0]).scatter_add_(
            1, batch.text2audio.audio_ptr.flatten(1), asking.flatten(1)
        )
        order = (-(asked > 0).to(out)).argsort(dim=1, stable=True)
        ordered = [part.gather(1, order[..., None].expand_as(part)) for part in (by_span, heard)]
        chosen = heard.shape[1] // 4
        found["text_to_audio"] = Pairs(
            ordered[0][:, :chosen].flatten(0, 1),
            ordered[1][:, :chosen].flatten(0, 1),
            ordered[1][:, chosen:].flatten(0, 1),
        )
        spans = batch.text_spans
        vectors = torch.zeros(*spans.shape[:2], out.shape[-1], dtype=out.dtype, device=out.device)
        there = torch.zeros(spans.shape[:2], dtype=torch.bool, device=out.device)
        kind = torch.zeros(spans.shape[:2], dtype=torch.long, device=out.device)
        for number, (asks, part) in enumerate(
            zip((kinds[0], kinds[1], kinds[3]), (outs[0], outs[1], outs[3]), strict=True)
        ):
            asking = ((asks.ids == MASK) & (asks.text_ptr >= 0)).to(out)
            pointer = asks.text_ptr.clamp(min=0)
            vectors = vectors + _gathered(part, asking, pointer, spans.shape[1])
            asked = torch.zeros_like(vectors[:, :, 0]).scatter_add_(1, pointer.flatten(1), asking.flatten(1)) > 0
            there, kind = there | asked, torch.where(asked, number, kind)
        draw = torch.rand(spans.shape[:2], device=out.device) if draw is None else draw
        rank = there * PRESENT + (kind < 2) * FROM_VIDEO - (-draw.log()).log()
        best = rank.flatten().topk(min(self.kept * videos, rank.numel())).indices
        words_of = spans.flatten(0, 1)[best]
        found["stuff_to_span"] = Pairs(vectors.flatten(0, 1)[best], self.spoken(words_of))
        return found, kind.flatten()[best]

    def encoded(self, batch: Videos) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames ``(B, S, H)`` and sound ``(B, 3 S, H)``, each in one vector, then in several ``(..., n, H)``."""
        segments = batch.source.shape[1]
        seen, _, frames = self.vision_encoder(batch.images.unflatten(1, (segments, -1)).flatten(0, 1))
        heard, _, sound = self.audio_encoder(batch.audio.unflatten(1, (-1, self.frames)).flatten(0, 1))
        one, two, three, four = (part.unflatten(0, (len(batch.source), -1)) for part in (seen, heard, frames, sound))
        return one, two, three, four

    def asked(
        self, words: Words, mark: int, sound: Tensor, frames: Tensor | None = None, source: Tensor | None = None
    ) -> Tensor:
        """The outputs ``(B, H)`` at the only ``mark`` that asks (has a pointer) in sequences ``(B, 1, L)``.

        The rest is that of :meth:`prepared`, counted where there are no frames.
        """
        prepared = self.prepared(words, sound, frames, source, counted=frames is None)
        out: Tensor = self.head(self.joint_transformer(*prepared))
        return out[:, : words.ids.shape[2]][(words.ids[:, 0] == mark) & (words.text_ptr[:, 0] >= 0)]

    def spoken(self, ids: Tensor) -> Tensor:
        """Vectors ``(..., H)`` of spans of words ``(..., n)``, padded."""
        flat = ids.flatten(0, -2)
        found: Tensor = self.span_encoder(self.token_encoder(flat), flat != PAD)
        return found.unflatten(0, ids.shape[:-1])

    def prepared(
        self,
        words: Words,
        sound: Tensor,
        frames: Tensor | None = None,
        source: Tensor | None = None,
        *,
        counted: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Words and frames ``(B groups, T, H)``, their coordinates ``(..., 4)``, who hears whom ``(..., T, T)``.

        Args:
            words: the sequences.
            sound: vectors ``(B, spans, audio_tokens, H)`` of all spans of the videos.
            frames: ``(B groups, segments, P, H)``; None: no frames.
            source: ``(B groups, segments)`` film of a segment.
            counted: a token's segment is the number of ``LTOVPOOL`` up to it; else that of its sound.
        """
        ids, audio_ptr = words.ids.flatten(0, 1), words.audio_ptr.flatten(0, 1)
        groups = words.ids.shape[1]
        pieces = sound.repeat_interleave(groups, dim=0).flatten(1, 2)
        turn = ((ids == AUDIOSPAN).cumsum(dim=1) - 1).clamp(min=0) % self.audio_tokens
        place = (audio_ptr * self.audio_tokens + turn)[..., None].expand(-1, -1, pieces.shape[2])
        x = torch.where((ids == AUDIOSPAN)[..., None], pieces.gather(1, place), self.token_encoder(ids))
        each = 1 if frames is None else frames.shape[1]
        segment = (ids == LTOVPOOL).cumsum(dim=1) if counted else audio_ptr // SUBSEGMENTS % each
        index = torch.arange(1, ids.shape[1] + 1, device=ids.device).expand_as(ids) / self.units[1]
        nothing = torch.zeros_like(index)
        coordinates = torch.stack([nothing, nothing, segment / self.units[0], index], dim=-1)
        valid = ids != PAD
        film = torch.zeros_like(ids) if source is None else source.gather(1, segment)
        if frames is not None and source is not None:
            rows, segments, squares, _ = frames.shape
            where = self.vision_encoder.places().to(coordinates)[None].expand(segments, -1, -1)
            when = (torch.arange(segments, device=ids.device) / self.units[0])[:, None, None].expand(-1, squares, 1)
            own = torch.cat([where, when.to(where), torch.zeros_like(when).to(where)], dim=-1).flatten(0, 1)
            x = torch.cat([x, frames.flatten(1, 2)], dim=1)
            coordinates = torch.cat([coordinates, own.expand(rows, -1, -1)], dim=1)
            valid = torch.cat([valid, valid.new_ones(rows, segments * squares)], dim=1)
            film = torch.cat([film, source.repeat_interleave(squares, dim=1)], dim=1)
        mask = valid[:, :, None] & valid[:, None, :] & (film[:, :, None] == film[:, None, :])
        return x, coordinates, mask

    def losses(self, pairs: dict[str, Pairs]) -> dict[str, Tensor]:
        """The three losses of vectors as they are, see :func:`contrastive`; the total is their sum."""
        scales = self.contrastive_scales.clamp(max=LARGEST)
        return {
            name: contrastive(scaled(pairs[name], scale))
            for name, scale in zip(("imgs_to_audio", "text_to_audio", "stuff_to_span"), scales, strict=True)
        }


def scaled(pairs: Pairs, log_scale: Tensor) -> Pairs:
    """Unit vectors ``(n, D)`` times the root of the scale."""
    size = (log_scale / 2).exp()
    return Pairs(*(
        None if v is None else v * torch.rsqrt(v.square().sum(dim=-1, keepdim=True) + 1e-5) * size for v in pairs
    ))  # type: ignore[arg-type]  # fmt: skip


def contrastive(pairs: Pairs) -> Tensor:
    """The symmetric loss (a scalar) of the module's equation, of scaled vectors ``(n, D)``.

    It is that of the rows of all processes, the same on each; the mean of their gradients is that of one process.
    """
    if world_size() > 1:
        pairs = Pairs(*(None if rows is None else gather_with_grad(rows)[0] for rows in pairs))  # type: ignore[arg-type]
    x, y, extra = pairs
    own = (x * y).sum(dim=-1)
    others = y if extra is None else torch.cat([y, extra])
    there, back = (x @ others.T).logsumexp(dim=1), (y @ x.T).logsumexp(dim=1)
    return ((there - own).mean() + (back - own).mean()) / 2


def _gathered(out: Tensor, asking: Tensor, pointer: Tensor, spans: int) -> Tensor:
    """``(B, spans, H)``: for every span the sum of the outputs ``(B, groups, L, H)`` that ask for it."""
    flat = (out * asking[..., None]).flatten(1, 2)
    place = pointer.flatten(1)[..., None].expand_as(flat)
    return torch.zeros(len(out), spans, out.shape[-1], dtype=out.dtype, device=out.device).scatter_add(1, place, flat)
