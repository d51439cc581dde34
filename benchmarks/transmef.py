"""TransMEF beside a literal transcription of its arithmetic as described: one training step, its three tasks.

    python benchmarks/transmef.py [published] [small]
    python benchmarks/transmef.py memory               # the small size again and again, in fresh processes

The transcription cuts patches by reshaping and permuting, writes attention out (the scores of all heads are kept),
pastes tokens back by the inverse permutation, and takes SSIM by windows of 11 x 11. Both sides have the same weights
and compute the same loss and gradients (checked in float64). One thread; published: a picture of 256 x 256, patches of
16, 19 M weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import compare_sides, peak_memory, set_threads, spread, write_result
from torch import Tensor, nn
from torch.nn import functional as F

from weft.allocator import keep_freed_memory
from weft.systems.transmef.loss import C1, C2, gaussian, restoring_loss
from weft.systems.transmef.network import TransMefNet

SIZES: dict[str, dict[str, Any]] = {
    "published": {"side": 256, "rows": 1, "network": {}},
    "small": {"side": 32, "rows": 8, "network": {"patch": 4, "depth": 2, "heads": 2, "head_width": 8, "mlp": 64}},
}
TASKS = 3


def block(layers: Any, x: Tensor) -> Tensor:
    return torch.relu(layers[2](torch.relu(layers[0](x))))


def vit(net: Any, x: Tensor) -> Tensor:
    b, _, height, width = x.shape
    p = net.patch
    rows, columns = height // p, width // p
    z = x.reshape(b, 1, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).reshape(b, rows * columns, p * p)
    z = net.embed(z)
    for layer in net.blocks:
        attention = layer.attention
        q, k, v = layer.attention.qkv(layer.norm_attention(z)).chunk(3, dim=-1)
        q, k, v = (t.reshape(b, rows * columns, attention.heads, -1).permute(0, 2, 1, 3) for t in (q, k, v))
        weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, dim=-1)
        heard = torch.einsum("bhij,bhjd->bhid", weights, v).permute(0, 2, 1, 3).reshape(b, rows * columns, -1)
        z = attention.project(heard) + z
        z = layer.mlp(layer.norm_mlp(z)) + z
    return z.reshape(b, rows, columns, p, p, 1).permute(0, 5, 1, 3, 2, 4).reshape(b, 1, height, width)


def restored(net: Any, x: Tensor) -> Tensor:
    both = torch.cat((block(net.local, x), vit(net.vit, x)), dim=1)
    features = block(net.enhance[1], block(net.enhance[0], both))
    return net.decoder[2](block(net.decoder[1], block(net.decoder[0], features)))


def literal_loss(o: Tensor, p: Tensor) -> Tensor:
    line = gaussian(o.dtype)
    window = (line[:, None] @ line[None]).reshape(1, 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=5)

    a, b = mean(o), mean(p)
    va, vb, ab = mean(o * o) - a.pow(2), mean(p * p) - b.pow(2), mean(o * p) - a * b
    ssim = (((2 * a * b + C1) * (2 * ab + C2)) / ((a.pow(2) + b.pow(2) + C1) * (va + vb + C2))).mean()
    r = o - p
    tv = (r[:, :, 1:] - r[:, :, :-1]).pow(2).mean() + (r[:, :, :, 1:] - r[:, :, :, :-1]).pow(2).mean()
    return 20 * F.mse_loss(p, o) + (1 - ssim) + 20 * tv


def sides(
    size: str, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], nn.Module]:
    torch.manual_seed(0)
    net = TransMefNet(**SIZES[size]["network"], dropout=0.0).to(dtype).train()
    side, rows = SIZES[size]["side"], SIZES[size]["rows"]
    photo, *spoilt = (torch.rand(rows, 1, side, side, dtype=dtype) for _ in range(1 + TASKS))

    def step(loss: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            net.zero_grad()
            total = torch.stack([loss(x) for x in spoilt]).sum()
            total.backward()
            return total.detach()

        return run

    return (
        step(lambda x: restoring_loss(photo, net(x)).mean()),
        step(lambda x: literal_loss(photo, restored(net, x))),
        net,
    )


def one_side(size: str, side: int) -> Callable[[], Tensor]:
    return sides(size)[side]


def one_side_again(size: str, side: int) -> Callable[[], Tensor]:
    """The same after a step of one row: what a process needs once, whatever the size, is there already."""
    rows, SIZES[size]["rows"] = SIZES[size]["rows"], 1
    one_side(size, side)()
    SIZES[size]["rows"] = rows
    return one_side(size, side)


def memory(repeats: int = 7) -> None:
    """Peak memory of a small step, both sides in turns, each in a fresh process: its first step, and a later one."""
    found: dict[str, Any] = {}
    for name, prepare in {"first step": one_side, "later step": one_side_again}.items():
        peaks: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats):
            for side in (0, 1) if repeat % 2 == 0 else (1, 0):
                peaks[side].append(peak_memory(prepare, "small", side, threads=1)["peak_bytes"] / 2**20)
        ours, theirs = map(spread, peaks)
        found[name] = {"ours_mib": ours, "reference_mib": theirs, "ratio": ours["median"] / theirs["median"]}
        print(name, found[name], flush=True)
    write_result("transmef_memory", {"peaks": found})


def check() -> None:
    ours, theirs, net = sides("small", torch.float64)
    found = [[run(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)] for run in (ours, theirs)]
    assert len(found[0]) == len(found[1]) == 1 + len(list(net.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def main() -> None:
    set_threads(1)
    keep_freed_memory()
    if sys.argv[1:] == ["memory"]:
        memory()
        return
    check()
    figures: dict[str, Any] = {}
    for size in sys.argv[1:] or list(SIZES):
        ours, theirs, _ = sides(size)
        figures[size] = compare_sides(f"transmef {size}, a step of three tasks", ours, theirs, one_side, size)
    write_result("transmef", {"figures": figures})


if __name__ == "__main__":
    main()
