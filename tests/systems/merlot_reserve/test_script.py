"""Subtitles to words, words to spans, and what the four kinds of sequences hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.errors import UserError
from weft.systems.merlot_reserve.pretrain import AUDIOSPAN, LTOVPOOL, MASK, MASKAUDIO, PAD, MerlotNet, Videos, Words
from weft.systems.merlot_reserve.script import Script, Word, build, lend, spans_of, subtitles

SRT = """1
00:00:00,500 --> 00:00:01,500
<b>one two</b>

2
00:00:04,000 --> 00:00:06,000
three {\\an8}four
"""


def script(rng: np.random.Generator, segments: int = 4, most: int = 4) -> Script:
    """Words of one token each, 10 and up, at random times."""
    seconds, count = 5.0 * segments, 3 * segments
    spans = []
    for span in range(count):
        times = np.sort(rng.uniform(span, span + 1, rng.integers(most)) * seconds / count)
        spans.append([Word(f"w{span}", t, t) for t in times])
    ids = [[[int(rng.integers(10, 60))] for _ in span] for span in spans]
    return Script(spans, ids, seconds)


def made(seed: int, **options):
    rng = np.random.default_rng(seed)
    given = {"groups": 2, "length": 40, "joint": 60, "pieces": 2, "words": 4, "written_spans": 4}
    told = script(rng)
    return told, build(told, rng.integers(10, 60, 30).tolist(), rng, **{**given, **options})


def test_subtitles():
    words = subtitles(SRT, 10.0)
    assert [w.text for w in words] == ["one", "two", "three", "four"]
    assert [w.start for w in words] == [0.5, 1.0, 4.0, 5.0]
    vtt = "WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.000 align:left\nhello\n"
    assert subtitles(vtt, 5.0) == [Word("hello", 1.0, 2.0)]
    assert [w.middle for w in subtitles("a b", 4.0)] == [1.0, 3.0]
    for bad in ("00:00:03,000 --> 00:00:02,000\nx", "00:00:30,000 --> 00:00:31,000\nx"):
        with pytest.raises(UserError, match="inside its video"):
            subtitles(bad, 10.0)


def test_spans_are_nearest_and_in_order():
    words = [Word("a", 0, 1), Word("b", 4.6, 4.8), Word("c", 1.0, 1.2)]
    found = spans_of(words, 1, 6.0)
    assert [[w.text for w in span] for span in found] == [["a"], [], ["b", "c"]], "never back in time"


def test_an_asked_span_takes_from_its_neighbours():
    """An empty one takes a word of a neighbour with two; a full one those at its border; an only word stays."""
    spans = [[Word("a", 0.2, 0.2), Word("b", 0.6, 0.6)], [], [Word("c", 2.05, 2.05)]]
    told = Script(spans, [[[10], [11]], [], [[12]]], 3.0)
    assert lend(told, {1}) == [[[10]], [[11], [12]], []]
    alone = Script([[Word("a", 0.2, 0.2)], [], []], [[[10]], [], []], 3.0)
    assert lend(alone, {1}) == [[[10]], [], []]


@pytest.mark.parametrize("seed", range(5))
def test_what_sequences_hold(seed):
    told, found = made(seed)
    count, asked = len(told.spans), len(told.spans) // 4
    ids, sound, text = found.text2audio
    assert (ids == MASK).sum() == (ids == MASKAUDIO).sum() == asked
    at = ids == MASK
    assert sorted(text[at].tolist()) == list(range(asked))
    for span, target in zip(sound[at].tolist(), text[at].tolist(), strict=True):
        wanted = [t for word in lend(told, set(sound[at].tolist()))[span] for t in word][:4]
        assert found.text_spans[target][: len(wanted)].tolist() == wanted
    heard, where, asks = found.audio2text
    assert sorted(asks[heard == MASK].tolist()) == list(range(asked, 2 * asked))
    assert not set(where[heard == MASK].tolist()) & set(sound[at].tolist()), "no span is asked for in both directions"
    assert torch.bincount(where[heard == AUDIOSPAN], minlength=count).unique().tolist() in ([0, 2], [2])
    assert (found.matching.ids == LTOVPOOL).sum() == told.segments
    written = found.random_text
    assert written.text_ptr[written.ids == MASK].tolist() == list(
        range(2 * asked, 2 * asked + (written.ids == MASK).sum())
    )
    assert found.text_spans.shape == (2 * asked + 4, 4)


def test_too_long_sequences_keep_what_asks():
    _, found = made(1, length=9, joint=10)
    assert found.text2audio.ids.shape == (2, 9)
    assert (found.text2audio.ids == MASK).sum() == 3
    assert (found.matching.ids == LTOVPOOL).sum() == 4
    with pytest.raises(UserError, match="whole groups"):
        made(1, groups=3)


def test_a_step_of_what_was_built():
    """Two videos through the whole network: all losses finite, every weight moved."""
    torch.manual_seed(0)
    built = [made(seed)[1] for seed in (0, 1)]
    kinds = [
        Words(*(torch.stack(part) for part in zip(*(getattr(one, name) for one in built), strict=True)))
        for name in ("text2audio", "audio2text", "matching", "random_text")
    ]
    net = MerlotNet(60, patch=12, grid=(2, 4), audio_tokens=2, frames=8, width=32, head=16, layers=(1, 1, 1, 1), kept=6)
    batch = Videos(
        torch.rand(2, 4 * 8, 12), torch.rand(2, 12 * 8, 65), *kinds, torch.stack([one.text_spans for one in built]),
        torch.zeros(2, 4, dtype=torch.long),
    )  # fmt: skip
    losses = net.losses(net(batch)[0])
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert all(name.endswith("key.bias") for name in still), still
    assert (built[0].text2audio.ids != PAD).any()
