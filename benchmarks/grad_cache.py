"""GradCache: a contrastive step through encoders that train, 32 rows at a time, against the whole batch at once.

Two transformers of two layers and width 128 embed 32 tokens each; symmetric InfoNCE over the batch. Loss and gradients
of all weights are compared first. Time is for a batch of 256; peak memory is one step in one child process per size,
where freed blocks go back to the system at once (MALLOC_MMAP_THRESHOLD_), for both sides. The price is one more
forward pass: where the batch fits in memory, GradCache loses.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from harness import compare_ab, peak_memory, set_threads, write_result
from torch import Tensor, nn
from torch.nn import functional as F

from weft.alignment.grad_cache import grad_cache
from weft.ops.contrastive import info_nce
from weft.tokens import Tokens

WIDTH, TOKENS, LAYERS, CHUNK, BATCH = 128, 32, 2, 32, 256
SIZES = (256, 1024)


class Encoders(nn.Module):
    """One transformer per side, to unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.sides = nn.ModuleDict({name: nn.TransformerEncoder(layer, LAYERS) for name in "ab"})

    def forward(self, inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        return {name: F.normalize(self.sides[name](t.values).mean(dim=1), dim=1) for name, t in inputs.items()}


def prepare(method: str, rows: int) -> Callable[[], list[Tensor]]:
    """A step: the loss and the gradients of all weights."""
    torch.manual_seed(0)
    encoders = Encoders()
    mask = torch.ones(rows, TOKENS, dtype=torch.bool)
    inputs = {name: Tokens(torch.randn(rows, TOKENS, WIDTH), mask) for name in "ab"}

    def step() -> list[Tensor]:
        encoders.zero_grad()
        z = encoders(inputs) if method == "whole batch" else grad_cache(encoders, inputs, CHUNK)
        loss = info_nce(z["a"], z["b"], mask[:, 0], 20.0)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in encoders.parameters() if p.grad is not None)]

    return step


def main() -> None:
    set_threads(1)
    whole, chunked = (prepare(method, BATCH) for method in ("whole batch", "GradCache"))
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(chunked(), whole(), strict=True))
    print(f"largest relative difference: {gap:.1e}")
    if gap > 1e-3:
        raise SystemExit("GradCache and the whole batch differ")
    step = compare_ab(f"a step of {BATCH} rows", chunked, whole, repeats=5, labels=("GradCache", "whole batch"))
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    figures = [
        {"method": method, "rows": rows, **peak_memory(prepare, method, rows, threads=1)}
        for method in ("whole batch", "GradCache")
        for rows in SIZES
    ]
    for row in figures:
        print(f"{row['method']}, {row['rows']} rows: {row['peak_bytes'] / 2**20:.0f} MiB")
    write_result("grad_cache", {"relative_difference": gap, "chunk": CHUNK, "step": step, "figures": figures})


if __name__ == "__main__":
    main()
