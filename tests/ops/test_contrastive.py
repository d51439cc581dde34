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
from weft.ops.contrastive import gather_with_grad, info_nce, sigmoid_loss

ROWS, WIDTH = 11, 4


def problem(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    valid = torch.ones(rows, dtype=torch.bool)
    valid[[2, 7]] = False
    a[2], b[7] = 0.0, float("nan")
    scale = torch.tensor(5.0, dtype=dtype)
    return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_(), valid, scale.requires_grad_()


def slow_info_nce(
    a: Tensor, b: Tensor, valid: Tensor, scale: Tensor, group: Any = None, weight=0.5, smoothing=0.0, hardness=0.0
) -> Tensor:
    """Target by target: minus the logarithm of a partner's share among partners and weighted negatives."""
    rows = [i for i in range(len(a)) if valid[i]]
    group = list(range(len(a))) if group is None else group
    total = a.new_zeros(())
    for side, first, second in ((weight, a, b), (1 - weight, b, a)):
        for i in rows:
            logits = {j: scale * first[i] @ second[j] for j in rows}
            right = [j for j in rows if group[j] == group[i]]
            wrong = [j for j in rows if group[j] != group[i]]
            share = sum(torch.exp(logits[j]) for j in right)
            if wrong:
                mean = sum(torch.exp(hardness * logits[j]) for j in wrong) / len(wrong)
                share = share + sum(torch.exp(logits[j]) * torch.exp(hardness * logits[j]) / mean for j in wrong)
            for j in rows:
                target = (1 - smoothing) * (j in right) / len(right) + smoothing / len(rows)
                total = total - side * target * torch.log(torch.exp(logits[j]) / share)
    return total / len(rows)


def slow_sigmoid(
    a: Tensor, b: Tensor, valid: Tensor, scale: Tensor, bias: Tensor, group: Any = None, smoothing=0.0
) -> Tensor:
    rows = [i for i in range(len(a)) if valid[i]]
    group = list(range(len(a))) if group is None else group
    total = a.new_zeros(())
    for i in rows:
        for j in rows:
            yes = torch.sigmoid(scale * a[i] @ b[j] + bias)
            target = (1 - smoothing) * (group[i] == group[j])
            total = total - target * torch.log(yes) - (1 - target) * torch.log(1 - yes)
    return total / len(rows)


GROUPS = [None, [0, 1, 2, 0, 4, 1, 0, 0, 4, 9, 10], [0] * ROWS]
OPTIONS = [{}, {"smoothing": 0.2}, {"hardness": 0.7}, {"weight": 0.8, "smoothing": 0.1, "hardness": 1.5}]


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [torch.nan_to_num(g) for g in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
@pytest.mark.parametrize("group", GROUPS, ids=["alone", "groups", "one group"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_info_nce_equals_the_loops(chunk: int | None, group: Any, options: dict[str, float]) -> None:
    a, b, valid, scale = problem()
    slow = slow_info_nce(a, b, valid, scale, group, **options)
    given = None if group is None else torch.tensor(group) * 7 - 3
    loss = info_nce(a, b, valid, scale, chunk, group=given, **options)
    assert_close(loss, slow)
    for found, expected in zip(gradients(loss, a, b, scale), gradients(slow, a, b, scale), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
@pytest.mark.parametrize("group", GROUPS, ids=["alone", "groups", "one group"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_sigmoid_loss_equals_the_loops(chunk: int | None, group: Any, smoothing: float) -> None:
    a, b, valid, scale = problem()
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    slow = slow_sigmoid(a, b, valid, scale, bias, group, smoothing)
    given = None if group is None else torch.tensor(group)
    loss = sigmoid_loss(a, b, valid, scale, bias, chunk, group=given, smoothing=smoothing)
    assert_close(loss, slow)
    leaves = (a, b, scale, bias)
    for found, expected in zip(gradients(loss, *leaves), gradients(slow, *leaves), strict=True):
        assert_close(found, expected)


def test_different_groups_are_no_groups_bit_for_bit() -> None:
    a, b, valid, scale = problem(torch.float32)
    group = torch.randperm(ROWS)
    for loss in (info_nce, lambda *x, group=None: sigmoid_loss(*x, -10.0, group=group)):
        alone, grouped = loss(a, b, valid, scale), loss(a, b, valid, scale, group=group)
        assert torch.equal(alone, grouped)
        for one, other in zip(gradients(alone, a, b, scale), gradients(grouped, a, b, scale), strict=True):
            assert torch.equal(one, other)


def test_captions_of_a_group_may_change_places() -> None:
    a, b, _, scale = problem()
    group = torch.tensor([0, 0, 1, 1, 1, 2])
    a, b = (torch.randn(6, WIDTH, dtype=torch.float64) for _ in range(2))
    every, swap = torch.ones(6, dtype=torch.bool), torch.tensor([1, 0, 4, 2, 3, 5])
    for options in OPTIONS:
        whole = info_nce(a, b, every, scale, group=group, **options)
        assert_close(info_nce(a, b[swap], every, scale, group=group, **options), whole)


def test_repeated_photos_are_their_rectangle_of_photos_and_captions() -> None:
    """With as many captions to each photo, a column per caption only adds log(captions) to the search for photos."""
    photos, captions = (F.normalize(torch.randn(n, WIDTH, dtype=torch.float64), dim=1) for n in (4, 12))
    group, every = torch.arange(4).repeat_interleave(3), torch.ones(12, dtype=torch.bool)
    logits = 5.0 * captions @ photos.T
    to_photos = F.cross_entropy(logits, group)
    to_captions = (logits.T.logsumexp(dim=1) - logits.T.unflatten(1, (4, 3)).mean(dim=2).diagonal()).mean()
    found = info_nce(photos[group], captions, every, 5.0, group=group)
    assert_close(found, (to_photos + math.log(3) + to_captions) / 2)


def test_streaming_gradient_against_differences() -> None:
    a, b, _, scale = problem()
    keep = torch.tensor([0, 1, 3, 4, 5])
    a, b = (x.detach()[keep].requires_grad_() for x in (a, b))
    every = torch.ones(5, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda *x: 3 * info_nce(x[0], x[1], every, x[2], 2), (a, b, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    a, b, valid, scale = problem(dtype)
    exact = info_nce(a.double(), b.double(), valid, scale.double())
    for loss in (info_nce(a, b, valid, scale), info_nce(a, b, valid, scale, 3)):
        assert loss.dtype == torch.float32
        assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


def test_large_logits_stay_finite() -> None:
    a, b, valid, _ = problem(torch.float32)
    for loss in (
        info_nce(a, b, valid, 1e4),
        info_nce(a, b, valid, 1e4, 3),
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
        "streaming": lambda: info_nce(a, b, valid, 5.0, chunk),
        "sigmoid": lambda: sigmoid_loss(a, b, valid, 5.0, -1.0, chunk),
        "full": lambda: info_nce(a, b, valid, 5.0),
    }
    largest = {}
    for name, loss in losses.items():
        with _Largest() as mode:
            loss().backward()
        largest[name] = mode.elements
    assert largest["streaming"] == rows * WIDTH, "the gradient is larger than any tile of logits"
    assert largest["sigmoid"] == rows * WIDTH
    assert largest["full"] == rows * rows


@pytest.mark.parametrize("pairs", [0, 1])
def test_too_few_pairs_are_refused(pairs: int) -> None:
    a, b, _, scale = problem()
    valid = torch.arange(ROWS) < pairs
    with pytest.raises(UserError, match="at least 2 valid pairs"):
        info_nce(a, b, valid, scale)
    if pairs == 0:
        with pytest.raises(UserError, match="at least 1 valid pair"):
            sigmoid_loss(a, b, valid, scale, 0.0)
    else:
        assert_close(sigmoid_loss(a, b, valid, scale, 0.0), F.softplus(-scale * a[0] @ b[0]))


def test_wrong_arguments_are_refused() -> None:
    a, b, valid, _ = problem()
    with pytest.raises(UserError, match="temperature"):
        info_nce(a, b, valid, math.nan)
    with pytest.raises(UserError, match="one shape"):
        info_nce(a, b[:3], valid, 1.0)
    with pytest.raises(UserError, match="one shape"):
        info_nce(a, b, valid.long(), 1.0)
    for group in (torch.ones(ROWS), torch.ones(3, dtype=torch.int64)):
        with pytest.raises(UserError, match="one whole number per row"):
            info_nce(a, b, valid, 1.0, group=group)
    for chunked in (lambda: info_nce(a, b, valid, 1.0, 0), lambda: sigmoid_loss(a, b, valid, 1.0, 0.0, 0)):
        with pytest.raises(UserError, match="chunk"):
            chunked()


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2)
    gathered, start = gather_with_grad(x)
    assert gathered is x
    assert start == 0
