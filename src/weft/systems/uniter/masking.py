"""What is hidden in a step of pre-training: words or regions, never both.

Draws follow the published code one by one, from a generator of Python's :mod:`random`, so that its traces repeat.

Source: Chen et al., "UNITER", ECCV 2020, arXiv 1909.11740; Devlin et al., "BERT", NAACL 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

SHARE = 0.15
NOT_ASKED = -1


def mask_words(
    words: Sequence[int], rng: Random, *, mask: int, vocabulary: range, share: float = SHARE
) -> tuple[list[int], list[int]]:
    """Word pieces (without [CLS] and [SEP]) as they are shown, and the labels: what they were, -1 where not asked.

    Of the ``share`` that is asked, 80 % become ``mask``, 10 % a word of ``vocabulary``, 10 % stay. If none is drawn,
    the first is masked.
    """
    shown, labels = list(words), [NOT_ASKED] * len(words)
    for place, word in enumerate(words):
        draw = rng.random()
        if draw >= share:
            continue
        labels[place] = word
        if draw / share < 0.8:
            shown[place] = mask
        elif draw / share < 0.9:
            shown[place] = rng.choice(vocabulary)
    if words and all(label == NOT_ASKED for label in labels):
        shown[0], labels[0] = mask, words[0]
    return shown, labels


def mask_regions(count: int, rng: Random, *, share: float = SHARE) -> list[bool]:
    """Which of ``count`` regions are hidden: each with probability ``share``; one of them, if none is drawn."""
    hidden = [rng.random() < share for _ in range(count)]
    if count and not any(hidden):
        hidden[rng.choice(range(count))] = True
    return hidden
