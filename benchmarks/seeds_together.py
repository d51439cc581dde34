"""Five seeds of one small model trained at once by ``torch.func`` (vmap) against one after the other: it does not pay.

A step of each seed on a batch of its own: forward, backward, gradients clipped to norm 1, fused AdamW. *Together*:
weights stacked, ``vmap(grad_and_value)`` over the seeds, one optimiser over the stacks. The gradients of both sides are
compared first. *speed* is one by one over together, by CPU seconds: above 1, together is faster. At 128 rows, the
default batch, calls are no longer most of a step, and products over stacks run no faster than single ones; what would
be won on small batches is not worth a second loop, with early stopping, dropout and best weights per seed.

python benchmarks/seeds_together.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import copy
from collections.abc import Callable
from typing import Any

import torch
from harness import compare_ab, set_threads, write_result
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.testing import assert_close

from weft.fusion import create_fusion
from weft.tokens import Tokens, everywhere

SEEDS, DIM, CLASSES = 5, 128, 7
OPERATORS = ("concat", "gated", "mlb", "lmf")
SETS = {"text 300, audio 74, video 35": {"t": 300, "a": 74, "v": 35}, "image 1280, text 384": {"i": 1280, "t": 384}}


class Net(nn.Module):
    def __init__(self, name: str, dims: dict[str, int]) -> None:
        super().__init__()
        self.fusion, self.head = create_fusion(name, dims, DIM), nn.Linear(DIM, CLASSES)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        inputs = {n: Tokens(v, everywhere(*v.shape[:2], device=v.device)) for n, v in x.items()}
        found: Tensor = self.head(self.fusion(inputs).vector)
        return found


def steps(name: str, dims: dict[str, int], rows: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A step of all seeds, together and one by one."""
    torch.manual_seed(0)
    nets = [Net(name, dims) for _ in range(SEEDS)]
    x = {n: torch.randn(SEEDS, rows, 1, width) for n, width in dims.items()}
    y = torch.randint(CLASSES, (SEEDS, rows))
    weights = {n: w.detach().clone() for n, w in stack_module_state(nets)[0].items()}
    optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True) for net in nets]
    joint = torch.optim.AdamW(list(weights.values()), lr=1e-3, fused=True)
    shell = copy.deepcopy(nets[0]).to("meta")

    def loss(w: dict[str, Tensor], x: dict[str, Tensor], y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(shell, w, (x,)), y)

    gradients = vmap(grad_and_value(loss))

    def together() -> None:
        found, _ = gradients(weights, x, y)
        norm = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
        for n, g in found.items():
            weights[n].grad = g.mul_((1 / (norm + 1e-6)).clamp(max=1).view(-1, *[1] * (g.ndim - 1)))
        joint.step()

    def one_by_one() -> None:
        for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net({n: v[i] for n, v in x.items()}), y[i]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    together(), one_by_one()
    for n, w in weights.items():
        expected = torch.stack([dict(net.named_parameters())[n].grad for net in nets])
        assert_close(w.grad, expected, rtol=1e-3, atol=1e-5)
    return together, one_by_one


def main() -> None:
    set_threads(1)
    rows = {}
    for name in OPERATORS:
        for label, dims in SETS.items():
            for batch in (32, 128):
                case = f"{name}, {label}, batch {batch}"
                labels = ("together", "one by one")
                rows[case] = compare_ab(case, *steps(name, dims, batch), repeats=7, calls=8, labels=labels)
    write_result("seeds_together", {"seeds": SEEDS, "rows": rows})


if __name__ == "__main__":
    main()
