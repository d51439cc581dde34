"""Claim: retrieval metrics of Flickr8k's size, both directions, in memory that does not grow with the number of items.

40,000 captions against 8,000 images of width 256, five captions per image, on the CPU. The reference holds the full
matrix of similarities (float32) and counts in it as one would, ``(s > right).sum()``, a pass per positive. Peak memory
is measured in fresh processes, at a quarter, half and (ours) twice the size as well: embeddings are made before the
mark and are not in it. Run from the repository root: ``python benchmarks/retrieval_metrics.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from harness import compare_ab, peak_memory, set_threads, write_result
from torch import Tensor

from weft.retrieval.metrics import Positives, rank

IMAGES, CAPTIONS, WIDTH = 8000, 5, 256


def embeddings(images: int) -> tuple[Tensor, Tensor]:
    """Unit captions ``(5 n, 256)``, five in a row per image, and unit images ``(n, 256)``."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(images, WIDTH, generator=generator)
    noise = torch.randn(images * CAPTIONS, WIDTH, generator=generator)
    text = image.repeat_interleave(CAPTIONS, dim=0) + 4 * noise
    return torch.nn.functional.normalize(text, dim=1), torch.nn.functional.normalize(image, dim=1)


def ours(images: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    text, image = embeddings(images)
    owner = np.arange(images * CAPTIONS) // CAPTIONS
    there = Positives.from_groups(owner, np.arange(images))
    back = Positives.from_groups(np.arange(images), owner)
    return lambda: (rank(text, image, there).first, rank(image, text, back).first)


def full_matrix(images: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Rank of the best positive in both directions, and the counts of all positives that mAP needs."""
    text, image = embeddings(images)

    def call() -> tuple[np.ndarray, np.ndarray]:
        s = text @ image.T
        right = s[torch.arange(len(text)), torch.arange(len(text)) // CAPTIONS].unsqueeze(1)
        there = 1 + (s > right).sum(dim=1)
        columns = right.view(images, CAPTIONS).T
        back = torch.stack([1 + (s > column).sum(dim=0) for column in columns]).min(dim=0).values
        return there.numpy(), back.numpy()

    return call


def main() -> None:
    set_threads()
    mine, reference = ours(IMAGES), full_matrix(IMAGES)
    different = [float((a != b).mean()) for a, b in zip(mine(), reference(), strict=True)]
    if max(different) > 1e-3:
        sys.exit(f"the two sides disagree on a share of {different} of the ranks")
    figures = {
        "time": compare_ab(
            "retrieval ranks, 40,000 x 8,000", mine, reference, repeats=5, labels=("ours", "full matrix")
        ),
        "share_of_ranks_that_differ_by_float32_rounding": different,
        "peak": {
            f"{name}, {n} images": peak_memory(prepare, n)
            for name, prepare in (("ours", ours), ("full matrix", full_matrix))
            for n in (IMAGES // 4, IMAGES // 2, IMAGES, 2 * IMAGES)
            if prepare is ours or n <= IMAGES
        },
    }
    for name, peak in figures["peak"].items():
        print(f"{name}: peak {peak['peak_bytes'] / 2**20:.0f} MiB")
    write_result("retrieval_metrics", figures)


if __name__ == "__main__":
    main()
