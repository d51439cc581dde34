"""What the slow references of the product family share: one row at a time, absent modalities as None."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tests.fusion.references import pooled
from weft.fusion import Fusion
from weft.fusion.block import Block
from weft.fusion.tucker import Tucker
from weft.tokens import Tokens, as_tokens

Row = list[Tensor | None]


def each_row(module: Fusion, inputs: dict[str, Tokens], one: Callable[[Row], Tensor]) -> Tensor:
    """``one`` applied to the pooled vectors of every row."""
    return torch.stack([one(row) for row in _rows(module, inputs)])


def _rows(module: Fusion, inputs: dict[str, Tokens]) -> Iterator[Row]:
    for row in range(len(next(iter(inputs.values())).mask)):
        yield [pooled(inputs[name], row) for name in module.dims]


def or_zeros(module: Fusion, row: Row) -> list[Tensor]:
    """Zeros of the modality's width where it is absent."""
    widths = module.dims.values()
    return [torch.zeros(d, dtype=torch.float64) if v is None else v for v, d in zip(row, widths, strict=True)]


def affine(linear: torch.nn.Linear, x: Tensor) -> Tensor:
    """``W x + b`` of one vector, by loops over the outputs."""
    return torch.stack([(w * x).sum() + b for w, b in zip(linear.weight, linear.bias, strict=True)])


def pnorm(z: Tensor) -> Tensor:
    """Signed square root and unit length of one vector."""
    root = torch.stack([v.sign() * v.abs().sqrt() for v in z])
    return root / max(root.norm().item(), 1e-12)


def assert_chunks(module: Block | Tucker, chunks: Callable[[Block | Tucker, Row], list[Tensor]]) -> None:
    """The module equals its chunks, normalised as it says and joined."""
    h = {n: torch.randn(3, d, dtype=torch.float64) for n, d in module.dims.items()}
    for row, y in enumerate(module({n: as_tokens(v) for n, v in h.items()}).vector):
        z = chunks(module, [v[row] for v in h.values()])
        joined = torch.cat([pnorm(c) for c in z] if module.normalize == "chunk" else z)
        torch.testing.assert_close(y, affine(module.out, pnorm(joined) if module.normalize == "whole" else joined))


def product_of(factors: list[Tensor]) -> Tensor:
    """Elementwise product of the factors that are there."""
    total = torch.ones_like(factors[0])
    for factor in factors:
        total = total * factor
    return total
