"""What the product family shares: the meaning of ``per_modality``, the scale at the start, half precision."""

from __future__ import annotations

import pytest
import torch

from weft.fusion import Fusion, create_fusion
from weft.tokens import Tokens, as_tokens

FAMILY = [
    *("tfn", "lmf", "multiplicative-interactions", "mcb", "mlb", "mfb", "mfh", "mutan", "tucker", "block"),
    *("film", "highway", "linear-sum"),
]
UNIT_VARIANCE = [
    ("tfn", {}),
    ("lmf", {}),
    ("lmf", {"rank": 16}),
    ("multiplicative-interactions", {}),
    ("mcb", {}),
    ("mlb", {"activation": "none"}),
    ("mlb", {"activation": "relu"}),
    ("mfb", {"normalize": False}),
    ("mfb", {}),
    ("mfh", {}),
    ("mutan", {}),
    ("mutan", {"normalize": True}),
    ("block", {}),
    ("block", {"normalize": "whole"}),
    ("block", {"normalize": "none"}),
    ("tucker", {}),
]


def build(name: str, dims: dict[str, int], dim: int, **options: object) -> Fusion:
    torch.manual_seed(0)
    return create_fusion(name, dims, dim, **options).double().eval()


def sample(dims: dict[str, int], rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(rows, d, generator=generator, dtype=torch.float64) for n, d in dims.items()}


@pytest.mark.parametrize("name", FAMILY)
def test_per_modality_is_the_vector_of_a_row_with_that_modality_alone(name: str) -> None:
    dims = {"a": 5, "b": 6, "c": 3}
    module = build(name, dims, 8, **({"rank": 2} if name in ("mutan", "block") else {}))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    values = sample(dims, 4)
    together = module({n: as_tokens(v) for n, v in values.items()})
    for kept in dims:
        mask = {n: torch.full((4,), n == kept) for n in dims}
        alone: dict[str, Tokens] = {n: as_tokens(v, mask[n]) for n, v in values.items()}
        torch.testing.assert_close(together.per_modality[kept], module(alone).vector)


@pytest.mark.parametrize(("name", "options"), UNIT_VARIANCE)
@pytest.mark.parametrize("modalities", [2, 3])
def test_outputs_start_with_variance_near_one(name: str, options: dict[str, object], modalities: int) -> None:
    dims = {f"m{i}": d for i, d in enumerate((20, 30, 24)[:modalities])}
    module = build(name, dims, 64, **options)
    with torch.no_grad():
        variance = module({n: as_tokens(v) for n, v in sample(dims, 400).items()}).vector.var()
    assert 0.4 < float(variance) < 2.5


@pytest.mark.parametrize("name", ["mcb", "mfb", "mfh", "block"])
def test_normalised_products_have_finite_gradients_at_zero(name: str) -> None:
    module = build(name, {"a": 5, "b": 6}, 8, **({"rank": 2} if name == "block" else {}))
    for precision in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        leaves = {n: torch.zeros(2, d, dtype=precision, requires_grad=True) for n, d in module.dims.items()}
        vector = module.to(precision)({n: as_tokens(v) for n, v in leaves.items()}).vector
        vector.float().sum().backward()
        assert all(bool(v.grad.isfinite().all()) for v in leaves.values())
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())
        module.zero_grad()
