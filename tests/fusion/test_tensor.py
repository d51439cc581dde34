"""TFN: the explicit outer product, its blocks, the factored contraction, and the refusal of huge weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.fusion.products import Row, each_row, or_zeros
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion import create_fusion, fusions
from weft.fusion.tensor import TensorFusion
from weft.ops.bilinear import multilinear, outer, split_point, with_one
from weft.tokens import Tokens, as_tokens

HUGE = {"text": 768, "image": 1024, "audio": 512}


@reference("tfn")
def tfn(module: TensorFusion, inputs: dict[str, Tokens]) -> Tensor:
    def one(row: Row) -> Tensor:
        vectors = or_zeros(module, row)
        z = torch.ones(1, dtype=torch.float64)
        for m in module.product.order:
            z = torch.kron(z, torch.cat([torch.ones(1, dtype=torch.float64), vectors[m]]))
        return module.product.weight.flatten(1) @ z + module.bias

    return each_row(module, inputs, one)


def test_the_blocks_of_the_product_are_the_interactions_of_subsets() -> None:
    h = [torch.randn(3, d, dtype=torch.float64) for d in (2, 3, 4)]
    z = outer([with_one(v) for v in h]).view(3, 3, 4, 5)
    torch.testing.assert_close(z[:, 0, 0, 0], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(z[:, 1:, 0, 0], h[0])
    torch.testing.assert_close(z[:, 0, 1:, 1:], torch.einsum("bj,bk->bjk", h[1], h[2]))
    torch.testing.assert_close(z[:, 1:, 1:, 1:], torch.einsum("bi,bj,bk->bijk", *h))


@pytest.mark.parametrize(("widths", "outputs"), [((3,), 4), ((2, 9), 3), ((3, 4, 30), 5), ((2, 2, 3, 3, 4), 2)])
def test_factored_contraction_equals_the_explicit_product(widths: tuple[int, ...], outputs: int) -> None:
    weight = torch.randn(outputs, *widths, dtype=torch.float64, requires_grad=True)
    factors = [torch.randn(6, n, dtype=torch.float64, requires_grad=True) for n in widths]
    explicit = outer(factors) @ weight.flatten(1).T
    ours = multilinear(weight, factors)
    torch.testing.assert_close(ours, explicit, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(explicit)
    leaves = [weight, *factors]
    for a, b in zip(
        torch.autograd.grad(ours, leaves, probe), torch.autograd.grad(explicit, leaves, probe), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_split_takes_the_fewest_values_per_row() -> None:
    assert split_point((33, 33, 65), 128) == 1
    assert split_point((3, 3), 256) == 0
    assert split_point((5,) * 8, 2) == 4


def test_the_product_is_not_built() -> None:
    dims = {"audio": 32, "video": 32, "text": 64}
    product_bytes = 33 * 33 * 65 * 4
    assert TensorFusion.cost(dims, 128).activation_bytes < product_bytes / 4


def test_modality_order_does_not_change_the_map() -> None:
    """The widest modality first or last: the weights are stored narrow first, the nesting follows the given order."""
    official = torch.randn(4, 6 * 3 * 4, dtype=torch.float64)
    module = TensorFusion.from_official(
        {"post_fusion_layer_1.weight": official, "post_fusion_layer_1.bias": torch.zeros(4, dtype=torch.float64)},
        {"a": 5, "b": 2, "c": 3},
    )
    h = {n: torch.randn(2, d, dtype=torch.float64) for n, d in module.dims.items()}
    expected = outer([with_one(v) for v in h.values()]) @ official.T
    torch.testing.assert_close(module({n: as_tokens(v) for n, v in h.items()}).vector, expected)


def test_too_many_weights_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(UserError, match=r"1\.04e\+11 weights") as caught:
        create_fusion("tfn", HUGE)
    assert "lmf" in caught.value.remedy
    assert "narrower" in caught.value.remedy


def test_cost_tells_the_number_that_is_refused() -> None:
    assert TensorFusion.cost(HUGE).parameters == 256 * 769 * 1025 * 513 + 256


@pytest.mark.parametrize("name", ["tfn", "tucker", "multiplicative-interactions"])
def test_the_limit_is_an_option(name: str) -> None:
    dims = {"a": 4, "b": 5}
    with pytest.raises(UserError, match="max_weights=10"):
        create_fusion(name, dims, 8, max_weights=10)
    assert fusions.get(name).cost(dims, 8, max_weights=10).parameters > 10


def test_all_subsets_are_reachable() -> None:
    """Every subset of three modalities has a weight whose change the output sees only where the subset is present."""
    dims = {"a": 1, "b": 1, "c": 1}
    module = TensorFusion(dims, 1).double()
    for subset in itertools.product((0, 1), repeat=3):
        with torch.no_grad():
            module.product.weight.zero_()
            module.product.weight[0][subset] = 1.0
        for there in itertools.product((0, 1), repeat=3):
            inputs = {
                n: as_tokens(torch.ones(1, 1).double(), torch.tensor([bool(p)]))
                for n, p in zip(dims, there, strict=True)
            }
            expected = float(all(p >= s for p, s in zip(there, subset, strict=True)))
            assert module(inputs).vector.item() == expected


def test_sub_networks_make_the_modalities_narrow() -> None:
    """The product of ReLU layers; an absent modality is zero after its layer, whatever its bias."""
    dims = {"a": 7, "b": 5}
    module = TensorFusion(dims, 4, subnet=3).double()
    plain = TensorFusion({"a": 3, "b": 3}, 4).double()
    plain.load_state_dict({name: t for name, t in module.state_dict().items() if not name.startswith("subnets")})
    values = {name: torch.randn(6, d, dtype=torch.float64) for name, d in dims.items()}
    there = torch.arange(6) % 3 > 0
    narrow = {
        name: (values[name] @ layer.weight.T + layer.bias).clamp(min=0)
        for name, layer in zip(dims, module.subnets, strict=True)
    }
    found = module({"a": as_tokens(values["a"], there), "b": as_tokens(values["b"])})
    expected = plain({"a": as_tokens(narrow["a"], there), "b": as_tokens(narrow["b"])})
    torch.testing.assert_close(found.vector, expected.vector)
    assert TensorFusion.cost(HUGE, 128, subnet=32).parameters < 10_000_000
    with pytest.raises(UserError, match="subnet=-1"):
        TensorFusion(dims, 4, subnet=-1)
