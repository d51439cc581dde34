"""Contrastive losses against plain loops; the streaming form against the full matrix, without ever making it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from weft.errors import UserError
from weft.ops.contrastive import gather_with_grad, info_nce, sigmoid_loss, streaming_info_nce

ROWS, WIDTH = 11, 4


def problem(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    valid = torch.ones(rows, dtype=torch.bool)
    valid[[2, 7]] = False
    a[2], b[7] = 0.0, float("nan")
    scale = torch.tensor(5.0, dtype=dtype)
    return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_(), valid, scale.requires_grad_()


def slow_info_nce(a: Tensor, b: Tensor, valid: Tensor, scale: Tensor) -> Tensor:
    rows = [i for i in range(len(a)) if valid[i]]
    total = a.new_zeros(())
    for i in rows:
        total = total - torch.log(torch.exp(scale * a[i] @ b[i]) / sum(torch.exp(scale * a[i] @ b[j]) for j in rows))
        total = total - torch.log(torch.exp(scale * a[i] @ b[i]) / sum(torch.exp(scale * a[j] @ b[i]) for j in rows))
    return total / (2 * len(rows))


def slow_sigmoid(a: Tensor, b: Tensor, valid: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    rows = [i for i in range(len(a)) if valid[i]]
    total = a.new_zeros(())
    for i in rows:
        for j in rows:
            sign = 1 if i == j else -1
            total = total - torch.log(1 / (1 + torch.exp(-sign * (scale * a[i] @ b[j] + bias))))
    return total / len(rows)


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [torch.nan_to_num(g) for g in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_info_nce_equals_the_loops(chunk: int | None) -> None:
    a, b, valid, scale = problem()
    slow = slow_info_nce(a, b, valid, scale)
    loss = info_nce(a, b, valid, scale) if chunk is None else streaming_info_nce(a, b, valid, scale, chunk)
    assert_close(loss, slow)
    for found, expected in zip(gradients(loss, a, b, scale), gradients(slow, a, b, scale), strict=True):
        assert expected.abs().max() > 0
        assert_close(found, expected)


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_sigmoid_loss_equals_the_loops(chunk: int | None) -> None:
    a, b, valid, scale = problem()
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    slow, loss = slow_sigmoid(a, b, valid, scale, bias), sigmoid_loss(a, b, valid, scale, bias, chunk)
    assert_close(loss, slow)
    leaves = (a, b, scale, bias)
    for found, expected in zip(gradients(loss, *leaves), gradients(slow, *leaves), strict=True):
        assert_close(found, expected)


def test_streaming_gradient_against_differences() -> None:
    a, b, _, scale = problem()
    keep = torch.tensor([0, 1, 3, 4, 5])
    a, b = (x.detach()[keep].requires_grad_() for x in (a, b))
    every = torch.ones(5, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda *x: 3 * streaming_info_nce(x[0], x[1], every, x[2], 2), (a, b, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    a, b, valid, scale = problem(dtype)
    exact = info_nce(a.double(), b.double(), valid, scale.double())
    for loss in (info_nce(a, b, valid, scale), streaming_info_nce(a, b, valid, scale, 3)):
        assert loss.dtype == torch.float32
        assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


def test_large_logits_stay_finite() -> None:
    a, b, valid, _ = problem(torch.float32)
    for loss in (
        info_nce(a, b, valid, 1e4),
        streaming_info_nce(a, b, valid, 1e4, 3),
        sigmoid_loss(a, b, valid, 1e4, 0),
    ):
        assert bool(loss.isfinite())
        assert all(bool(g.isfinite().all()) for g in gradients(loss, a))


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


def test_chunked_losses_never_make_the_matrix() -> None:
    rows, chunk = 96, 8
    a, b = (torch.randn(rows, WIDTH, requires_grad=True) for _ in range(2))
    valid = torch.ones(rows, dtype=torch.bool)
    losses = {
        "streaming": lambda: streaming_info_nce(a, b, valid, 5.0, chunk),
        "sigmoid": lambda: sigmoid_loss(a, b, valid, 5.0, -1.0, chunk),
        "full": lambda: info_nce(a, b, valid, 5.0),
    }
    largest = {}
    for name, loss in losses.items():
        with _Largest() as mode:
            loss().backward()
        largest[name] = mode.elements
    assert largest["streaming"] == rows * WIDTH, "the gradient is larger than any tile of logits"
    assert largest["sigmoid"] == chunk * rows
    assert largest["full"] == rows * rows


@pytest.mark.parametrize("pairs", [0, 1])
def test_too_few_pairs_are_refused(pairs: int) -> None:
    a, b, _, scale = problem()
    valid = torch.arange(ROWS) < pairs
    for loss in (info_nce, streaming_info_nce):
        with pytest.raises(UserError, match="at least 2 valid pairs"):
            loss(a, b, valid, scale)
    if pairs == 0:
        with pytest.raises(UserError, match="at least 1 valid pair"):
            sigmoid_loss(a, b, valid, scale, 0.0)
    else:
        assert_close(sigmoid_loss(a, b, valid, scale, 0.0), F.softplus(-scale * a[0] @ b[0]))


def test_wrong_arguments_are_refused() -> None:
    a, b, valid, _ = problem()
    for loss in (info_nce, streaming_info_nce):
        with pytest.raises(UserError, match="temperature"):
            loss(a, b, valid, math.nan)
        with pytest.raises(UserError, match="one shape"):
            loss(a, b[:3], valid, 1.0)
        with pytest.raises(UserError, match="one shape"):
            loss(a, b, valid.long(), 1.0)
    for chunked in (lambda: streaming_info_nce(a, b, valid, 1.0, 0), lambda: sigmoid_loss(a, b, valid, 1.0, 0.0, 0)):
        with pytest.raises(UserError, match="chunk"):
            chunked()


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2)
    gathered, start = gather_with_grad(x)
    assert gathered is x
    assert start == 0
