"""What METER hides in pre-training: whole words, and patches of the image.

Source: Dou et al., METER, CVPR 2022, arXiv 2111.02387. The published code counts padding among the pieces to be drawn,
so a short caption may have nothing hidden; here the share is of its own pieces, and one word at least.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

import torch
from torch import Tensor

SHARE = 0.15
NOT_ASKED = -100


def mask_whole_words(
    pieces: Sequence[int],
    rng: Random,
    *,
    mask: int,
    ordinary: Sequence[int],
    continues: Collection[int] = (),
    share: float = SHARE,
) -> tuple[list[int], list[int]]:
    """Pieces (without special ones) as they are shown, and the labels: what they were, -100 where not asked.

    Words are taken in random order until ``share`` of the pieces are asked, and a word that would be more is left out.
    Of each piece, 80 % become ``mask``, 10 % one of ``ordinary``, 10 % stay.

    Args:
        pieces: ids.
        rng: what draws.
        mask: id of [MASK].
        ordinary: ids that may stand in.
        continues: ids that go on a word (``##ing``); they are asked with it.
        share: of the pieces.
    """
    words: list[list[int]] = []
    for place, piece in enumerate(pieces):
        if words and piece in continues:
            words[-1].append(place)
        else:
            words.append([place])
    rng.shuffle(words)
    room = max(1, round(share * len(pieces)))
    shown, labels = list(pieces), [NOT_ASKED] * len(pieces)
    asked = 0
    for word in words:
        if asked and asked + len(word) > room:
            continue
        asked += len(word)
        for place in word:
            labels[place], draw = pieces[place], rng.random()
            shown[place] = mask if draw < 0.8 else rng.choice(ordinary) if draw < 0.9 else pieces[place]
        if asked >= room:
            break
    return shown, labels


def mask_patches(mask: Tensor, rng: Random, share: float = SHARE) -> Tensor:
    """``(B, N)`` bool, the patches to hide: ``share`` of those of every row of ``mask``, and one at least."""
    hidden = torch.zeros_like(mask)
    for row, there in enumerate(mask):
        places = there.nonzero()[:, 0].tolist()
        for place in rng.sample(places, max(1, round(share * len(places)))):
            hidden[row, place] = True
    return hidden


def hide(image: Tensor, hidden: Tensor, patch: int | None = None) -> Tensor:
    """The image without its hidden patches: zeros, which is the mean of standardised values.

    Args:
        image: ``(B, 3, R, R)`` with the side of a patch, or tokens ``(B, N, D)`` without.
        hidden: ``(B, N)``.
        patch: pixels along a side.
    """
    if patch is None:
        return image.masked_fill(hidden.unsqueeze(-1), 0.0)
    side = image.shape[-1] // patch
    grid = hidden.view(-1, 1, side, side)
    return image.masked_fill(grid.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3), 0.0)
