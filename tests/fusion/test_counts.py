"""What an operator computes, counted: nothing for parts that nobody reads, no masked arithmetic on full masks."""

from __future__ import annotations

import sys
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
FUNCTIONS = 35
"""Of ours that a forward pass of ``mlb`` may call: at the smallest sizes they take as long as its products."""
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
    "concat": (13, 8768, 512),
    "gated": (28, 24640, 3072),
    "linear-sum": (18, 8384, 1536),
    "mlb": (20, 9408, 1536),
    "mfb": (51, 27092, 5184),
    "mfh": (104, 59240, 12416),
    "mutan": (27, 50368, 9728),
    "block": (200, 37648, 8448),
    "tucker": (34, 1483712, 6144),
    "tfn": (16, 60304, 10336),
    "lmf": (19, 25424, 7232),
    "aff": (55, 52704, 9088),
    "iaff": (98, 91840, 18176),
    "multiplicative": (16, 8320, 1024),
    "mult": (768, 3684176, 1085888),
    "mutualformer": (197, 452864, 100240),
    "araf": (224, 1547556, 370288),
    "cross-attention": (109, 244928, 76832),
    "bottleneck": (221, 856652, 279168),
    "simple-transformer": (82, 71654, 18080),
    "co-attention": (149, 299008, 93728),
}
"""Of a step without gaps (forward, and the gradients of all inputs and weights): kernels, bytes that it allocates, and
bytes that the forward pass keeps for the gradients beside inputs and weights."""


def kept_bytes(module: Fusion, inputs: dict[str, Tokens], leaves: list[Tensor]) -> int:
    own = {t.untyped_storage()._cdata for t in leaves}
    kept = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        vector = module(inputs).vector
    assert vector.requires_grad
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_launches_no_more_kernels_and_takes_and_keeps_no_more_bytes(name: str) -> None:
    kernels, size, kept = LAUNCHES[name]
    module = create_fusion(name, dict.fromkeys("ab", 16), 16)
    leaves = {n: torch.randn(8, 1 if module.wants == "vectors" else 4, 16, requires_grad=True) for n in "ab"}
    inputs = {n: Tokens(v, everywhere(*v.shape[:2], device=v.device)) for n, v in leaves.items()}
    weights = [w for w in module.parameters() if w.requires_grad]
    with Operations() as operations:
        vector = module(inputs).vector
        torch.autograd.grad(vector, [*leaves.values(), *weights], torch.ones_like(vector), allow_unused=True)
    assert operations.kernels <= kernels
    assert operations.bytes <= size
    assert kept_bytes(module, inputs, [*leaves.values(), *weights]) <= kept


@pytest.mark.parametrize("options", [{"hidden": 64}, {"hidden": 64, "chunks": 4}])
def test_a_full_core_keeps_the_projections_alone(options: dict[str, Any]) -> None:
    module = create_fusion("tucker", DIMS, 8, **options)
    leaves = {n: torch.randn(32, 1, width, requires_grad=True) for n, width in DIMS.items()}
    inputs = {n: Tokens(v, everywhere(*v.shape[:2], device=v.device)) for n, v in leaves.items()}
    assert kept_bytes(module, inputs, [*leaves.values(), *module.parameters()]) <= 3 * 4 * 32 * 64, "x, y and z"


def test_a_filler_that_nobody_needs_has_a_gradient_and_costs_no_copy() -> None:
    module = create_fusion("tucker", DIMS, 8)
    inputs = {n: as_tokens(v) for n, v in vectors().items()}
    with Operations() as operations:
        module(inputs).vector.sum().backward()
    assert "where" not in operations.names
    assert all(filler.grad is not None and not filler.grad.any() for filler in module.fillers)


def test_a_small_forward_pass_runs_little_python() -> None:
    module = create_fusion("mlb", DIMS, 8)
    inputs = {n: as_tokens(v) for n, v in vectors().items()}
    module(inputs)
    ours: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("weft."):
            ours.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        module(inputs)
    finally:
        sys.setprofile(None)
    assert len(ours) <= FUNCTIONS, ours
