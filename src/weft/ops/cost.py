"""What a module costs, counted on the meta device: the module itself is the formula, and nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from weft.tokens import Tokens, everywhere


class Cost(NamedTuple):
    """Cost of one sample.

    Attributes:
        parameters: number of trainable weights.
        flops: floating-point operations of one forward pass (a multiply-add counts as two).
        activation_bytes: bytes of all intermediate results of one forward pass in the default dtype; an upper bound
            on what the backward pass keeps.
    """

    parameters: int
    flops: int
    activation_bytes: int


class _ActivationBytes(TorchDispatchMode):
    """Sums the size of every tensor an operation newly creates."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(t.numel() * t.element_size() for t in tree_leaves(out) if isinstance(t, Tensor))
        return out


def empty_batch(dims: Mapping[str, int], tokens: int | Mapping[str, int]) -> dict[str, Tokens]:
    """A batch of one row, all tokens real; ``tokens``: the length of every sequence, or ``{name: length}``."""
    lengths = dict.fromkeys(dims, tokens) if isinstance(tokens, int) else tokens
    return {
        name: Tokens(values := torch.empty(1, lengths[name], d), everywhere(1, lengths[name], device=values.device))
        for name, d in dims.items()
    }


def measure_cost(build: Callable[[], nn.Module], sample: Callable[[], tuple[Any, ...]]) -> Cost:
    """Cost of ``build()(*sample())``, both made and run on the meta device."""
    with torch.device("meta"), torch.no_grad():
        module, inputs = build().eval(), sample()
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        module.requires_grad_(False)  # the flop counter's hooks fail on views of parameters that record a gradient
        with _ActivationBytes() as activations, FlopCounterMode(display=False) as flops:
            module(*inputs)
    return Cost(parameters, flops.get_total_flops(), activations.total)
