"""Weights of the public code of BLOCK: chunks as that code cuts them, options as it has them, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from tests.fusion.products import pnorm
from weft.errors import UserError
from weft.fusion import create_fusion
from weft.fusion.bilinear import BilinearFusion
from weft.fusion.block import Block
from weft.fusion.linear_sum import LinearSum
from weft.fusion.mfb import FactorizedHighOrder
from weft.fusion.mlb import LowRankBilinear
from weft.fusion.tucker import Tucker
from weft.tokens import as_tokens

HIDDEN, OUT = 9, 5
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "elu": F.elu,
    "relu": torch.relu,
    "tanh": torch.tanh,
}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random parameters: of ``name`` with its weight's shape, the bias as long as its first axis."""
    torch.manual_seed(0)
    shapes = {"linear0": (HIDDEN, 3), "linear1": (HIDDEN, 4), "linear_out": (OUT, HIDDEN), **shapes}
    state = {f"{k}.weight": torch.randn(s, dtype=torch.float64) for k, s in shapes.items()}
    return state | {f"{k}.bias": torch.randn(s[0], dtype=torch.float64) for k, s in shapes.items()}


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def run(module: BilinearFusion, *x: Tensor) -> Tensor:
    return module({name: as_tokens(v) for name, v in zip(module.names, x, strict=True)}).vector


@pytest.fixture
def pair() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(4, d, dtype=torch.float64) for d in (3, 4)]


@pytest.mark.parametrize("sizes", [(4, 4, 1), (3, 3, 3, 0), (5, 4), (9, 0, 0)])
@pytest.mark.parametrize("rank", [2, 3, 6])
def test_block_with_chunks_as_the_public_code_cuts_them(sizes: tuple[int, ...], rank: int, pair: list[Tensor]) -> None:
    """A short last chunk may be narrower than the rank, a further one empty."""
    state = weights({f"merge_linears{m}.{c}": (rank * s, s) for m in (0, 1) for c, s in enumerate(sizes)})
    parts = [linear(state, f"linear{m}", x).split(sizes, dim=1) for m, x in enumerate(pair)]
    merged = []
    for c, size in enumerate(sizes):
        a, b = (linear(state, f"merge_linears{m}.{c}", parts[m][c]) for m in (0, 1))
        z = (a * b).view(4, rank, size).sum(1)
        merged.append(torch.stack([pnorm(row) for row in z]) if size else z)
    module = Block.from_official(state)
    assert module.sizes == [size for size in sizes if size]
    assert_close(run(module, *pair), linear(state, "linear_out", torch.cat(merged, dim=1)), rtol=1e-10, atol=1e-10)


def test_block_tucker_with_an_empty_chunk(pair: list[Tensor]) -> None:
    sizes = (5, 4, 0)
    state = weights({f"bilinears.{c}": (s, s, s) for c, s in enumerate(sizes)})
    parts = [linear(state, f"linear{m}", x).split(sizes, dim=1) for m, x in enumerate(pair)]
    merged = [
        F.bilinear(parts[0][c], parts[1][c], state[f"bilinears.{c}.weight"], state[f"bilinears.{c}.bias"])
        for c in range(2)
    ]
    module = Tucker.from_official(state)
    assert_close(run(module, *pair), linear(state, "linear_out", torch.cat(merged, dim=1)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("cls", [LinearSum, LowRankBilinear])
def test_activations_and_normalisation(
    cls: type[BilinearFusion], normalize: bool, name: str, pair: list[Tensor]
) -> None:
    state = weights({})
    f = ACTIVATIONS[name]
    a, b = (f(linear(state, f"linear{m}", x)) for m, x in enumerate(pair))
    z = a + b if cls is LinearSum else a * b
    z = torch.stack([pnorm(row) for row in z]) if normalize else z
    module = cls.from_official(state, activation=name, output_activation=name, normalize=normalize)
    assert_close(run(module, *pair), f(linear(state, "linear_out", z)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["mlb", "mfb", "mfh", "linear-sum"])
@pytest.mark.parametrize("option", ["activation", "output_activation"])
def test_an_unknown_activation_is_named(name: str, option: str) -> None:
    with pytest.raises(UserError, match="swish"):
        create_fusion(name, {"a": 3, "b": 4}, 5, **{option: "swish"})


@pytest.mark.parametrize("cls", [Block, Tucker, LowRankBilinear, FactorizedHighOrder])
def test_other_parameters_are_refused(cls: type[BilinearFusion]) -> None:
    with pytest.raises(UserError, match="not the parameters"):
        cls.from_official({"fc.weight": torch.zeros(2, 2)})
