"""Every registered fusion keeps every promise of the contract. There is no list of exceptions."""

from __future__ import annotations

import pytest
from torch.testing import assert_close

from tests.contract.fusion_checks import CHECKS, TIGHT, compiles
from tests.contract.sampling import build, sample, sizes, widths
from tests.fusion.references import find_reference
from weft.fusion import fusions, list_fusions


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", list_fusions())
def test_contract(name: str, check: str) -> None:
    CHECKS[check](fusions.get(name))


@pytest.mark.parametrize("name", list_fusions())
def test_equal_to_a_slow_reference(name: str) -> None:
    slow = find_reference(name)
    assert slow is not None, f'write @reference("{name}") in tests/fusion (see tests/fusion/references.py)'
    cls = fusions.get(name)
    for count in sizes(cls):
        dims = widths(cls, count)
        module, inputs = build(cls, dims), sample(cls, dims, batch=7)
        expected = slow(module, inputs)
        assert_close(module(inputs).vector, expected, **TIGHT)


@pytest.mark.parametrize("name", list_fusions())
def test_says_where_it_comes_from(name: str) -> None:
    assert fusions.get(name).paper


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    compiles(fusions.get("gated"), backend="inductor")
