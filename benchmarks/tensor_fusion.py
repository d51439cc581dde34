"""Claims: the factored TFN equals the materialised product at less memory; LMF grows linearly in the modalities.

1. ``tfn`` contracts its weight factor by factor, against ``outer product -> Linear`` (what public implementations do):
   the same weights, outputs and gradients, time and peak memory of one forward and backward pass.
2. ``lmf`` against that explicit TFN at equal widths and output, for 2 to 6 modalities: time, memory, parameters.
3. Parameters of both at realistic widths, from ``cost()`` alone, where TFN cannot be allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import compare_ab, peak_memory, set_threads, write_result
from torch import Tensor, nn

from weft.fusion.low_rank import LowRankFusion
from weft.fusion.tensor import TensorFusion
from weft.ops.bilinear import outer, with_one
from weft.tokens import Tokens, as_tokens

PRODUCT_SIZES = [
    {"widths": (32, 32, 64), "dim": 128, "batch": 32},
    {"widths": (32, 32, 64), "dim": 32, "batch": 256},
    {"widths": (32, 32, 64), "dim": 128, "batch": 256},
    {"widths": (16, 16, 16, 16), "dim": 32, "batch": 256},
    {"widths": (128, 256), "dim": 64, "batch": 256},
    {"widths": (8, 8, 8), "dim": 256, "batch": 256},
]
THREADS = 1  # the machine is shared: more threads than free cores would measure their waiting
GROWTH = {"width": 8, "dim": 32, "batch": 256, "rank": 4}
REALISTIC = {"width": 32, "dim": 128, "rank": 4}


class ExplicitTensorFusion(nn.Module):
    """The outer product, materialised, then a linear layer."""

    def __init__(self, like: TensorFusion) -> None:
        super().__init__()
        order = like.product.order
        nested = like.product.weight.detach().permute(0, *(order.index(m) + 1 for m in range(len(order))))
        weight = nested.flatten(1)
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        self.linear.load_state_dict({"weight": weight, "bias": like.bias.detach()})

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        return self.linear(outer([with_one(t.values[:, 0]) for t in inputs.values()]))


class FactoredTensorFusion(nn.Module):
    """The same map, its weight contracted factor by factor."""

    def __init__(self, like: TensorFusion) -> None:
        super().__init__()
        self.product, self.bias = like.product, like.bias

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        return self.product([t.values[:, 0] for t in inputs.values()]) + self.bias


def make_inputs(widths: tuple[int, ...], batch: int) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"m{i}": as_tokens(torch.randn(batch, d, generator=generator).requires_grad_()) for i, d in enumerate(widths)
    }


def step(name: str, widths: tuple[int, ...], dim: int, batch: int, options: dict[str, Any]) -> Callable[[], Tensor]:
    """One forward and backward pass. ``"explicit"`` and ``"factored"`` are two contractions of the same TFN."""
    torch.manual_seed(0)
    dims = {f"m{i}": d for i, d in enumerate(widths)}
    module: nn.Module
    if name in ("explicit", "factored"):
        fusion = TensorFusion(dims, dim)
        module = ExplicitTensorFusion(fusion) if name == "explicit" else FactoredTensorFusion(fusion)
    else:
        module = LowRankFusion(dims, dim, **options)
    inputs = make_inputs(widths, batch)

    def run() -> Tensor:
        module.zero_grad()
        out = module(inputs)
        vector = out if isinstance(out, Tensor) else out.vector
        vector.square().sum().backward()
        return vector

    return run


def check_equal(widths: tuple[int, ...], dim: int) -> float:
    """Largest relative difference of outputs and input gradients between both sides, in float64."""
    torch.manual_seed(0)
    fusion = TensorFusion({f"m{i}": d for i, d in enumerate(widths)}, dim).double()
    factored, explicit = FactoredTensorFusion(fusion), ExplicitTensorFusion(fusion).double()
    worst = 0.0
    results = []
    for module in (factored, explicit):
        inputs = {
            n: as_tokens(t.values[:, 0].detach().double().requires_grad_()) for n, t in make_inputs(widths, 4).items()
        }
        out = module(inputs)
        vector = out if isinstance(out, Tensor) else out.vector
        results.append([vector, *torch.autograd.grad(vector.square().sum(), [t.values for t in inputs.values()])])
    for a, b in zip(*results, strict=True):
        worst = max(worst, float(((a - b).norm() / b.norm()).detach()))
    if worst > 1e-10:
        raise RuntimeError(f"factored and explicit TFN differ by {worst}")
    return worst


def product_claim() -> list[dict[str, Any]]:
    rows = []
    for size in PRODUCT_SIZES:
        widths, dim, batch = size["widths"], size["dim"], size["batch"]
        difference = check_equal(widths, dim)
        label = f"tfn {'x'.join(map(str, widths))} -> {dim}, B {batch}"
        sides = [step(name, widths, dim, batch, {}) for name in ("factored", "explicit")]
        figures = compare_ab(label, *sides, repeats=5, labels=("factored", "explicit"))
        peaks = {
            side: peak_memory(step, side, widths, dim, batch, {}, threads=THREADS) for side in ("factored", "explicit")
        }
        rows.append({**size, "relative_difference": difference, "time": figures, "memory": peaks})
    return rows


def growth_claim() -> list[dict[str, Any]]:
    rows = []
    width, dim, batch, rank = (GROWTH[k] for k in ("width", "dim", "batch", "rank"))
    for modalities in range(2, 7):
        widths = (width,) * modalities
        dims = {f"m{i}": width for i in range(modalities)}
        costs = {
            "lmf": LowRankFusion.cost(dims, dim, rank=rank)._asdict(),
            "tfn": TensorFusion.cost(dims, dim)._asdict(),
        }
        sides = (("lmf", {"rank": rank}), ("explicit", {}))
        figures = compare_ab(
            f"lmf against explicit tfn, {modalities} modalities",
            *(step(name, widths, dim, batch, options) for name, options in sides),
            repeats=5,
            calls={2: 50, 3: 50, 4: 10}.get(modalities, 1),
            labels=("lmf", "explicit"),
        )
        peaks = {name: peak_memory(step, name, widths, dim, batch, options, threads=THREADS) for name, options in sides}
        rows.append({"modalities": modalities, **GROWTH, "cost": costs, "time": figures, "memory": peaks})
    return rows


def realistic_parameters() -> list[dict[str, Any]]:
    rows = []
    cases = [(REALISTIC["width"],) * m for m in range(2, 7)] + [(768, 1024, 512)]
    for widths in cases:
        dims = {f"m{i}": d for i, d in enumerate(widths)}
        rows.append(
            {
                "widths": widths,
                "dim": REALISTIC["dim"],
                "lmf": LowRankFusion.cost(dims, REALISTIC["dim"], rank=REALISTIC["rank"]).parameters,
                "tfn": TensorFusion.cost(dims, REALISTIC["dim"]).parameters,
            }
        )
    return rows


if __name__ == "__main__":
    set_threads(THREADS)
    write_result(
        "tensor_fusion",
        {"product": product_claim(), "growth": growth_claim(), "parameters": realistic_parameters()},
    )
