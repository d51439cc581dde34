r"""The retrieval curve of LightCRL, as published and corrected.

There, captions search a list in which every image stands once per caption (five times), and a caption is answered by
its own row of that list. With ``r`` unique images strictly more similar than the right one, and ``c`` rows per image,
``c r`` rows are; the caption counts at ``k`` iff ``c r < k``.

* Published: each batch of captions overwrites the result of the one before, so the curve is that of the *last* batch
  alone, ``N mod batch`` captions. In the other direction *row* ``i`` of the repeated images is compared with the
  captions of *image* ``i``, so nearly nothing is ever right, and in the last batch nothing at all: its row numbers lie
  beyond the images. (One published notebook has 0.00017 here, which the last batch alone does not explain.)
* Corrected: the mean over all captions, of the repeated rows (comparable with the published curve) or of unique images;
  in the other direction, the share of images with at least ``j`` of their captions among the top ``c``.

Source: Faye, Azzag, Lebbah, Bouchaffra, "Lightweight Cross-Modal Representation Learning", ESANN 2024,
arXiv 2403.04650.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weft.errors import UserError
from weft.retrieval.metrics import Array, check_embeddings, rank


def images_above(images: Array, texts: Array) -> np.ndarray:
    """How many images are strictly more similar to each caption than its own, ``(N,)`` int64.

    Args:
        images: ``(M, D)`` unit vectors, one per image.
        texts: ``(c M, D)`` unit vectors; captions ``c i .. c i + c - 1`` are those of image ``i``.

    Raises:
        UserError: the captions are no multiple of the images.
    """
    owner = np.arange(len(texts)) // _per_image(images, texts)
    return rank(texts, images, owner[:, None], ties="optimistic").first.astype(np.int64) - 1


def repeated_curve(
    above: np.ndarray, ks: Sequence[int], per_image: int = 5, last_batch: int | None = None
) -> np.ndarray:
    """Share of captions answered within ``k`` of the repeated rows, for each ``k``.

    Args:
        above: of :func:`images_above`.
        ks: numbers of rows.
        per_image: how often each image is repeated.
        last_batch: None for all captions; a batch size for the published curve, that of the last, partial batch.
    """
    if last_batch is not None:
        above = above[-_last(len(above), last_batch) :]
    return np.array([(per_image * above < k).mean() for k in ks])


def unique_curve(above: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Share of captions whose image is among the ``k`` best of the unique images: recall at ``k``."""
    return np.array([(above < k).mean() for k in ks])


def captions_found(images: Array, texts: Array, *, last_batch: int | None = None) -> np.ndarray:
    """Share of images with at least ``j`` of their ``c`` captions among the top ``c``, for ``j = 1 .. c``.

    Args:
        images, texts: as for :func:`images_above`.
        last_batch: None for all images; a batch size for the published figures (see above).
    """
    per_image = _per_image(images, texts)
    gallery = check_embeddings(texts, "texts").double()
    queries = check_embeddings(images, "images").double()
    hits = []
    for start in range(0, len(queries), 512):
        top = (queries[start : start + 512] @ gallery.T).topk(per_image, dim=1).indices // per_image
        hits.append(top.cpu().numpy())
    groups = np.concatenate(hits)
    found = (groups == np.arange(len(groups))[:, None]).sum(axis=1)
    if last_batch is not None:
        rows = np.arange(len(texts))[-_last(len(texts), last_batch) :]
        found = (groups[rows // per_image] == rows[:, None]).sum(axis=1)
    return np.array([(found >= j).mean() for j in range(1, per_image + 1)])


def _last(rows: int, batch: int) -> int:
    """Rows of the last batch."""
    return rows % batch or batch


def _per_image(images: Array, texts: Array) -> int:
    if not len(images) or len(texts) % len(images):
        found = f"{len(texts)} captions of {len(images)} images"
        raise UserError("every image has the same number of captions, its captions in a row", found, "choose a subset")
    return len(texts) // len(images)
