"""Tucker: sums over all indices of the core, chunks, stand-ins for absent modalities, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, affine, assert_chunks, each_row, pnorm
from tests.fusion.references import reference
from tests.fusion.test_block import cut
from weft.errors import UserError
from weft.fusion.tucker import Tucker
from weft.tokens import Tokens, as_tokens


def chunks(module: Tucker, row: Row) -> list[Tensor]:
    filled = [f if v is None else v for f, v in zip(module.fillers, row, strict=True)]
    pieces = [cut(affine(p, v), module.sizes) for p, v in zip(module.project, filled, strict=True)]
    merged = []
    for c, core in enumerate(module.cores):
        outer = torch.ones(1, dtype=torch.float64)
        for piece in pieces:
            outer = torch.kron(outer, piece[c])
        merged.append(core.weight.flatten(1) @ outer + core.bias)
    return merged


@reference("tucker")
def tucker(module: Tucker, inputs: dict[str, Tokens]) -> Tensor:
    return each_row(module, inputs, lambda row: affine(module.out, torch.cat(chunks(module, row))))


@pytest.mark.parametrize("normalize", ["chunk", "whole", "none"])
def test_chunks_and_normalisations(normalize: str) -> None:
    module = Tucker({"a": 3, "b": 4}, 5, hidden=7, chunks=3, normalize=normalize).double()
    assert_chunks(module, chunks)


def test_public_names_of_block_tucker() -> None:
    """The bilinear layer of torch is the core of a chunk."""
    shapes = {"linear0": (7, 3), "linear1": (7, 4), "linear_out": (5, 7)}
    state = {f"{k}.weight": torch.randn(s, dtype=torch.float64) for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0], dtype=torch.float64) for k, s in shapes.items()}
    layers = [torch.nn.Bilinear(s, s, s, dtype=torch.float64) for s in (3, 3, 1)]
    for c, layer in enumerate(layers):
        state |= {f"bilinears.{c}.{k}": v.detach() for k, v in layer.named_parameters()}
    module = Tucker.from_official(state, normalize="chunk")
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    u, v = (z @ state[f"linear{m}.weight"].T + state[f"linear{m}.bias"] for m, z in enumerate((x, y)))
    z = [layer(a, b) for layer, a, b in zip(layers, u.split([3, 3, 1], 1), v.split([3, 3, 1], 1), strict=True)]
    joined = torch.stack([torch.cat([pnorm(c[row]) for c in z]) for row in range(2)])
    expected = joined @ state["linear_out.weight"].T + state["linear_out.bias"]
    found = module({"first": as_tokens(x), "second": as_tokens(y)}).vector
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_permuting_modalities_with_their_weights_changes_nothing() -> None:
    module = Tucker({"a": 3, "b": 4, "c": 5}, 6, hidden=4).double()
    other = Tucker({"c": 5, "a": 3, "b": 4}, 6, hidden=4).double()
    order = (2, 0, 1)
    state = dict(other.state_dict())
    for key, value in module.state_dict().items():
        group, _, rest = key.partition(".")
        if group in ("project", "fillers"):
            m, _, leaf = rest.partition(".")
            state[".".join(filter(None, (group, str(order.index(int(m))), leaf)))] = value
        else:
            state[key] = value.permute(0, *(m + 1 for m in order)) if key == "cores.0.weight" else value
    other.load_state_dict(state)
    inputs = {n: as_tokens(torch.randn(2, d, dtype=torch.float64)) for n, d in module.dims.items()}
    torch.testing.assert_close(module(inputs).vector, other(inputs).vector)


def test_the_published_width_is_refused_with_its_number() -> None:
    with pytest.raises(UserError, match=r"4,096,000,000 weights"):
        Tucker({"a": 2048, "b": 2400}, hidden=1600)
    assert Tucker.cost({"a": 2048, "b": 2400}, hidden=1600).parameters > 4_096_000_000


def test_the_default_width_keeps_the_core_small() -> None:
    for modalities in (2, 3, 5):
        module = Tucker({f"m{i}": 4 for i in range(modalities)}, 3)
        assert module.cores[0].weight.numel() <= 2**18
