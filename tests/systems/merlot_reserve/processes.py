"""The losses of MERLOT Reserve on two gloo processes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from weft.systems.merlot_reserve.pretrain import Pairs, contrastive, scaled


def step(rows: slice) -> list[torch.Tensor]:
    """The loss of some rows of a small set, and the gradients of a matrix and of the scale."""
    generator = torch.Generator().manual_seed(0)
    x, y, extra = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (7, 7, 14))
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    others = slice(2 * (rows.start or 0), None if rows.stop is None else 2 * rows.stop)
    loss = contrastive(scaled(Pairs(x[rows] @ weight, y[rows] @ weight, extra[others] @ weight), scale))
    loss.backward()
    assert weight.grad is not None
    assert scale.grad is not None
    return [loss.detach(), weight.grad, scale.grad]


def work(rank: int, folder: str) -> None:
    """One of two processes, with three rows or four."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(step((slice(None, 3), slice(3, None))[rank]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
