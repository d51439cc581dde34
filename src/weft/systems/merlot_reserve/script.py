r"""Videos as scripts: which words are said in which span, and the four kinds of sequences for pre-training.

A video of ``S`` segments has ``3 S`` spans of sound. A word belongs to the span whose middle is nearest to its own, and
never to an earlier one than the word before it. A quarter of the spans is asked for in each direction, none in both.

* Before words are masked, an asked span without words takes one of a neighbour that has two or more, and a word of a
  neighbour whose middle is within ``NEAR`` seconds of the border.
* Where sound is given, the neighbours of an asked span are given as words with probability ``SAID``, so that the span
  does not leak into its neighbours' sound.
* Sequences that are too long lose tokens that ask for nothing, from both ends in turn.

Source: Zellers et al. 2022 (arXiv 2201.02639), section 3.3 and its appendix; see
:mod:`weft.systems.merlot_reserve.pretrain`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError
from weft.systems.merlot_reserve.pretrain import (
    AUDIOSPAN,
    LTOVPOOL,
    MASK,
    MASKAUDIO,
    PAD,
    START,
    SUBSEGMENTS,
    Words,
)  # fmt: skip

NEAR = 0.125
SAID = 0.8
HEARD = 0.5
SHARE = 0.25
LONGEST_SPAN = 15
MEAN_SPAN = 5.0

STAMP = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})")


class Word(NamedTuple):
    """What is said, and when, in seconds."""

    text: str
    start: float
    end: float

    @property
    def middle(self) -> float:
        """Halfway."""
        return (self.start + self.end) / 2


def subtitles(text: str, seconds: float) -> list[Word]:
    """Words of an SRT or WebVTT text; of a text without times, evenly over ``seconds``.

    The words of a cue share its time. Tags, numbers of cues, headers and notes are left out.

    >>> [word.text for word in subtitles("1\\n00:00:01,000 --> 00:00:02,000\\n<i>hello</i> there\\n", 5.0)]
    ['hello', 'there']

    Raises:
        UserError: a cue ends before it starts, or lies outside the video.
    """
    if "-->" not in text:
        return _spread(text, 0.0, seconds)
    found: list[Word] = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        rows = block.split("\n")
        at = next((i for i, row in enumerate(rows) if "-->" in row), None)
        if at is None:
            continue
        stamps = [_seconds(stamp) for stamp in STAMP.findall(rows[at])[:2]]
        if len(stamps) != 2 or stamps[1] < stamps[0] or stamps[0] > seconds:
            raise UserError(
                "a subtitle lies inside its video and ends after it starts",
                f"{rows[at]!r} in a video of {seconds:.1f} seconds",
                "correct the time, or leave the subtitle out",
            )
        found += _spread(re.sub(r"<[^>]*>|\{[^}]*\}", "", " ".join(rows[at + 1 :])), stamps[0], min(stamps[1], seconds))
    return found


def spans_of(words: Sequence[Word], segments: int, seconds: float) -> list[list[Word]]:
    """The words of each of the ``3 segments`` equal spans of a video, in order."""
    count = SUBSEGMENTS * segments
    found: list[list[Word]] = [[] for _ in range(count)]
    last = 0
    for word in words:
        nearest = min(count - 1, max(0, int(word.middle / seconds * count)))
        last = max(last, nearest)
        found[last].append(word)
    return found


@dataclass
class Script:
    """The text side of a video.

    Attributes:
        spans: words of each span.
        ids: their tokens, per span and word.
        seconds: length of the video.
    """

    spans: list[list[Word]]
    ids: list[list[list[int]]]
    seconds: float

    @property
    def segments(self) -> int:
        """How many there are."""
        return len(self.spans) // SUBSEGMENTS


@dataclass
class Sequences:
    """The sequences of one video and a written text, see :class:`~weft.systems.merlot_reserve.pretrain.Videos`."""

    text2audio: Words
    audio2text: Words
    matching: Words
    random_text: Words
    text_spans: Tensor


Token = tuple[int, int, int]
"""An id, the span of sound it belongs to, and the span of words it asks for, or -1."""


def build(
    script: Script,
    written: Sequence[int],
    rng: np.random.Generator,
    *,
    groups: int,
    length: int,
    joint: int,
    pieces: int,
    words: int = LONGEST_SPAN,
    written_spans: int = 38,
    prefix: Sequence[int] = (),
) -> Sequences:
    """All four kinds of a video.

    Args:
        script: of the video.
        written: tokens of a text that has nothing to do with it.
        rng: every draw.
        groups: sequences a video is cut into.
        length: tokens of a sequence that has frames beside it.
        joint: tokens of one that has none.
        pieces: tokens of the sound of a span.
        words: tokens of a span of words that is asked for; longer ones are cut.
        written_spans: most spans that a written text is asked for.
        prefix: tokens of title and description.

    Raises:
        UserError: the segments do not make whole groups.
    """
    if script.segments % groups:
        raise UserError(
            "the segments of a video make whole groups", f"{script.segments} segments, {groups} groups", "change one"
        )
    count = len(script.spans)
    asked = int(count * SHARE)
    order = rng.permutation(count)
    for_words, for_sound = np.sort(order[:asked]), np.sort(order[asked : 2 * asked])
    lent = lend(script, set(for_words.tolist()))
    said_there = [lent[span] for span in for_words] + [script.ids[span] for span in for_sound]
    targets = [[token for word in span for token in word] for span in said_there]
    own = {int(span): i for i, span in enumerate(for_words)}
    other = {int(span): asked + i for i, span in enumerate(for_sound)}
    said, heard = [], []
    for group in np.array_split(np.arange(count), groups):
        tokens = [token for span in group for token in _masked(int(span), lent, own)]
        said.append(_trimmed(tokens, length))
        tokens = [token for span in group for token in _sounding(int(span), script.ids, other, pieces, rng)]
        heard.append(_trimmed(tokens, length))
    random, spans = _written(written, rng, 2 * asked, written_spans)
    targets = (targets + spans + [[]] * written_spans)[: 2 * asked + written_spans]
    table = torch.tensor([(target + [PAD] * words)[:words] for target in targets])
    return Sequences(
        stacked(said, length), stacked(heard, length),
        stacked([_trimmed(_matching(script, prefix, pieces, rng), joint)], joint),
        stacked([random[:joint]], joint), table,
    )  # fmt: skip


def lend(script: Script, asked: set[int]) -> list[list[list[int]]]:
    """Tokens per span and word, after asked spans have taken what their neighbours lend."""
    words, ids = [list(span) for span in script.spans], [list(span) for span in script.ids]
    for span in sorted(asked):
        for other, end in ((span - 1, -1), (span + 1, 0)):
            if not 0 <= other < len(words) or other in asked or not words[other]:
                continue
            border = max(span, other) / len(words) * script.seconds
            near = abs(words[other][end].middle - border) <= NEAR
            if (not words[span] and len(words[other]) > 1) or (near and words[span]):
                at = len(words[span]) if end == 0 else 0
                words[span].insert(at, words[other].pop(end))
                ids[span].insert(at, ids[other].pop(end))
    return ids


def _masked(span: int, ids: list[list[list[int]]], asked: dict[int, int]) -> list[Token]:
    if span in asked:
        return [(MASK, span, asked[span]), (MASKAUDIO, span, -1)]
    return [(token, span, -1) for word in ids[span] for token in word]


def _sounding(
    span: int, ids: list[list[list[int]]], asked: dict[int, int], pieces: int, rng: np.random.Generator
) -> list[Token]:
    if span in asked:
        return [(MASK, span, asked[span])]
    if (span - 1 in asked or span + 1 in asked) and rng.random() < SAID:
        return [(token, span, -1) for word in ids[span] for token in word]
    return [(AUDIOSPAN, span, -1)] * pieces


def _matching(script: Script, prefix: Sequence[int], pieces: int, rng: np.random.Generator) -> list[Token]:
    tokens: list[Token] = [(START, 0, -1), *((token, 0, -1) for token in prefix)]
    for segment in range(script.segments):
        spans = range(SUBSEGMENTS * segment, SUBSEGMENTS * (segment + 1))
        tokens.append((LTOVPOOL, spans[0], -1))
        if rng.random() < HEARD:
            tokens += [(AUDIOSPAN, span, -1) for span in spans for _ in range(pieces)]
        else:
            tokens += [(token, span, -1) for span in spans for word in script.ids[span] for token in word]
    return tokens


def _written(
    ids: Sequence[int], rng: np.random.Generator, first: int, most: int
) -> tuple[list[Token], list[list[int]]]:
    """A written text with a quarter of its spans asked for; spans are of 1 to 15 tokens, 5 on average."""
    cuts, at = [], 0
    while at < len(ids):
        size = min(LONGEST_SPAN, int(rng.geometric(1 / MEAN_SPAN)))
        cuts.append(list(ids[at : at + size]))
        at += size
    asked = set(rng.permutation(len(cuts))[: min(most, int(np.ceil(len(cuts) * SHARE)))].tolist())
    tokens: list[Token] = []
    spans: list[list[int]] = []
    for number, cut in enumerate(cuts):
        if number in asked:
            tokens.append((MASK, 0, first + len(spans)))
            spans.append(cut)
        else:
            tokens += [(token, 0, -1) for token in cut]
    return tokens, spans


def _trimmed(tokens: list[Token], length: int) -> list[Token]:
    """At most ``length`` tokens: those that ask for nothing and are no sound go first, from both ends in turn."""
    kept = list(tokens)
    fixed = (MASK, MASKAUDIO, AUDIOSPAN, LTOVPOOL)
    front = False
    while len(kept) > length:
        front = not front
        places = range(len(kept)) if front else range(len(kept) - 1, -1, -1)
        kept.pop(next((i for i in places if kept[i][0] not in fixed), len(kept) - 1))
    return kept


def stacked(sequences: Sequence[Sequence[Token]], length: int) -> Words:
    """Sequences ``(n, length)``, padded."""
    filled = [[*sequence, *[(PAD, 0, -1)] * (length - len(sequence))] for sequence in sequences]
    ids, sound, text = torch.tensor(filled).unbind(dim=2)
    return Words(ids, sound, text)


def _seconds(stamp: tuple[str, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in stamp)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000


def _spread(text: str, start: float, end: float) -> list[Word]:
    words = text.split()
    edges = np.linspace(start, end, len(words) + 1)
    return [Word(word, float(a), float(b)) for word, a, b in zip(words, edges[:-1], edges[1:], strict=True)]
