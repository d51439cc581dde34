"""BLOCK: one merge per chunk, three normalisations, and the cuts of the public code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, affine, assert_chunks, each_row, pnorm
from tests.fusion.references import reference
from tests.fusion.test_mutan import merge, project
from weft.errors import UserError
from weft.fusion.block import Block, chunk_sizes
from weft.tokens import Tokens


def cut(x: Tensor | None, sizes: list[int]) -> list[Tensor | None]:
    """Consecutive pieces."""
    starts = [sum(sizes[:c]) for c in range(len(sizes))]
    return [None if x is None else x[s : s + n] for s, n in zip(starts, sizes, strict=True)]


def chunks(module: Block, row: Row) -> list[Tensor]:
    pieces = [cut(x, module.sizes) for x in project(module.project, row)]
    return [merge(core, [piece[c] for piece in pieces]) for c, core in enumerate(module.cores)]


@reference("block")
def block(module: Block, inputs: dict[str, Tokens]) -> Tensor:
    return each_row(module, inputs, lambda row: affine(module.out, torch.cat([pnorm(z) for z in chunks(module, row)])))


@pytest.mark.parametrize("normalize", ["chunk", "whole", "none"])
@pytest.mark.parametrize("cuts", [3, (4, 4, 2)])
def test_normalisations_and_uneven_chunks(normalize: str, cuts: int | tuple[int, ...]) -> None:
    module = Block({"a": 3, "b": 4}, 5, hidden=10, chunks=cuts, rank=2, normalize=normalize).double()
    assert_chunks(module, chunks)


def test_public_names_keep_uneven_chunks() -> None:
    sizes, rank = (4, 4, 2), 2
    shapes = {"linear0": (10, 3), "linear1": (10, 4), "linear_out": (5, 10)}
    shapes |= {f"merge_linears{m}.{c}": (rank * s, s) for m in (0, 1) for c, s in enumerate(sizes)}
    state = {f"{k}.weight": torch.randn(s, dtype=torch.float64) for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0], dtype=torch.float64) for k, s in shapes.items()}
    module = Block.from_official(state, normalize="whole")
    assert module.sizes == [4, 4, 2]
    assert torch.equal(module.cores[2].factors[1].weight, state["merge_linears1.2.weight"])
    assert module.out.weight.dtype == torch.float64


def test_chunks_are_balanced() -> None:
    assert chunk_sizes("block", 20, 6) == [4, 4, 3, 3, 3, 3]
    assert chunk_sizes("block", 6, (1, 5)) == [1, 5]


@pytest.mark.parametrize("cuts", [0, -1, 7, (), (3, 0, 3), (3, 4)])
def test_wrong_chunks_are_refused(cuts: int | tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="hidden=6"):
        Block({"a": 3, "b": 4}, 5, hidden=6, chunks=cuts, rank=1)


def test_rank_above_a_chunk_is_refused() -> None:
    with pytest.raises(UserError, match="rank=4, width 3"):
        Block({"a": 3, "b": 4}, 5, hidden=6, chunks=2, rank=4)
