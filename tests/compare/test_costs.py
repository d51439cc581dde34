"""What jobs will cost, before any has run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from tests.compare.cases import quick, small
from weft.compare.costs import Costs
from weft.compare.methods import Method
from weft.compare.prepare import prepare
from weft.errors import UserError
from weft.fusion import fusions, list_fusions

NEEDS = {
    ("combination", "serial"): {"attention": "multi-head"},
    ("combination", "parallel"): {"attention": "multi-head"},
}
"""Choices that go with another."""


def settings(name: str) -> Iterator[dict[str, Any]]:
    """The default options, each of them said, and every other choice of those that are a choice."""
    hints = get_type_hints(fusions.get(name).__init__)
    defaults = {option: field.default for option, field in fusions.schema(name).model_fields.items()}
    yield {}
    yield defaults
    for option, default in defaults.items():
        choices = get_args(hints[option]) if get_origin(hints[option]) is Literal else [default]
        choices = [True, False] if hints[option] is bool else choices
        yield from ({option: choice, **NEEDS.get((option, choice), {})} for choice in choices if choice != default)


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Costs:
    return Costs(prepare(small(), quick(), tmp_path_factory.mktemp("costs")))


@pytest.mark.parametrize("name", list_fusions())
def test_every_operator_has_an_estimate_before_it_runs(costs: Costs, name: str) -> None:
    for options in settings(name):
        found = costs._forward(Method(name, "network", ("a", "b"), fusion=name, options=options))
        assert found > 0, options


@pytest.mark.parametrize(
    ("error", "said"), [(UserError("no", "this", "do that"), None), (RuntimeError("no meta device"), "no meta device")]
)
def test_an_estimate_that_fails_says_so_where_the_job_might_not(
    costs: Costs, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, error: Exception, said: str | None
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(fusions.get("concat"), "cost", fail)
    method = Method(f"concat that fails with {type(error).__name__}", "network", ("a", "b"))
    assert costs._forward(method) == 0
    warned = [str(w.message) for w in recwarn]
    assert [method.name in w and said in w for w in warned] == [True] if said else not warned


def test_an_option_no_operator_has_is_left_to_its_job(costs: Costs) -> None:
    assert costs._forward(Method("misspelt", "network", ("a", "b"), options={"widht": 3})) == 0
