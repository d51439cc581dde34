"""Slow references: the published formula of an operator, one row at a time, with plain loops.

A reference lives in the test file of its operator (``tests/fusion/test_<operator>.py``) and is found by name::

    @reference("gated")
    def gated(module: GatedFusion, inputs: dict[str, Tokens]) -> Tensor:
        '''(B, dim) from the module's own weights; the values under the mask are garbage, modalities may be absent.'''

The contract compares it with the operator in float64, on ragged masks and every pattern of presence.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor

from weft.tokens import Tokens

Reference = Callable[[Any, dict[str, Tokens]], Tensor]
_references: dict[str, Reference] = {}


def reference(name: str) -> Callable[[Reference], Reference]:
    """Decorator: the slow reference of the operator registered as ``name``."""

    def add(function: Reference) -> Reference:
        _references[name] = function
        return function

    return add


def find_reference(name: str) -> Reference | None:
    """The reference of an operator, from any test file of this folder."""
    package = importlib.import_module("tests.fusion")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("test_"):
            importlib.import_module(f"tests.fusion.{module.name}")
    return _references.get(name)


def real_tokens(tokens: Tokens, row: int) -> Tensor:
    """The real tokens of one row, ``(n, D)``."""
    return tokens.values[row][tokens.mask[row]]


def pooled(tokens: Tokens, row: int) -> Tensor | None:
    """The mean of the real tokens of one row, ``(D,)``; None where the modality is absent."""
    real = real_tokens(tokens, row)
    return real.sum(dim=0) / len(real) if len(real) else None
