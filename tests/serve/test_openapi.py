"""The interface that ``/openapi.json`` describes is the one that answers: schemathesis makes requests of it and against
it, and every answer has a documented status and form; what is wrong is refused, nothing is a 5xx."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serve.test_serve import folder as folder
from weft.data import load_dataset
from weft.serve.app import create_app
from weft.serve.engine import Engine

load_all_checks()
FEW = settings(max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", ["model", "pairs"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_what_is_described_is_what_answers(folder: Path, name: str, mode: GenerationMode) -> None:
    """That a request of the right form is taken is not asked: which words a model reads, no schema can say."""
    app = create_app(Engine(folder / name, source=load_dataset("shapes", rows=90) if name == "pairs" else None))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 8
    for operation in operations:

        @FEW
        @given(case=operation.as_strategy(mode))
        def answers(case: Case) -> None:
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        if mode is GenerationMode.POSITIVE or operation.body:
            answers()
