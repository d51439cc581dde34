r"""Zero-shot classification: the class whose description lies closest to the image in the shared space.

With the unit vector ``x`` of an image, templates ``p = 1 .. P`` and the unit vectors :math:`t_{pc}` of the prompts of
class ``c``, the class vector is the mean over the templates, as in CLIP:

.. math::
    w_c = \frac{\sum_p t_{pc}}{\|\sum_p t_{pc}\|}, \qquad \hat y = \arg\max_c\; x \cdot w_c

Top-k counts an image whose own class is among the ``k`` highest; equal scores count as if ordered at random. A
temperature would not change the order.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021; the protocol
and the prompts of Faye et al., "Lightweight Cross-Modal Representation Learning", ESANN 2024, arXiv 2403.04650.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

import numpy as np

from weft.errors import UserError, did_you_mean, some
from weft.retrieval.metrics import rank

TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}",),
    "twice": ("a {0}, this is a photo of a {0}",),
    "ensemble": (
        "{}",
        "a photo of a {}",
        "a blurry photo of a {}",
        "a low resolution photo of a {}",
        "a close-up photo of a {}",
        "a picture of one {}",
    ),
}
"""Named sets of prompts: the bare name, that of the original's script, that of its successor, and an ensemble."""


def templates(style: str) -> tuple[str, ...]:
    """The templates of a named style, or a template of one's own, with ``{}`` where the name goes.

    Raises:
        UserError: neither a name nor a template.
    """
    if style in TEMPLATES:
        return TEMPLATES[style]
    try:
        fields = [field for _, field, _, _ in Formatter().parse(style) if field is not None]
    except ValueError as error:
        raise UserError(
            "a prompt template has {} where the name goes", f"{style!r}: {error}", "escape braces"
        ) from None
    if not fields or set(fields) - {"", "0"}:
        remedy = did_you_mean(style, TEMPLATES, "styles")
        raise UserError(
            "a prompt template has {} where the name goes", repr(style), f"write 'a photo of a {{}}'; {remedy}"
        )
    return (style,)


def prompts(classes: Sequence[str], style: str) -> list[list[str]]:
    """The prompts of every class for every template, ``[P][C]``; underscores in names become blanks.

    Raises:
        UserError: a name is empty or comes twice, or the style is unknown.
    """
    names = [name.replace("_", " ").strip() for name in classes]
    wrong = [name for i, name in enumerate(names) if not name or name in names[:i]]
    if wrong or not names:
        raise UserError("class names are different and not empty", some(wrong) or "no classes", "rename the classes")
    return [[template.format(name) for name in names] for template in templates(style)]


def class_vectors(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors ``(C, D)`` of the classes from those of their prompts ``(P, C, D)``."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    mean = units.sum(axis=0)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def class_codes(labels: Sequence[object] | np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Place ``(N,)`` of each label in ``classes``.

    Raises:
        UserError: a label has no prompt.
    """
    place = {name: i for i, name in enumerate(classes)}
    unknown = sorted({str(label) for label in labels} - set(place))
    if unknown:
        remedy = did_you_mean(unknown[0], place, "classes")
        raise UserError("there is no prompt for a class of the data", some(unknown), remedy)
    return np.array([place[str(label)] for label in labels], dtype=np.int64)


def top_hits(
    images: np.ndarray, classes: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 2, 3, 4, 5)
) -> list[int]:
    """How many images have their own class among the ``k`` closest, for each ``k``.

    Args:
        images: ``(N, D)``; classes: ``(C, D)``; labels: ``(N,)`` rows of ``classes``.
        ks: largest places that count.
    """
    place = rank(images, classes, np.asarray(labels)[:, None]).first
    return [int((place <= k).sum()) for k in ks]


def predict(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The closest class of each image, ``(N,)``."""
    return np.argmax(images @ classes.T, axis=1)
