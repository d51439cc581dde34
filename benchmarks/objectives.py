"""Claim: InfoNCE, SigLIP (whole and in chunks) and CCA are no slower than the code people use, from batches of 1,024.

At 256, where fixed costs count, SigLIP is (the table has it); ``hardness`` costs three times a plain step.

Forward and backward, gradients to both sides and the scale, one thread, float32, unit vectors of width 256. InfoNCE and
SigLIP stand beside the algebra that open_clip publishes (``ClipLoss``, ``SigLipLoss`` on one process; its package needs
torchvision, so its lines are written down here), SigLIP in chunks beside our own whole matrix as well; CCA beside
cca_zoo and, at its size, scikit-learn. Both sides alternate in one run, and are compared in value first. Groups,
smoothing and hardness beside plain InfoNCE say what they cost. Run from the repository root:
``python benchmarks/objectives.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from cca_zoo.linear import CCA as ZooCCA
from harness import compare_ab, set_threads, write_result
from sklearn.cross_decomposition import CCA as SklearnCCA
from torch import Tensor
from torch.nn import functional as F

from weft.ops.contrastive import info_nce, sigmoid_loss
from weft.ops.correlation import Moments, cca

WIDTH, CHUNK = 256, 1024
SIZES = {256: 10, 1024: 3, 4096: 1}
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def clip_loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """open_clip's ``ClipLoss``: logits both ways, two cross-entropies."""
    labels = torch.arange(len(a))
    return (F.cross_entropy(scale * a @ b.T, labels) + F.cross_entropy(scale * b @ a.T, labels)) / 2


def siglip_loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """open_clip's ``SigLipLoss``: a matrix of signs, one log-sigmoid."""
    signs = 2 * torch.eye(len(a)) - torch.ones(len(a), len(a))
    return -F.logsigmoid(signs * (scale * a @ b.T + bias)).sum() / len(a)


def ours(kind: str, chunk: int | None = None, **options: Any) -> Loss:
    def loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        valid = torch.ones(len(a), dtype=torch.bool)
        if kind == "infonce":
            return info_nce(a, b, valid, scale, chunk, **options)
        return sigmoid_loss(a, b, valid, scale, bias, chunk, **options)

    return loss


def step(batch: int, loss: Loss) -> Callable[[], list[Tensor]]:
    """One forward and backward pass; returns the loss and the gradients."""
    generator = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(batch, WIDTH, generator=generator), dim=1)
    b = F.normalize(a + 0.1 * torch.randn(batch, WIDTH, generator=generator), dim=1)
    leaves = [a.requires_grad_(), b.requires_grad_(), torch.tensor(14.0, requires_grad=True)]
    leaves.append(torch.tensor(-10.0, requires_grad=True))

    def call() -> list[Tensor]:
        value = loss(*leaves)
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        return [value.detach(), *(g for g in found if g is not None)]

    return call


def contrast(name: str, batch: int, mine: Loss, other: Loss, label: str, same: bool = True) -> dict[str, Any]:
    first, second = step(batch, mine), step(batch, other)
    worst = max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(first(), second(), strict=True))
    if same and worst > 1e-3:
        sys.exit(f"{name}: the two sides differ by {worst}")
    return compare_ab(f"{name}, batch {batch:,}", first, second, repeats=5, calls=SIZES[batch], labels=("ours", label))


def correlations(rows: int, widths: tuple[int, int], dim: int) -> dict[str, Any]:
    """CCA from two matrices to the leading correlations."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(rows, dim))
    x, y = (shared @ rng.normal(size=(dim, w)) + 2 * rng.normal(size=(rows, w)) for w in widths)
    joined = torch.from_numpy(np.concatenate([x, y], axis=1))

    def mine() -> np.ndarray:
        return cca(Moments.of(joined).covariance, list(widths), dim, 0.0).correlations.numpy()

    def zoo() -> np.ndarray:
        model = ZooCCA(dim).fit([x, y])
        return np.array(
            [np.corrcoef(*pair)[0, 1] for pair in zip(*(z.T for z in model.transform([x, y])), strict=True)]
        )

    if np.abs(np.sort(mine())[::-1] - np.sort(zoo())[::-1]).max() > 1e-3:
        sys.exit("cca_zoo finds other correlations")
    name = f"CCA, {rows:,} x {widths[0]} and {widths[1]}, {dim} dimensions"
    figures = {f"{name}, cca_zoo": compare_ab(name, mine, zoo, repeats=5, labels=("ours", "cca_zoo"))}
    if rows <= 2000:
        model = SklearnCCA(n_components=4, max_iter=500)
        figures[f"{name}, scikit-learn"] = compare_ab(
            f"{name} (scikit-learn: 4)", mine, partial(model.fit, x, y), repeats=5, labels=("ours", "scikit-learn")
        )
    return figures


def main() -> None:
    set_threads(1)
    figures: dict[str, Any] = {"losses": {}, "extras": {}}
    for batch in SIZES:
        sides = {
            "InfoNCE, open_clip's algebra": (ours("infonce"), clip_loss),
            "InfoNCE in chunks, open_clip's algebra": (ours("infonce", CHUNK), clip_loss),
            "SigLIP, open_clip's algebra": (ours("siglip"), siglip_loss),
            "SigLIP in chunks, open_clip's algebra": (ours("siglip", CHUNK), siglip_loss),
            "SigLIP in chunks, our whole matrix": (ours("siglip", CHUNK), ours("siglip")),
        }
        for name, (mine, other) in sides.items():
            figures["losses"][f"{name}, {batch}"] = contrast(name, batch, mine, other, name.split(", ")[1])
    group = torch.arange(1024) // 5
    for name, options in {
        "five captions a photo": {"group": group},
        "smoothing": {"smoothing": 0.1},
        "hardness": {"hardness": 0.5},
    }.items():
        figures["extras"][name] = contrast(
            f"InfoNCE with {name}", 1024, ours("infonce", **options), ours("infonce"), "plain", same=False
        )
    figures["cca"] = correlations(1000, (64, 48), 16) | correlations(4000, (256, 384), 64)
    write_result("objectives", figures)


if __name__ == "__main__":
    main()
