"""Positive pairs of captions: sentences about one image that also mean the same.

For every image, in order, and its captions ``c_1 .. c_n`` with unit sentence vectors ``v``: the pair ``(c_i, c_i)`` for
every ``i``, and for every ``j > i`` with ``v_i . v_j >= threshold`` the pairs ``(c_i, c_j)`` and ``(c_j, c_i)``. Every
different sentence is embedded once, in one call (the original embeds one sentence per call, inside the double loop).

Source: Faye, Azzag, Lebbah, Bouchaffra, "Lightweight Cross-Modal Representation Learning", ESANN 2024,
arXiv 2403.04650, where the vectors are those of all-MiniLM-L6-v2 and the threshold is 0.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from weft.errors import UserError, some


class CaptionPair(NamedTuple):
    """Captions ``first`` and ``second`` of image ``image``, by number."""

    image: int
    first: int
    second: int


def positive_pairs(
    captions: Sequence[Sequence[str]],
    embed: Callable[[list[str]], np.ndarray],
    threshold: float = 0.7,
    *,
    identical: bool = True,
) -> Iterator[CaptionPair]:
    """The positive pairs of every image.

    Args:
        captions: the captions of each image.
        embed: sentences -> ``(n, D)`` vectors, of any length.
        threshold: least cosine of a pair, in [-1, 1].
        identical: keep the pairs of a caption with itself.

    Raises:
        UserError: an empty caption (the images are named by number), or a threshold that is no cosine.
    """
    if not -1 <= threshold <= 1:
        raise UserError("the threshold of positive pairs is a cosine", f"threshold={threshold}", "the original has 0.7")
    empty = [image for image, group in enumerate(captions) if any(not text.strip() for text in group)]
    if empty:
        raise UserError("a caption is empty", f"images {some(empty)}", "drop the empty captions")
    sentences = list(dict.fromkeys(text for group in captions for text in group))
    if not sentences:
        return
    vectors = np.asarray(embed(sentences), dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    row = {text: i for i, text in enumerate(sentences)}
    for image, group in enumerate(captions):
        v = vectors[[row[text] for text in group]]
        alike = v @ v.T >= threshold
        for i in range(len(group)):
            if identical:
                yield CaptionPair(image, i, i)
            for j in range(i + 1, len(group)):
                if alike[i, j]:
                    yield CaptionPair(image, i, j)
                    yield CaptionPair(image, j, i)


def captions_of(annotations: dict[str, Any], most: int | None = 5) -> list[tuple[str, list[str]]]:
    """File name and first ``most`` captions (None: all) of every image of a COCO listing, images in file order."""
    found: dict[int, list[str]] = {image["id"]: [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        found[annotation["image_id"]].append(annotation["caption"])
    return [(image["file_name"], found[image["id"]][:most]) for image in annotations["images"]]
