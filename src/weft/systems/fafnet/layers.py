r"""Layers over complex maps, kept as ``(B, 2, C, F, T)``: real part, imaginary part.

Source: Hu et al., DCCRN (Interspeech 2020), as FAF-Net uses them. A complex convolution has two real ones, each with
its own bias,

.. math:: y_r = W_r(x_r) - W_i(x_i), \qquad y_i = W_r(x_i) + W_i(x_r)

so the parts get the biases ``b_r - b_i`` and ``b_r + b_i``. It is computed as one real convolution of twice the
channels or, where channels are many, as three products instead of four (Gauss): ``W_r (x_r + x_i) + b_r``,
``(W_i - W_r) x_r + b_i``, ``(W_r + W_i) x_i + b_i``. The norm is that of each real channel of each part, not
whitening: one batch norm of ``2 C``. A transposed convolution to a few channels is a matrix product and a sum of
overlapping patches. Where nothing is learned from, intermediate maps are overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

MANY, FEW = 32, 8
TINY = 1e-30


class ComplexConv2d(nn.Module):
    """``(B, 2, C, F, T)`` to ``(B, 2, O, F', T')``.

    Args:
        inputs, outputs: channels ``C`` and ``O``.
        kernel, stride, padding, dilation: pairs, over frequency and time.
        transposed: a transposed convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        kind: Any = nn.ConvTranspose2d if transposed else nn.Conv2d
        shape = {"stride": stride, "padding": padding, "dilation": dilation}
        self.real, self.imag = (kind(inputs, outputs, kernel, **shape) for _ in range(2))
        self.transposed, self.many = transposed, min(inputs, outputs) >= MANY

    def forward(self, x: Tensor) -> Tensor:
        w_re, w_im, b_re, b_im = self.real.weight, self.imag.weight, self.real.bias, self.imag.bias
        if self.many:
            re, im = x.unbind(1)
            with _made_again((re, im, 1), (w_re, w_im, 1), (w_im, w_re, -1)) as (total, plus, minus):
                both = self._product(total, w_re, b_re)
                if torch.is_grad_enabled():
                    return torch.stack(
                        [both - self._product(im, plus, b_im), both + self._product(re, minus, b_im)], dim=1
                    )
                out = both.new_empty(len(both), 2, *both.shape[1:])
                torch.sub(both, self._product(im, plus, b_im), out=out[:, 0])
                torch.add(both, self._product(re, minus, b_im), out=out[:, 1])
                return out
        across = -w_im if self.transposed else w_im  # its weights are (inputs, outputs, ...)
        weight = torch.cat([torch.cat([w_re, -across], dim=1), torch.cat([across, w_re], dim=1)])
        return self._product(x.flatten(1, 2), weight, torch.cat([b_re - b_im, b_re + b_im])).unflatten(1, (2, -1))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        like = self.real
        if not self.transposed:
            return F.conv2d(x, weight, bias, like.stride, like.padding, like.dilation)
        if self.many or len(bias) >= FEW:
            return F.conv_transpose2d(x, weight, bias, like.stride, like.padding, dilation=like.dilation)
        size = tuple(
            (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for n, stride, padding, dilation, kernel in zip(
                x.shape[2:], like.stride, like.padding, like.dilation, like.kernel_size, strict=True
            )
        )
        patches = weight.flatten(1).mT @ x.flatten(2)
        return F.fold(patches, size, like.kernel_size, like.dilation, like.padding, like.stride) + bias[:, None, None]


@contextmanager
def _made_again(*sums: tuple[Tensor, Tensor, int]) -> Iterator[list[Tensor]]:
    """``a + sign b`` of each, which a backward pass adds up again instead of keeping them."""
    made = [torch.add(a, b, alpha=sign) for a, b, sign in sums]
    parts = {x.data_ptr(): (a.detach(), b.detach(), sign) for x, (a, b, sign) in zip(made, sums, strict=True)}

    def again(kept: Tensor | tuple[Tensor, Tensor, int]) -> Tensor:
        return torch.add(kept[0], kept[1], alpha=kept[2]) if isinstance(kept, tuple) else kept

    with saved_tensors_hooks(lambda x: parts.get(x.data_ptr(), x), again):
        yield made


class ComplexNorm(nn.BatchNorm2d):
    """Batch norm of every real channel of ``(B, 2, C, F, T)``; weights ``(2 C,)``, those of the real part first.

    Args:
        channels: ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1, 2)).view_as(x)


class ResidualBlock(nn.Module):
    """``relu(x + conv(relu(conv(x))))``, 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (ComplexConv2d(channels, channels, (3, 3), padding=(1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x).relu_())).relu_()


class ChannelAttention(nn.Module):
    r"""Several maps to one, their channels weighted: ``conv(s g)``,

    .. math:: g = \sigma(W_2 \, \mathrm{relu}(W_1 \, \mathrm{mean}_{F,T} |s|))

    Args:
        inputs, outputs: channels of all maps together, and of the answer.
        reduction: how much narrower the middle is.
    """

    def __init__(self, inputs: int, outputs: int, reduction: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(inputs, inputs // reduction), nn.Linear(inputs // reduction, inputs)
        self.conv = ComplexConv2d(inputs, outputs, (3, 3), padding=(1, 1))

    def forward(self, *maps: Tensor) -> Tensor:
        level = torch.cat([magnitude(part).mean(dim=(2, 3)) for part in maps], dim=1)
        gates = self.excite(self.squeeze(level).relu()).sigmoid()[:, None, :, None, None]
        if not torch.is_grad_enabled():
            return self.conv(torch.cat(maps, dim=2).mul_(gates))
        shares = gates.split([part.shape[2] for part in maps], dim=2)
        return self.conv(torch.cat([part * share for part, share in zip(maps, shares, strict=True)], dim=2))


class SimilarityFusion(nn.Module):
    r"""What is heard in the reference at every frame: candidates weighted by likeness, joined by a convolution,

    .. math::
        a_{t,k} = \mathrm{softmax}_k \langle |x_t|, |\hat R_{k,t}| \rangle, \qquad
        \mathrm{conv}([a_1 \hat R_1, \ldots, a_K \hat R_K])

    Args:
        candidates: ``K``.
        channels: ``C``.
    """

    def __init__(self, candidates: int, channels: int) -> None:
        super().__init__()
        self.conv = ComplexConv2d(candidates * channels, channels, (3, 3), padding=(1, 1))

    def forward(self, x: Tensor, found: Tensor) -> Tensor:
        """``(B, 2, C, F, T)`` and the candidates ``(B, 2, K, C, F, T)``, overwritten without gradients, to
        ``(B, 2, C, F, T)``."""
        likeness = _times(magnitude(found), magnitude(x).unsqueeze(1)).sum(dim=(2, 3))
        return self.conv(_times(found, likeness.softmax(dim=1)[:, None, :, None, None]).flatten(2, 3))


def _times(x: Tensor, by: Tensor) -> Tensor:
    """The product; where nothing is learned from, in place of ``x``."""
    return x * by if torch.is_grad_enabled() else x.mul_(by)


def magnitude(x: Tensor) -> Tensor:
    """``(B, 2, ...)`` to ``(B, ...)``; its gradient at zero is zero."""
    re, im = x.unbind(1)
    return (re * re + im * im + TINY).sqrt() if torch.is_grad_enabled() else torch.hypot(re, im)


def select(reference: Tensor, indices: Tensor, mixed: bool = False) -> Tensor:
    """The frames of the reference that belong to every frame.

    Args:
        reference: ``(B, 2, C, F, T_ref)``.
        indices: ``(B, T, K)``.
        mixed: as the published code does, which permutes to ``(C, K)`` and reads the memory as ``(K, C)``: a candidate
            is made of channels of several. Published weights need it.

    Returns:
        ``(B, 2, K, C, F, T)``.
    """
    batch, _, channels, bins, _ = reference.shape
    k = indices.shape[2]
    places = indices.mT.reshape(batch, 1, 1, 1, -1).expand(batch, 2, channels, bins, -1)
    found = reference.gather(-1, places).unflatten(-1, (k, -1)).movedim(-2, 3 if mixed else 2)
    return found.contiguous().view(batch, 2, k, channels, bins, -1)
