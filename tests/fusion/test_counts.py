"""What an operator computes, counted: nothing for parts that nobody reads, no masked arithmetic on full masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from weft.fusion import Fusion, create_fusion
from weft.tokens import Fused, Tokens, as_tokens, everywhere

DIMS = {"a": 6, "b": 5}
PRODUCTS = ["mlb", "mfb", "mfh", "mutan", "block", "linear-sum", "tfn", "lmf", "highway", "mcb"]


class Operations(TorchDispatchMode):
    """The operations that ran: names, how many were no views, and the bytes that they allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.bytes += sum(t.nbytes for t in made if t.untyped_storage()._cdata not in given)
        self.kernels += not func.is_view
        return result


def flops(module: Fusion, inputs: dict[str, Tokens], *, read: bool) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fused: Fused = module(inputs)
        if read:
            list(fused.per_modality.values())
    return int(counter.get_total_flops())


def vectors() -> dict[str, Tensor]:
    return {name: torch.randn(3, width) for name, width in DIMS.items()}


@pytest.mark.parametrize("name", PRODUCTS)
def test_parts_cost_only_those_who_read_them(name: str) -> None:
    module = create_fusion(name, DIMS, 16).requires_grad_(False).eval()
    inputs = {n: as_tokens(v) for n, v in vectors().items()}
    fused = module(inputs)
    assert flops(module, inputs, read=False) <= flops(module, inputs, read=True)
    assert list(fused.per_modality) == list(DIMS)
    first = fused.per_modality["a"]
    assert fused.per_modality["a"] is first, "computed once"


def test_an_output_layer_runs_once_for_the_vector() -> None:
    module = create_fusion("mlb", DIMS, 8, hidden=4).requires_grad_(False).eval()
    inputs = {n: as_tokens(v) for n, v in vectors().items()}
    row = 2 * 3 * 4 * 8
    assert flops(module, inputs, read=False) == 2 * 3 * (6 + 5) * 4 + row
    assert flops(module, inputs, read=True) == 2 * 3 * (6 + 5) * 4 + 3 * row


@pytest.mark.parametrize("name", ["mlb", "mfb", "mutan", "block", "lmf", "aff", "iaff", "mutualformer"])
def test_full_masks_need_no_selection(name: str) -> None:
    module = create_fusion(name, dict.fromkeys("ab", 16), 16).eval()
    values = {n: torch.randn(3, 4, 16) for n in "ab"}
    there = torch.ones(3, 4, dtype=torch.bool)
    gap = there.clone()
    gap[0, 3] = False
    counts = []
    for mask in (there, gap):
        with torch.no_grad(), Operations() as operations:
            module({n: Tokens(v, mask) for n, v in values.items()})
        counts.append(operations.names.count("where"))
    assert counts[0] < counts[1]


LAUNCHES = {
    "concat": (13, 8768),
    "gated": (28, 24640),
    "linear-sum": (18, 8384),
    "mlb": (20, 9408),
    "mfb": (51, 27092),
    "mfh": (104, 59240),
    "mutan": (27, 50368),
    "block": (200, 37648),
    "tucker": (48, 1611778),
    "tfn": (16, 60304),
    "lmf": (19, 25424),
    "aff": (55, 52704),
    "iaff": (98, 91840),
    "multiplicative": (16, 8320),
    "mult": (768, 3684176),
    "mutualformer": (197, 452864),
    "araf": (224, 1547556),
    "cross-attention": (109, 244928),
    "bottleneck": (221, 856652),
    "simple-transformer": (82, 71654),
    "co-attention": (149, 299008),
}
"""Kernels of a step without gaps, and bytes that it allocates: forward, and the gradients of all inputs and weights."""


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_launches_no_more_kernels_and_takes_no_more_bytes(name: str) -> None:
    kernels, size = LAUNCHES[name]
    module = create_fusion(name, dict.fromkeys("ab", 16), 16)
    leaves = {n: torch.randn(8, 1 if module.wants == "vectors" else 4, 16, requires_grad=True) for n in "ab"}
    inputs = {n: Tokens(v, everywhere(*v.shape[:2], device=v.device)) for n, v in leaves.items()}
    weights = [w for w in module.parameters() if w.requires_grad]
    with Operations() as operations:
        vector = module(inputs).vector
        torch.autograd.grad(vector, [*leaves.values(), *weights], torch.ones_like(vector), allow_unused=True)
    assert operations.kernels <= kernels
    assert operations.bytes <= size
