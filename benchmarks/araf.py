"""ARAF's published network at its published size: ours against a literal dense transcription, forward + backward.

The literal side (``tests/systems/araf_literal.py``) computes what the published code computes: all six transformer
layers, every channel copied to 512 x 512, all products dense. Both sides hold the same weights; outputs and the
gradients of all living weights are compared before anything is timed. Evaluation mode, so that dropout draws nothing.

Three claims: the whole network; alignment and enhancement alone, which is ARAF itself; and peak memory of both.

Run from the repository root: ``python benchmarks/araf.py``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import compare_ab, peak_memory, set_threads, write_result
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.systems.araf.literal import LiteralAlignment, LiteralEnhancement, LiteralEnhancer
from weft.fusion.araf_blocks import PublishedAlignment, PublishedEnhancement
from weft.systems.araf.network import MultiModalEnhancer, image_names

THREADS = 1  # the machine is shared: more threads than free cores would measure their waiting
BATCH = 4
WIDTH, HEADS = 512, 8
LENGTH, PIXELS = 260, 256
SIDES = ("ours", "literal")
PREFIX = "image_encoder."
Problem = tuple[Callable[[], Tensor], list[Tensor]]
"""A forward pass, and what to differentiate its result by."""


def network(side: str) -> Problem:
    """Logits of a batch, and all living weights."""
    torch.manual_seed(0)
    original = LiteralEnhancer().eval()
    renamed = image_names(original.image_encoder.state_dict())
    alive = [n for n, _ in original.named_parameters() if "transformer" not in n or n.removeprefix(PREFIX) in renamed]
    module: nn.Module = original
    if side == "ours":
        module = MultiModalEnhancer.from_official(original.state_dict())
        ours = {PREFIX + theirs: PREFIX + name for theirs, name in renamed.items()}
        alive = [ours.get(name, name) for name in alive]
    weights = dict(module.named_parameters())
    signal, image = torch.randn(BATCH, LENGTH), torch.randn(BATCH, 3, PIXELS, PIXELS)
    return lambda: module(signal, image), [weights[name] for name in alive]


def mechanism(side: str) -> Problem:
    """Alignment and enhancement alone, from the two vectors."""
    torch.manual_seed(0)
    align, enhance = LiteralAlignment(WIDTH, HEADS, WIDTH // HEADS), LiteralEnhancement(WIDTH, HEADS)
    vectors = [torch.randn(BATCH, WIDTH, requires_grad=True) for _ in range(2)]
    if side == "literal":
        leaves = [*vectors, *align.parameters(), *enhance.parameters()]
        return lambda: enhance(align(*(v.unsqueeze(2).repeat(1, 1, WIDTH) for v in vectors))), leaves
    ours, ours_enhance = (
        PublishedAlignment(WIDTH, HEADS, WIDTH // HEADS),
        PublishedEnhancement(WIDTH, HEADS, WIDTH // HEADS),
    )
    ours.load_state_dict(align.state_dict())
    ours_enhance.load_state_dict(enhance.state_dict())
    leaves = [*vectors, *ours.parameters(), *ours_enhance.parameters()]
    return lambda: ours_enhance.copied(ours.copied(*vectors)), leaves


CLAIMS: dict[str, Callable[[str], Problem]] = {"network": network, "mechanism": mechanism}


def prepare(claim: str, side: str) -> Callable[[], list[Tensor]]:
    """One call: the result and the gradients of its weighted sum."""
    return partial(step, *CLAIMS[claim](side))


def step(forward: Callable[[], Tensor], leaves: list[Tensor]) -> list[Tensor]:
    y = forward()
    weight = torch.linspace(-1, 1, y.numel()).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)]


def check(claim: str) -> float:
    """The largest difference of any output or gradient, relative to the largest value of that tensor."""
    pairs = zip(*(prepare(claim, side)() for side in SIDES), strict=True)
    worst = 0.0
    for ours, literal in pairs:
        size = max(float(literal.abs().max()), 1e-3)
        assert_close(ours, literal, rtol=0.0, atol=1e-3 * size)
        worst = max(worst, float((ours - literal).abs().max()) / size)
    return worst


def flops(claim: str, side: str) -> int:
    """Matrix-product FLOPs of one forward pass, those inside attention kernels too."""
    forward, leaves = CLAIMS[claim](side)
    for leaf in leaves:
        leaf.requires_grad_(False)  # the counter's hooks fail on views of parameters that record a gradient
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops()


def measure(claim: str) -> dict[str, Any]:
    worst = check(claim)
    calls = [prepare(claim, side) for side in SIDES]
    figures = compare_ab(claim, *calls, repeats=5, calls=1 if claim == "network" else 3, labels=SIDES)
    figures["largest_relative_difference"] = worst
    for side in SIDES:
        figures[side]["forward_flops"] = flops(claim, side)
        figures[side]["peak_bytes"] = peak_memory(prepare, claim, side, threads=THREADS)["peak_bytes"]
        size, memory = figures[side]["forward_flops"] / 1e9, figures[side]["peak_bytes"] / 2**20
        print(f"  {side}: {size:.2f} GFLOP forward, {memory:.0f} MiB")
    return figures


def main() -> None:
    set_threads(THREADS)
    shape = {"batch": BATCH, "width": WIDTH, "heads": HEADS, "length": LENGTH, "pixels": PIXELS, "dtype": "float32"}
    shape["threads"] = THREADS
    write_result("araf", {"shape": shape, "claims": {claim: measure(claim) for claim in CLAIMS}})


if __name__ == "__main__":
    main()
