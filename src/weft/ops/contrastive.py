r"""Contrastive losses over matched pairs, for one process or many, with or without the matrix of all pairs.

``a``, ``b`` ``(B, D)`` hold unit vectors, row ``i`` of one belongs with row ``i`` of the other; ``valid`` ``(B,)`` says
which pairs exist (the others are no negatives either), ``N`` is their number over all processes. Logits are float32, or
float64 for float64 inputs.

InfoNCE, symmetric, with logits :math:`l_{ij} = s\,a_i \cdot b_j`, :math:`r_i = \mathrm{lse}_j\, l_{ij}` and
:math:`c_j = \mathrm{lse}_i\, l_{ij}`:

.. math::
    L &= \frac{1}{2N} \sum_i (r_i + c_i - 2\, l_{ii}) \\
    G_{ij} = \frac{\partial L}{\partial l_{ij}}
      &= \frac{1}{2N} \big(e^{l_{ij} - r_i} + e^{l_{ij} - c_j}\big) - \frac{\delta_{ij}}{N} \\
    \frac{\partial L}{\partial a} &= s\,G\,b, \qquad \frac{\partial L}{\partial b} = s\,G^T a, \qquad
    \frac{\partial L}{\partial s} = \sum_{ij} G_{ij}\, a_i \cdot b_j

:func:`streaming_info_nce` goes through :math:`l` in square tiles, forward and backward, keeping ``r`` and ``c``: memory
``chunk^2`` instead of ``N^2``, for one more matrix product (the logits again in the backward pass). One tile serves
both directions and stays in the processor's cache. The gradient of ``s`` needs no pass of its own:
:math:`\sum_{ij} G_{ij}\, a_i \cdot b_j = \sum_i a_i \cdot (G b)_i`.

Sigmoid loss, with :math:`y_{ij} = 1` on the diagonal and -1 elsewhere:
:math:`L = -\frac{1}{N} \sum_{ij} \log \sigma(y_{ij} (t\, a_i \cdot b_j + b))`.

Many processes. Each computes the part of the sums that belongs to its own rows, against the rows of all. It returns the
*whole* loss (the same number everywhere, whatever the number ``W`` of processes), with ``W`` times the gradient of its
part. The mean over the processes of the parameter gradients, which is what DDP takes, is therefore the gradient that
one process with all rows would have.

Sources: van den Oord, Li, Vinyals, arXiv 1807.03748 (InfoNCE); Radford et al., ICML 2021, arXiv 2103.00020 (symmetric
form); Zhai et al., ICCV 2023, arXiv 2303.15343 (sigmoid loss).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weft.errors import UserError


def world_size() -> int:
    """The number of processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_with_grad(x: Tensor) -> tuple[Tensor, int]:
    r"""The rows of all processes, in the order of their ranks; the number of rows may differ.

    With :math:`y = [x_1; \dots; x_W]` on every process and :math:`L = \sum_r L_r(y)`, the gradient is
    :math:`\partial L / \partial x_r = \sum_q \partial L_q / \partial y_r`: block ``r`` of the sum over processes, a
    reduce-scatter. (A gather that passes back the local block alone drops the terms of the other processes.)

    Args:
        x: ``(n_r, ...)``; all but the first axis agree between processes.

    Returns:
        ``(sum n_r, ...)`` and the index of this process's first row in it.
    """
    if world_size() == 1:
        return x, 0
    sizes = _gather_sizes(x)
    return _Gather.apply(x, sizes), sum(sizes[: dist.get_rank()])


def info_nce(
    a: Tensor, b: Tensor, valid: Tensor, scale: Tensor | float, *, weight: float = 0.5, gather: bool = True
) -> Tensor:
    """Symmetric InfoNCE by the full matrix of logits.

    Args:
        a, b: ``(B, D)`` of this process.
        valid: ``(B,)`` bool.
        scale: of the logits, 1 / temperature; a scalar.
        weight: of the search from ``a`` to ``b``, 0 to 1; the other direction has the rest.
        gather: the pairs of all processes are one batch; otherwise this process is alone.

    Returns:
        The loss over the pairs of all processes, a scalar.

    Raises:
        UserError: fewer than two valid pairs: one pair has no negatives.
    """
    a, b, scale = _prepare(a, b, valid, scale)
    (all_a, start), (all_b, _) = (gather_with_grad(x) if gather else (x, 0) for x in (a, b))
    need_pairs(len(all_a), 2, "InfoNCE compares every pair with the others")
    world = world_size() if gather else 1
    own = torch.arange(start, start + len(a), device=a.device)
    forward = scale * a @ all_b.T
    backward = scale * b @ all_a.T if world > 1 else forward.T
    losses = [F.cross_entropy(logits, own, reduction="sum") for logits in (forward, backward)]
    return whole_loss((weight * losses[0] + (1 - weight) * losses[1]) / len(all_a), world)


def streaming_info_nce(
    a: Tensor, b: Tensor, valid: Tensor, scale: Tensor | float, chunk: int = 1024, *, gather: bool = True
) -> Tensor:
    """:func:`info_nce` in value and gradient (that of ``scale`` too), never holding more logits than ``chunk^2``.

    Args:
        a, b, valid, scale, gather: as for :func:`info_nce`.
        chunk: rows and columns of logits at a time, at least 1.
    """
    if chunk < 1:
        raise UserError("chunk is a positive number of rows", f"chunk={chunk}", "choose 1 or more")
    a, b, scale = _prepare(a, b, valid, scale)
    all_b, start = gather_with_grad(b) if gather else (b, 0)
    need_pairs(len(all_b), 2, "InfoNCE compares every pair with the others")
    return _StreamingInfoNCE.apply(a, all_b, scale, start, chunk, world_size() if gather else 1)


def sigmoid_loss(
    a: Tensor,
    b: Tensor,
    valid: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    chunk: int | None = None,
    *,
    gather: bool = True,
) -> Tensor:
    """Pairwise sigmoid loss (SigLIP): every pair of rows is a yes-or-no question of its own.

    Args:
        a, b, valid, gather: as for :func:`info_nce`.
        scale, bias: ``t`` and ``b`` of the logits, scalars.
        chunk: rows of logits at a time, computed again in the backward pass; None: all at once.

    Returns:
        The loss over the pairs of all processes, a scalar.

    Raises:
        UserError: no valid pair.
    """
    if chunk is not None and chunk < 1:
        raise UserError("chunk is a positive number of rows", f"chunk={chunk}", "choose 1 or more, or None")
    a, b, scale = _prepare(a, b, valid, scale)
    all_b, start = gather_with_grad(b) if gather else (b, 0)
    need_pairs(len(all_b), 1, "the sigmoid loss is a mean over pairs")
    world = world_size() if gather else 1
    bias = torch.as_tensor(bias, dtype=a.dtype, device=a.device)
    if chunk is None:
        return whole_loss(_sigmoid_rows(a, all_b, scale, bias, start) / len(all_b), world)
    total = a.new_zeros(())
    for first in range(0, max(len(a), 1), chunk):
        rows = a[first : first + chunk]
        total = total + checkpoint(_sigmoid_rows, rows, all_b, scale, bias, start + first, use_reentrant=False)
    return whole_loss(total / len(all_b), world)


def _sigmoid_rows(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, start: int) -> Tensor:
    """Sum over rows of ``a``, whose first has its positive in row ``start`` of ``b``."""
    logits = scale * a @ b.T + bias
    positive = torch.eye(len(a), len(b), device=a.device, dtype=torch.bool).roll(start, dims=1)
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum()


class _StreamingInfoNCE(torch.autograd.Function):
    """The rows of this process against all columns, tile by tile; see the module's equations."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, start: int, chunk: int, world: int) -> Tensor:
        row_lse, column_lse = a.new_full((len(a),), float("-inf")), a.new_full((len(b),), float("-inf"))
        for rows in _slices(len(a), chunk):
            scaled = scale * a[rows]
            for columns in _slices(len(b), chunk):
                logits = scaled @ b[columns].T
                row_lse[rows] = torch.logaddexp(row_lse[rows], logits.logsumexp(dim=1))
                column_lse[columns] = torch.logaddexp(column_lse[columns], logits.logsumexp(dim=0))
        if world > 1:
            parts = [torch.empty_like(column_lse) for _ in range(world)]
            dist.all_gather(parts, column_lse)
            column_lse = torch.stack(parts).logsumexp(dim=0)
        own = slice(start, start + len(a))
        diagonal = scale * (a * b[own]).sum(dim=1)
        ctx.save_for_backward(a, b, scale, row_lse, column_lse)
        ctx.start, ctx.chunk, ctx.world = start, chunk, world
        total = (row_lse.sum() + column_lse[own].sum() - 2 * diagonal.sum()) / (2 * len(b))
        if world > 1:
            dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, row_lse, column_lse = ctx.saved_tensors
        own = slice(ctx.start, ctx.start + len(a))
        factor = grad * ctx.world / len(b)
        grad_a, grad_b = -b[own], torch.zeros_like(b)
        grad_b[own] = -a
        for rows in _slices(len(a), ctx.chunk):
            scaled, row = scale * a[rows], row_lse[rows].unsqueeze(1)
            for columns in _slices(len(b), ctx.chunk):
                logits, column = scaled @ b[columns].T, column_lse[columns]
                share = (logits - row).exp_().add_(logits.sub_(column).exp_()).mul_(0.5)
                grad_a[rows].addmm_(share, b[columns])
                grad_b[columns].addmm_(share.T, a[rows])
        grad_scale = (grad_a * a).sum() * factor
        return grad_a.mul_(factor * scale), grad_b.mul_(factor * scale), grad_scale, None, None, None


def _slices(rows: int, size: int) -> Iterator[slice]:
    for first in range(0, rows, size):
        yield slice(first, first + size)


class _Gather(torch.autograd.Function):
    """All-gather of rows; the gradient is the reduce-scatter of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = _pad_rows(x, max(sizes))
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        most = max(ctx.sizes)
        blocks = [_pad_rows(block, most) for block in grad.split(ctx.sizes)]
        own = torch.empty_like(blocks[0])
        dist.reduce_scatter(own, blocks)
        return own[: ctx.sizes[dist.get_rank()]], None


class _Whole(torch.autograd.Function):
    """The sum over processes of their parts, with ``W`` times the gradient for each part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * world_size()


def whole_loss(part: Tensor, world: int) -> Tensor:
    """The sum of the parts of ``world`` processes, with ``world`` times the gradient for this process's part."""
    return part if world == 1 else _Whole.apply(part)


def _gather_sizes(x: Tensor) -> list[int]:
    size = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    return [int(s) for s in sizes]


def _pad_rows(x: Tensor, rows: int) -> Tensor:
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])]).contiguous()


def valid_pairs(a: Tensor, b: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The valid rows of both sides, in one dtype of at least float32.

    Raises:
        UserError: the shapes do not fit each other.
    """
    if a.ndim != 2 or a.shape != b.shape or valid.shape != a.shape[:1] or valid.dtype != torch.bool:
        raise UserError(
            "a loss over pairs takes a, b of one shape (B, D) and valid (B,) bool",
            f"a {tuple(a.shape)}, b {tuple(b.shape)}, valid {tuple(valid.shape)} {valid.dtype}",
            "pair the rows of the two modalities one to one",
        )
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a[valid].to(dtype), b[valid].to(dtype)


def _prepare(a: Tensor, b: Tensor, valid: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """The valid rows and the scale, in one dtype of at least float32."""
    a, b = valid_pairs(a, b, valid)
    scale = torch.as_tensor(scale, dtype=a.dtype, device=a.device)
    if not bool(scale.isfinite().all()):
        raise UserError(
            "the scale (1 / temperature) of a contrastive loss is a finite number",
            f"{float(scale.detach())}",
            "the weights have diverged: lower the learning rate, or start from another temperature",
        )
    return a, b, scale


def need_pairs(pairs: int, least: int, why: str) -> None:
    """Refuse fewer than ``least`` valid pairs."""
    if pairs < least:
        raise UserError(
            f"{why}: at least {least} valid pair{'s' if least > 1 else ''} in a batch",
            f"{pairs}",
            "use larger batches, or drop rows in which either modality is absent",
        )
