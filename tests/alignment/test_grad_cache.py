"""GradCache: its dropout masks, its memory, its errors. (Equality with the whole batch: tests/contract.)"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contract.processes import train
from tests.elsewhere import CPU, THERE, elsewhere
from weft.alignment.grad_cache import chunks, grad_cache
from weft.errors import UserError
from weft.tokens import as_tokens


def plainly(embed: Any, inputs: Any, chunk: int) -> dict[str, Tensor]:
    """Chunk after chunk with every activation kept."""
    parts = [embed(part) for part in chunks(inputs, chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_dropout_is_the_same_both_times() -> None:
    found, expected = (
        torch.manual_seed(3) and train("infonce", {}, slice(None), 4, dropout=0.5, embed=embed)
        for embed in (grad_cache, plainly)
    )
    assert_close(found.loss, expected.loss)
    for one, other in zip(found.parameters, expected.parameters, strict=True):
        assert_close(one, other)
    torch.manual_seed(4)
    other = train("infonce", {}, slice(None), 4, dropout=0.5)
    assert not torch.isclose(other.loss, found.loss), "another seed drops other units"


def test_no_activation_outlives_the_embedding() -> None:
    """After the first pass nothing but the embeddings is in memory; plainly, every layer's output is."""
    encoder = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(10)))
    outputs: list[weakref.ref[Tensor]] = []
    for layer in encoder:
        layer[1].register_forward_hook(lambda module, inputs, output: outputs.append(weakref.ref(output)))
    inputs = {"a": as_tokens(torch.randn(64, 8))}

    def alive(embed: Any) -> int:
        outputs.clear()
        kept = embed(lambda part: {"a": encoder(part["a"].values[:, 0])}, inputs, 8)
        assert len(outputs) == 80
        assert kept["a"].shape == (64, 8)
        return sum(output() is not None for output in outputs)

    assert alive(plainly) >= 72, "all but the last layer of every chunk"
    assert alive(grad_cache) == 0


def test_chunks_are_all_rows_in_order() -> None:
    inputs = {"a": as_tokens(torch.arange(7.0).unsqueeze(1)), "b": as_tokens(torch.arange(7.0).unsqueeze(1) + 10)}
    parts = list(chunks(inputs, 3))
    assert [len(part["a"].mask) for part in parts] == [3, 3, 1]
    assert torch.cat([part["b"].values for part in parts]).flatten().tolist() == [10.0 + i for i in range(7)]
    assert len(next(chunks(inputs, 100))["a"].mask) == 7


def test_what_is_embedded_once_more_is_where_it_was() -> None:
    """On a device beside the CPU (a stand-in, which finds what is brought from the wrong one)."""
    with elsewhere():
        layer, inputs = nn.Linear(3, 2).to(THERE), {"a": as_tokens(torch.randn(5, 3)).to(THERE)}
        found = grad_cache(lambda part: {"a": layer(part["a"].values[:, 0])}, inputs, 2)["a"]
        found.sum().backward()
        assert {found.device, layer.weight.grad.device} == {THERE}
        places = iter([THERE, CPU])
        once = grad_cache(lambda part: {"a": layer(part["a"].values[:, 0].to(next(places)))}, inputs, 5)["a"]
        with pytest.raises(RuntimeError, match="metadata"):
            once.sum().backward()


def test_chunk_is_positive() -> None:
    with pytest.raises(UserError, match="chunk=0"):
        grad_cache(lambda inputs: {}, {}, 0)
