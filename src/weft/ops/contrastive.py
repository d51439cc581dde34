r"""Contrastive losses over pairs, for one process or many, with or without the matrix of all pairs.

``a``, ``b`` ``(B, D)`` hold unit vectors, row ``i`` of one belongs with row ``i`` of the other; ``valid`` ``(B,)`` says
which pairs exist (the others are no negatives either), ``N`` is their number over all processes. Rows of one ``group``
:math:`g` (the captions of one photo) are partners of each other too, :math:`n_i` of them with row ``i``; without groups
every row is its own. Logits are float32, or float64 for float64 inputs.

InfoNCE, with logits :math:`l_{ij} = s\,a_i \cdot b_j`, :math:`r_i = \mathrm{lse}_j\, l_{ij}`,
:math:`c_j = \mathrm{lse}_i\, l_{ij}`, weight :math:`w` of the search by ``a`` and smoothing :math:`\epsilon`:

.. math::
    T_{ij} &= (1 - \epsilon)\,[g_i = g_j] / n_i + \epsilon / N \\
    L &= \frac{1}{N} \sum_{ij} T_{ij} \big(w\,(r_i - l_{ij}) + (1 - w)(c_j - l_{ij})\big)
       = \frac{1}{N} \Big(w \sum_i r_i + (1 - w) \sum_j c_j - \sum_{ij} T_{ij}\, l_{ij}\Big) \\
    G_{ij} = \frac{\partial L}{\partial l_{ij}}
      &= \frac{1}{N} \big(w\,e^{l_{ij} - r_i} + (1 - w)\,e^{l_{ij} - c_j} - T_{ij}\big), \qquad
    \frac{\partial L}{\partial a} = s\,G\,b, \quad \frac{\partial L}{\partial b} = s\,G^T a

The last sum needs no pairs: it is :math:`(1 - \epsilon)\,s \sum_i a_i \cdot \bar b_{g_i}`, with the mean
:math:`\bar b` of a group, and :math:`\epsilon\,s / N` times the product of the two sums. So groups and smoothing cost
nothing, and only the log-sums go over all pairs: in square tiles, forward and backward, keeping ``r`` and ``c``. With a
``chunk`` memory is ``chunk^2`` instead of ``N^2``, for one more matrix product (the logits again in the backward pass).
The gradient of ``s`` needs no pass of its own: :math:`\sum_{ij} G_{ij}\, a_i \cdot b_j = \sum_i a_i \cdot (G b)_i`.

Hard negatives: with ``hardness`` :math:`\beta`, the ``m`` negatives of a row weigh in proportion to their own
:math:`e^{\beta l}`, so that

.. math:: r_i = \log\Big(\sum_{j\,\text{right}} e^{l_{ij}}
    + m\,\frac{\sum_{j\,\text{wrong}} e^{(1 + \beta)\,l_{ij}}}{\sum_{j\,\text{wrong}} e^{\beta l_{ij}}}\Big)

and likewise :math:`c_j`; :math:`\beta = 0` is the above.

Sigmoid loss, with :math:`l_{ij} = t\,a_i \cdot b_j + \beta` and :math:`y_{ij} = 1` for partners, -1 otherwise:

.. math::
    L = -\frac{1}{N} \sum_{ij} \log \sigma(y_{ij}\,l_{ij})
      = \frac{1}{N} \Big(\sum_{ij} \log(1 + e^{l_{ij}}) - \sum_{g_i = g_j} l_{ij}\Big)

(smoothing: the last sum times :math:`1 - \epsilon`, targets of partners below one). A term knows nothing of the others,
so value and gradient are made in one pass over the tiles.

Many processes. Each computes the part of the sums that belongs to its own rows, against the rows of all. It returns the
*whole* loss (the same number everywhere, whatever the number ``W`` of processes), with ``W`` times the gradient of its
part. The mean over the processes of the parameter gradients, which is what DDP takes, is therefore the gradient that
one process with all rows would have. Groups may lie in several processes.

Sources: van den Oord, Li, Vinyals, arXiv 1807.03748 (InfoNCE); Radford et al., ICML 2021, arXiv 2103.00020 (symmetric
form); Yang et al., UniCL, CVPR 2022, arXiv 2204.03610, and Khosla et al., NeurIPS 2020, arXiv 2004.11362 (several
partners); Robinson, Chuang, Sra, Jegelka, ICLR 2021, arXiv 2010.04592 (hard negatives); Zhai et al., ICCV 2023, arXiv
2303.15343 (sigmoid loss).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weft.errors import UserError


def world_size() -> int:
    """The number of processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def same_everywhere(x: Tensor) -> Tensor:
    """That of the first process, in all of them; ``x`` has one shape, and lies on the CPU."""
    if world_size() == 1:
        return x
    found = [x]
    dist.broadcast_object_list(found, src=0)
    return found[0]


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
    a: Tensor,
    b: Tensor,
    valid: Tensor,
    scale: Tensor | float,
    chunk: int | None = None,
    *,
    group: Tensor | None = None,
    weight: float = 0.5,
    smoothing: float = 0.0,
    hardness: float = 0.0,
    gather: bool = True,
) -> Tensor:
    """InfoNCE in both directions.

    Args:
        a, b: ``(B, D)`` of this process.
        valid: ``(B,)`` bool.
        scale: of the logits, 1 / temperature; a scalar.
        chunk: rows and columns of logits at a time; None: the whole matrix.
        group: ``(B,)`` int64, the same number for rows that are partners of each other, on any process; None: no two.
        weight: of the search from ``a`` to ``b``, 0 to 1; the other direction has the rest.
        smoothing: of the targets, 0 up to 1.
        hardness: how much more the harder negatives weigh, 0 or more.
        gather: the pairs of all processes are one batch; otherwise this process is alone.

    Returns:
        The loss over the pairs of all processes, a scalar.

    Raises:
        UserError: fewer than two valid pairs: one pair has no negatives.
    """
    check_chunk(chunk)
    a, b, scale = _prepare(a, b, valid, scale)
    world = world_size() if gather else 1
    all_b, start = gather_with_grad(b) if gather else (b, 0)
    need_pairs(len(all_b), 2, "InfoNCE compares every pair with the others")
    own = slice(start, start + len(a))
    codes = _codes(group, valid, gather)
    if hardness and codes is None:
        codes = torch.arange(len(all_b), device=a.device)
    known = codes if hardness else None
    log_sums = _LogSums.apply(a, all_b, scale, known, start, chunk, weight, hardness, world)
    matched = all_b if world == 1 else all_b[own]
    partners = matched if codes is None else (_group_sums(all_b, codes) / _group_sizes(codes))[codes[own]]
    right = (1 - smoothing) * (a * partners).sum()
    if smoothing:
        right = right + smoothing / len(all_b) * (a.sum(dim=0) @ all_b.sum(dim=0))
    return (log_sums - whole_loss(scale * right, world)) / len(all_b)


def sigmoid_loss(
    a: Tensor,
    b: Tensor,
    valid: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    chunk: int | None = None,
    *,
    group: Tensor | None = None,
    smoothing: float = 0.0,
    gather: bool = True,
) -> Tensor:
    """Pairwise sigmoid loss (SigLIP): every pair of rows is a yes-or-no question of its own.

    Args:
        a, b, valid, chunk, group, gather: as for :func:`info_nce`.
        scale, bias: ``t`` and ``b`` of the logits, scalars.
        smoothing: partners have the target ``1 - smoothing``.

    Returns:
        The loss over the pairs of all processes, a scalar.

    Raises:
        UserError: no valid pair.
    """
    check_chunk(chunk)
    a, b, scale = _prepare(a, b, valid, scale)
    world = world_size() if gather else 1
    all_b, start = gather_with_grad(b) if gather else (b, 0)
    need_pairs(len(all_b), 1, "the sigmoid loss is a mean over pairs")
    bias = torch.as_tensor(bias, dtype=a.dtype, device=a.device)
    own = slice(start, start + len(a))
    codes = _codes(group, valid, gather)
    if codes is None:
        right = scale * (a * (all_b if world == 1 else all_b[own])).sum() + bias * len(a)
    else:
        right = scale * (a * _group_sums(all_b, codes)[codes[own]]).sum()
        right = right + bias * _group_sizes(codes)[codes[own]].sum()
    total = _SoftplusSum.apply(a, all_b, scale, bias, chunk)
    return whole_loss((total - (1 - smoothing) * right) / len(all_b), world)


def check_chunk(chunk: int | None) -> None:
    """Refuse a chunk that is not positive."""
    if chunk is not None and chunk < 1:
        raise UserError("chunk is a positive number of rows", f"chunk={chunk}", "choose 1 or more, or None")


def all_groups(group: Tensor | None, valid: Tensor, gather: bool) -> Tensor | None:
    """The groups ``(N,)`` of the valid rows of all processes; None where no two rows are partners.

    Raises:
        UserError: ``group`` is not one whole number per row.
    """
    if group is None:
        return None
    if group.shape != valid.shape or group.is_floating_point():
        found = f"group {tuple(group.shape)} {group.dtype}, valid {tuple(valid.shape)}"
        raise UserError("group is one whole number per row", found, "number the groups, e.g. by np.unique")
    kept = group[valid].long()
    return gather_with_grad(kept)[0] if gather else kept


def _codes(group: Tensor | None, valid: Tensor, gather: bool) -> Tensor | None:
    """Groups as ``0 .. G-1``."""
    groups = all_groups(group, valid, gather)
    return None if groups is None else groups.unique(return_inverse=True)[1]


def _group_sums(x: Tensor, codes: Tensor) -> Tensor:
    """``(G, D)`` sums of the rows of each group."""
    return x.new_zeros(int(codes.max()) + 1, x.shape[1]).index_add(0, codes, x)


def _group_sizes(codes: Tensor) -> Tensor:
    """``(G, 1)``."""
    return codes.bincount().unsqueeze(1)


class _Side:
    """Log-sums of the logits over one direction, and what they give.

    Args:
        dim: over which the sums go: 1 for those of rows.
        hardness: ``beta``.
    """

    def __init__(self, dim: int, hardness: float) -> None:
        self.dim, self.hardness = dim, hardness

    def sums(self, logits: Tensor, right: Tensor | None) -> Tensor:
        """``(1, n)``: of all; or with ``right`` ``(n, m)``, ``(3, n)``: of partners, of negatives at both powers."""
        if right is None:
            return logits.logsumexp(dim=self.dim)[None]
        wrong = logits.masked_fill(right, float("-inf"))
        parts = (logits.masked_fill(~right, float("-inf")), (1 + self.hardness) * wrong, self.hardness * wrong)
        return torch.stack([part.logsumexp(dim=self.dim) for part in parts])

    def total(self, sums: Tensor, wrong: Tensor | None) -> Tensor:
        """``(n,)`` the ``r`` or ``c`` of complete sums; ``wrong`` ``(n,)`` counts negatives."""
        if wrong is None:
            return sums[0]
        return torch.where(wrong > 0, torch.logaddexp(sums[0], wrong.log() + sums[1] - sums[2]), sums[0])

    def shares(self, logits: Tensor, sums: Tensor, right: Tensor | None, wrong: Tensor | None) -> Tensor:
        """Derivative of the totals for the logits of a tile."""
        n = self.dim
        total = self.total(sums, wrong)
        if right is None or wrong is None:
            return (logits - total.unsqueeze(n)).exp_()
        hard = (logits * (1 + self.hardness) - sums[1].unsqueeze(n)).exp_().mul_(1 + self.hardness)
        hard -= (logits * self.hardness - sums[2].unsqueeze(n)).exp_().mul_(self.hardness)
        hard *= (wrong.log() + sums[1] - sums[2] - total).exp().unsqueeze(n)
        return torch.where(right, (logits - total.unsqueeze(n)).exp_(), hard)


class _LogSums(torch.autograd.Function):
    """``w sum r + (1 - w) sum c`` over the rows and columns of all processes, tile by tile; see the module's equations.

    This process goes through its own rows against all columns; one tile serves both directions and stays in the
    processor's cache. Without a chunk the one tile there is is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        codes: Tensor | None,
        start: int,
        chunk: int | None,
        weight: float,
        hardness: float,
        world: int,
    ) -> Tensor:
        sides = _Side(1, hardness), _Side(0, hardness)
        own, kinds = slice(start, start + len(a)), 1 if codes is None else 3
        row = a.new_full((kinds, len(a)), float("-inf"))
        column = a.new_full((kinds, len(b)), float("-inf"))
        kept = None
        for rows in _slices(len(a), chunk):
            scaled = scale * a[rows]
            for columns in _slices(len(b), chunk):
                logits = scaled @ b[columns].T
                right = None if codes is None else codes[own][rows, None] == codes[columns]
                row[:, rows] = torch.logaddexp(row[:, rows], sides[0].sums(logits, right))
                column[:, columns] = torch.logaddexp(column[:, columns], sides[1].sums(logits, right))
                kept = logits if chunk is None else None
        if world > 1:
            parts = [torch.empty_like(column) for _ in range(world)]
            dist.all_gather(parts, column)
            column = torch.stack(parts).logsumexp(dim=0)
        wrong = None if codes is None else (len(b) - _group_sizes(codes)[codes, 0]).to(a.dtype)
        ctx.save_for_backward(a, b, scale, codes, row, column, wrong, kept)
        ctx.own, ctx.chunk, ctx.weight, ctx.world, ctx.sides = own, chunk, weight, world, sides
        r = sides[0].total(row, None if wrong is None else wrong[own]).sum()
        c = sides[1].total(column[:, own], None if wrong is None else wrong[own]).sum()
        total = weight * r + (1 - weight) * c
        if world > 1:
            dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, codes, row, column, wrong, kept = ctx.saved_tensors
        own, weight = ctx.own, ctx.weight
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        for rows in _slices(len(a), ctx.chunk):
            scaled = scale * a[rows]
            for columns in _slices(len(b), ctx.chunk):
                logits = scaled @ b[columns].T if kept is None else kept
                right = None if codes is None else codes[own][rows, None] == codes[columns]
                few = (None, None) if wrong is None else (wrong[own][rows], wrong[columns])
                share = ctx.sides[0].shares(logits, row[:, rows], right, few[0]).mul_(weight)
                share.add_(ctx.sides[1].shares(logits, column[:, columns], right, few[1]), alpha=1 - weight)
                grad_a[rows].addmm_(share, b[columns])
                grad_b[columns].addmm_(share.T, scaled)
        factor = grad * ctx.world
        grad_scale = (grad_a * a).sum() * factor
        return grad_a.mul_(factor * scale), grad_b.mul_(factor), grad_scale, *[None] * 6


class _SoftplusSum(torch.autograd.Function):
    """``sum log(1 + e^l)`` over rows of ``a`` and of ``b``, with the gradient made in the same pass."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, chunk: int | None) -> Tensor:
        needed = any(ctx.needs_input_grad)
        total, grad_bias = a.new_zeros(()), a.new_zeros(())
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        for rows in _slices(len(a), chunk):
            scaled = scale * a[rows]
            for columns in _slices(len(b), chunk):
                logits = torch.addmm(bias, scaled, b[columns].T)
                total += F.softplus(logits).sum()
                if needed:
                    share = logits.sigmoid_()
                    grad_bias += share.sum()
                    grad_a[rows].addmm_(share, b[columns])
                    grad_b[columns].addmm_(share.T, scaled)
        if needed:
            ctx.save_for_backward(grad_a, grad_b, scale, (grad_a * a).sum(), grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b, scale, grad_scale, grad_bias = ctx.saved_tensors
        return grad_a * (grad * scale), grad_b * grad, grad * grad_scale, grad * grad_bias, None


def _slices(rows: int, size: int | None) -> Iterator[slice]:
    size = size or max(rows, 1)
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
    if bool(valid.all()):
        return a.to(dtype), b.to(dtype)
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
