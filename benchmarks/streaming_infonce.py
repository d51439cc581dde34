"""Claim: InfoNCE at batch 16,384 x 256 in a tenth of the full version's memory and at most 1.3 times its time.

Forward and backward, gradients to both sides and the scale, in tiles of 1,024 x 1,024 logits (``info_nce`` with a
``chunk``) against the full matrix. Loss and gradients are compared first. Smaller batches show where streaming
stops paying; a batch of 65,536 runs by streaming alone (the full matrix alone is 16 GiB there). Run from the
repository root: ``python benchmarks/streaming_infonce.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import compare_ab, peak_memory, set_threads, write_result
from torch import Tensor
from torch.nn import functional as F

from weft.ops.contrastive import info_nce

WIDTH, THREADS = 256, 1
SIZES = {512: 20, 1024: 10, 2048: 4, 4096: 2, 16384: 1}
CHUNKS = {"streaming": 1024, "full": None}


def step(batch: int, name: str) -> Callable[[], list[Tensor]]:
    """One forward and backward pass; returns the loss and the gradients of both sides and the scale."""
    generator = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(batch, WIDTH, generator=generator), dim=1)
    b = F.normalize(a + 0.1 * torch.randn(batch, WIDTH, generator=generator), dim=1)
    leaves = [a.requires_grad_(), b.requires_grad_(), torch.tensor(14.0, requires_grad=True)]
    valid = torch.ones(batch, dtype=torch.bool)

    def call() -> list[Tensor]:
        loss = info_nce(leaves[0], leaves[1], valid, leaves[2], CHUNKS[name])
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    return call


def difference(batch: int) -> float:
    """Largest difference of loss and gradients, relative to the largest entry of each."""
    pairs = zip(step(batch, "streaming")(), step(batch, "full")(), strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


def main() -> None:
    set_threads(THREADS)
    figures: dict[str, Any] = {"largest_relative_difference": {}, "time": {}, "peak": {}}
    for batch, calls in SIZES.items():
        found = difference(batch)
        figures["largest_relative_difference"][str(batch)] = found
        if found > 1e-4:
            sys.exit(f"loss or gradients differ by {found} at batch {batch}")
        figures["time"][str(batch)] = compare_ab(
            f"InfoNCE, batch {batch:,} x {WIDTH}",
            step(batch, "streaming"),
            step(batch, "full"),
            repeats=5,
            calls=calls,
            labels=("streaming", "full"),
        )
    for batch, name in ((2048, "streaming"), (2048, "full"), (16384, "streaming"), (16384, "full")):
        figures["peak"][f"{name}, batch {batch}"] = peak_memory(step, batch, name, threads=THREADS)
    figures["peak"]["streaming, batch 65536"] = peak_memory(step, 65536, "streaming", threads=THREADS)
    for name, peak in figures["peak"].items():
        print(f"{name}: peak {peak['peak_bytes'] / 2**20:.0f} MiB, {peak['cpu_s']:.1f} CPU s")
    write_result("streaming_infonce", figures)


if __name__ == "__main__":
    main()
