"""The examples in docstrings are run, and every base class has one."""

from __future__ import annotations

import doctest
import importlib

import pytest

EXAMPLES = {
    "weft.tokens": "Tokens",
    "weft.fusion.base": "Fusion",
    "weft.alignment.base": "Aligner, Objective",
    "weft.encoders.base": "Encoder",
    "weft.store.features": "MemoryFeatures",
    "weft.tasks.base": "Task",
    "weft.training.system": "System",
    "weft.compare": "",
    "weft.compare.frames": "compare_frame",
    "weft.models.push": "push",
    "weft.estimators.aligners": "ClosedFormAligner",
    "weft.estimators.predictors": "WeftClassifier, WeftRegressor",
}


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_run(module: str) -> None:
    found = importlib.import_module(module)
    result = doctest.testmod(found, raise_on_error=False, verbose=False)
    assert result.attempted >= 3
    assert result.failed == 0


@pytest.mark.parametrize(("module", "names"), [(m, n) for m, n in EXAMPLES.items() if n])
def test_every_base_class_has_one(module: str, names: str) -> None:
    for name in names.split(", "):
        assert ">>> " in getattr(importlib.import_module(module), name).__doc__, name
