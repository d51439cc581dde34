"""What an operator computes, counted: nothing for parts that nobody reads, no masked arithmetic on full masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from weft.fusion import Fusion, create_fusion
from weft.tokens import Fused, Tokens, as_tokens

DIMS = {"a": 6, "b": 5}
PRODUCTS = ["mlb", "mfb", "mfh", "mutan", "block", "linear-sum", "tfn", "lmf", "highway", "mcb"]


class Operations(TorchDispatchMode):
    """Names of the operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


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
