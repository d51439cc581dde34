r"""Products of modalities: outer, multilinear, elementwise, sketched, and their normalisation.

``B`` rows, ``M`` factors of widths ``n_m``, ``h`` a common width. Half-precision factors are multiplied in float32,
because a product of several unnormalised features overflows float16 and loses bits in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from math import prod, sqrt
from operator import mul
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.tokens import Tokens, recorded

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "elu", "none"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
    "gelu": F.gelu,
    "elu": F.elu,
    "none": lambda x: x,
}
HALF = (torch.float16, torch.bfloat16)
SMALLEST_HALF = 1e-6
VALUES = 2**17
"""A contraction holds no fewer values at a time where there are as many: half a MiB of float32."""


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 where it is in half precision; itself otherwise."""
    return x.float() if x.dtype in HALF else x


def with_one(x: Tensor) -> Tensor:
    """``[1, x]``: ``(..., n) -> (..., n + 1)``, the constant first."""
    return torch.constant_pad_nd(x, (1, 0), 1.0)


def outer(factors: Sequence[Tensor]) -> Tensor:
    r"""Flattened outer product ``(B, prod n_m)`` of factors ``(B, n_m)``, row-major, the first factor outermost."""
    return reduce(lambda z, f: (z.unsqueeze(2) * f.unsqueeze(1)).flatten(1), factors)


def split_point(widths: Sequence[int], outputs: int) -> int:
    r"""How many leading factors :func:`multilinear` contracts last: the fewest values per row.

    With :math:`k` of them the intermediate results are :math:`P \prod_{m \le k} n_m` and :math:`\prod_{m > k} n_m`
    values; ``k = 0`` is the full outer product.
    """
    return min(range(len(widths)), key=lambda k: (outputs * prod(widths[:k]) if k else 0) + prod(widths[k:]))


def multilinear(weight: Tensor, factors: Sequence[Tensor]) -> Tensor:
    r"""Multilinear map without its outer product.

    .. math:: y_p = \sum_{i_1 \dots i_M} W[p, i_1, \dots, i_M] \prod_m z_m[i_m]

    The weight is contracted with the trailing factors (one matrix product), the result with the leading ones. Put
    narrow factors first: they are contracted last. ``2 B P prod n_m`` multiply-adds, as with the outer product, but
    :math:`P \prod_{m \le k} n_m + \prod_{m > k} n_m` values per row instead of :math:`\prod_m n_m`.

    Args:
        weight: ``(P, n_1, ..., n_M)``.
        factors: ``(B, n_m)`` each.

    Returns:
        ``(B, P)``.
    """
    outputs, *widths = weight.shape
    k = split_point(widths, outputs) or int(len(widths) > 1 and prod(widths[1:]) <= outputs)
    factors = [wide(f) for f in factors]
    trailing = outer(factors[k:]).to(weight.dtype)
    if k == 0:
        return F.linear(trailing, weight.flatten(1))
    leading, weight = outer(factors[:k]), weight.reshape(outputs, prod(widths[:k]), -1)
    if trailing.shape[1] > outputs or recorded():
        return _contract(weight, leading, trailing)
    return _Contraction.apply(weight, leading, trailing)


def _contract(weight: Tensor, leading: Tensor, trailing: Tensor) -> Tensor:
    """``(P, k, t)``, ``(B, k)`` and ``(B, t)`` to ``(B, P)``, the trailing first."""
    partial = F.linear(trailing, weight.flatten(0, 1)).unflatten(1, weight.shape[:2])
    return (wide(partial) @ leading.unsqueeze(2)).squeeze(2).to(partial.dtype)


class _Contraction(torch.autograd.Function):
    r""":func:`_contract` that keeps its arguments alone, some rows at a time.

    .. math::
        Q_{bkt} = \sum_p g_{bp} W_{pkt}, \quad dx_{bk} = \sum_t Q_{bkt} y_{bt}, \quad
        dy_{bt} = \sum_k Q_{bkt} x_{bk}, \quad dW_{pkt} = \sum_b g_{bp} x_{bk} y_{bt}

    As many multiply-adds as through the values between, of which ``Q`` has no more where ``t`` is at most ``P``.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, leading: Tensor, trailing: Tensor) -> Tensor:
        ctx.save_for_backward(weight, leading, trailing)
        return torch.cat([_contract(weight, *rows) for rows in _some_rows(weight, leading, trailing)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        weight, leading, trailing = ctx.saved_tensors
        flat, parts = weight.flatten(1), []
        d_weight = torch.zeros_like(flat) if ctx.needs_input_grad[0] else None
        for g, x, y in _some_rows(weight, grad.to(weight.dtype), leading, trailing):
            both = wide(g @ flat).unflatten(1, weight.shape[1:])
            parts.append(((both @ wide(y).unsqueeze(2)).squeeze(2), (x.unsqueeze(1) @ both).squeeze(1).to(y.dtype)))
            del both
            if d_weight is not None:
                d_weight.addmm_(g.mT, outer([x, wide(y)]).to(g.dtype))
        d_leading, d_trailing = (torch.cat(part) for part in zip(*parts, strict=True))
        return None if d_weight is None else d_weight.view_as(weight), d_leading, d_trailing


def _some_rows(weight: Tensor, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """``(B, n)`` each, in pieces of as many rows as make ``(rows, k, t)`` small beside the weight ``(P, k, t)``."""
    outputs, leading, trailing = weight.shape
    rows = max(outputs // 4, VALUES // (leading * trailing), 1)
    if len(values[0]) <= rows:
        return iter([values])
    return zip(*(v.split(rows) for v in values), strict=True)


def product(factors: Sequence[Tensor]) -> Tensor:
    """The elementwise product of factors of one shape, in their dtype."""
    if factors[0].dtype in HALF:
        return reduce(mul, [f.float() for f in factors]).to(factors[0].dtype)
    return reduce(mul, factors)


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of a name, for the output of a linear layer: it may be written over its argument.

    Raises:
        UserError: there is none.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"an activation is one of {', '.join(ACTIVATIONS)}", f"{name!r}", "choose one of these")
    return ACTIVATIONS[name]


def gain_of(activation: Activation) -> float:
    """How much larger than 1 the standard deviation of an activation's input is for one of about 1 after it."""
    return nn.init.calculate_gain(activation) if activation in ("relu", "tanh", "sigmoid") else 1.0


def signed_sqrt(z: Tensor) -> Tensor:
    r"""``sign(z) sqrt(|z|)`` with gradient 0 at 0, where the plain formula has NaN.

    The slope grows without bound near 0. In half precision values below 1e-6 therefore count as 0.
    """
    exact = wide(z)
    if exact.dtype != z.dtype:
        exact = torch.where(exact.abs() < SMALLEST_HALF, 0.0, exact)
    return (torch.sqrt(torch.relu(exact)) - torch.sqrt(torch.relu(-exact))).to(z.dtype)


def power_normalize(z: Tensor) -> Tensor:
    """Signed square root of ``(..., D)``, then unit length along the last axis (eps 1e-12)."""
    return F.normalize(wide(signed_sqrt(z)), dim=-1, eps=1e-12).to(z.dtype)


def count_sketch(x: Tensor, index: Tensor, sign: Tensor, size: int) -> Tensor:
    """``c[index[i]] += sign[i] x[i]``: ``(B, n) -> (B, size)``.

    Args:
        x: ``(B, n)``.
        index: ``(n,)`` int64 in ``[0, size)``.
        sign: ``(n,)``, -1 or 1.
        size: width of the sketch.
    """
    return x.new_zeros(x.shape[0], size).index_add(1, index, x * sign.to(x.dtype))


def circular_convolution(sketches: Sequence[Tensor], there: Tensor) -> Tensor:
    """Circular convolution ``(B, D)`` of the present sketches ``(B, D)``, by FFT; an absent one is the unit impulse.

    Entries below the rounding error of the FFT, ``16 eps`` times the product of the norms, are set to 0: a signed
    square root would blow them up.
    """
    sketches = [wide(s) for s in sketches]
    columns = [there[:, m : m + 1] for m in range(len(sketches))]
    spectra = [torch.where(c, torch.fft.rfft(s), 1.0) for c, s in zip(columns, sketches, strict=True)]
    norms = [torch.where(c, s.detach().norm(dim=1, keepdim=True), 1.0) for c, s in zip(columns, sketches, strict=True)]
    z = torch.fft.irfft(reduce(mul, spectra), n=sketches[0].shape[1])
    return torch.where(z.abs() > 16 * torch.finfo(z.dtype).eps * reduce(mul, norms), z, 0.0)


def vectors(inputs: Mapping[str, Tokens]) -> list[Tensor]:
    """Pooled modalities, of one token each, as vectors ``(B, D_m)``."""
    return [t.values.flatten(1) for t in inputs.values()]


def presence(inputs: Mapping[str, Tokens]) -> Tensor:
    """Which pooled modalities are there, ``(B, M)`` bool."""
    return torch.cat([t.mask for t in inputs.values()], dim=1)


def unit_variance_(linear: nn.Linear, energy: float) -> nn.Linear:
    """Initialise so that inputs of mean squared norm ``energy`` give outputs of variance 1; the bias is 0."""
    nn.init.normal_(linear.weight, std=1 / sqrt(energy))
    nn.init.zeros_(linear.bias)
    return linear


def factor_of_product_(linear: nn.Linear, energy: float) -> nn.Linear:
    """As :func:`unit_variance_`, half of the variance from the bias: for maps whose outputs are multiplied.

    A product of such factors begins as a sum over all subsets of the modalities, with equal weight. With a bias of 0 it
    begins as the product of all of them alone, in which one modality of noise hides every other, and training does not
    find the way out.
    """
    nn.init.normal_(linear.weight, std=sqrt(0.5 / energy))
    nn.init.normal_(linear.bias, std=sqrt(0.5 * linear.in_features / energy))
    return linear


def check_positive(who: str, **values: int) -> None:
    """Refuse options that are not positive.

    Raises:
        UserError: one is not.
    """
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{who}: {name} is a positive integer", f"{name}={value}", f"leave {name} at its default")


def refuse_oversized(who: str, weights: int, most: int, remedy: str) -> None:
    """Refuse a weight tensor before it is allocated. On the meta device, where nothing is, any size passes.

    Raises:
        UserError: ``weights`` exceeds ``most``.
    """
    if weights > most and torch.empty(0).device.type != "meta":
        raise UserError(
            f"{who} would need {weights:.3g} weights ({weights * 4 / 2**30:,.1f} GiB in float32, four times that with "
            f"gradient and Adam moments)",
            f"{weights:,} weights, max_weights={most:,}",
            remedy,
        )
