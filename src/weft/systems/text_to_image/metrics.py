r"""How good drawn images are: distances of feature distributions, and retrieval of the caption they were drawn from.

With features ``x`` ``(n, D)`` of real and ``y`` ``(m, D)`` of drawn images in the space of a frozen encoder:

.. math::
    d_F &= \lVert \mu_x - \mu_y \rVert^2 + \mathrm{tr}\bigl(S_x + S_y - 2 (S_x S_y)^{1/2}\bigr) \\
    d_K &= \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{n m} \sum_{i, j} k(x_i, y_j), \quad k(a, b) = (a \cdot b / D + 1)^3

``d_F`` is the formula of FID, ``d_K`` of KID, which is unbiased; they carry those names only with the features of the
Inception network they were defined with. ``S`` is the sample covariance. ``d_F`` is biased upwards, the more the fewer
the rows: compare values of equal ``n`` and ``m``, and beside the value of one half of the real images to the other.

R-precision: the share of images whose own caption is nearer, by cosine, than all of 99 captions of other images.

Sources: Heusel et al., NeurIPS 2017, arXiv 1706.08500 (FID); Binkowski et al., ICLR 2018, arXiv 1801.01401 (KID);
Xu et al., AttnGAN, CVPR 2018, arXiv 1711.10485 (R-precision).
"""

from __future__ import annotations

import numpy as np

from weft.errors import UserError


def frechet_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """``d_F`` of features ``(n, D)`` and ``(m, D)``.

    The trace of the root is the sum of the singular values of ``X Y^T``, with rows centred and divided by
    ``sqrt(n - 1)``: exact for singular covariances, and cheap where there are fewer rows than columns.
    """
    x, y = _check(real, drawn)
    centred = [(v - v.mean(axis=0)) / np.sqrt(len(v) - 1) for v in (x, y)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(shift + sum(np.square(v).sum() for v in centred) - 2 * root)


def kernel_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """``d_K`` of features ``(n, D)`` and ``(m, D)``; it may be below zero, as unbiased estimates of zero are."""
    x, y = _check(real, drawn)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2 * kernel(x, y).mean())


def r_precision(
    images: np.ndarray, captions: np.ndarray, groups: np.ndarray, *, candidates: int = 100, seed: int = 0
) -> float:
    """Share of images that find their own caption first among ``candidates``; a tie counts as not found.

    Args:
        images, captions: ``(n, D)`` in the space of an aligner; row i of both belongs together.
        groups: ``(n,)``; captions of an image's own group are not among the others.
        candidates: the own caption and so many minus one, drawn without replacement.
        seed: of the drawing.

    Raises:
        UserError: rows do not match, or there are too few captions of other groups.
    """
    if not len(images) == len(captions) == len(groups):
        raise UserError(
            "images, captions and groups are of the same rows",
            f"{len(images)} images, {len(captions)} captions, {len(groups)} groups",
            "give row i of each the same sample",
        )
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (images, captions))
    rng, found = np.random.default_rng(seed), 0
    for row, image in enumerate(a):
        others = np.flatnonzero(groups != groups[row])
        if len(others) < candidates - 1:
            raise UserError(
                f"R-precision chooses among {candidates} captions",
                f"row {row} has {len(others)} captions of other groups",
                "evaluate more rows, or lower candidates",
            )
        drawn = rng.choice(others, candidates - 1, replace=False)
        found += bool(image @ b[row] > (b[drawn] @ image).max())
    return found / len(a)


def _check(real: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(v, dtype=np.float64) for v in (real, drawn))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise UserError(
            "distances are of two or more rows each, in one feature space",
            f"real {x.shape}, drawn {y.shape}",
            "encode both with the same encoder, to one vector per image",
        )
    return x, y
