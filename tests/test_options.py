"""Every option that is a number refuses minus one, with an error that names it, or has a reason not to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from pydantic import ValidationError

from tests.contract.sampling import DIM, widths
from weft.alignment import aligners, objectives, regularisers
from weft.encoders.base import encoders
from weft.errors import UserError
from weft.fusion import create_fusion, fusions
from weft.models.protocol import protocols
from weft.registry import Registry
from weft.tasks.base import tasks
from weft.training.schedule import schedules
from weft.training.system import systems

VALUES = {
    "aff scale", "highway gate_bias", "iaff scale", "siglip log_scale", "siglip bias", "pairs threshold",
    "merlot-reserve scale", "merlot-reserve gain", "text-to-image gate", "fafnet snr", "rgbd-saliency mean",
    "cross-spectral-reid identities", "hf-audio layer", "hf-image layer", "hf-text layer",
}  # fmt: skip
"""Minus one is a value like any other."""

LATER = {
    "mutualformer alpha", "mutualformer steps", "infonce chunk", "siglip chunk", "word-region beta",
    "word-region iterations", "hf-image views", "aug-vae size", "aug-vae level", "cross-spectral-reid per_identity",
    "cross-spectral-reid smoothing", "dvsm k", "rgbd-saliency size", "rgbd-saliency strides", "text-to-image size",
    "transmef largest",
}  # fmt: skip
"""A UserError of their own says it, in a constructor that needs more than options or where they are used."""


def minus_one(annotation: Any) -> Any:
    """What is -1 in every number of an option; None where it has none."""
    if annotation in (int, float):
        return -1
    parts = [part for part in map(minus_one, get_args(annotation)) if part is not None]
    kind = get_origin(annotation)
    return parts if parts and isinstance(kind, type) and issubclass(kind, Sequence) else next(iter(parts), None)


def refusals(registry: Registry[Any]) -> Iterator[tuple[str, str, str]]:
    """Name, option and what is said against minus one: by the declaration, and by a constructor that takes options
    alone; nothing where it passes."""
    for name in registry.names():
        cls, schema = registry.get(name), registry.schema(name)
        if getattr(import_module(cls.__module__), cls.__name__, None) is not cls or cls.__module__[:5] != "weft.":
            continue  # of an example or another test
        given = (widths(cls), DIM) if registry in (fusions, aligners) else ()
        hints = get_type_hints(cls.__init__)
        for option in schema.model_fields:
            value, said = minus_one(hints.get(option)), ""
            if value is None:
                continue
            try:
                schema.__pydantic_validator__.validate_assignment(schema.model_construct(), option, value)
                if registry in (fusions, aligners, objectives, regularisers, schedules):
                    registry.create(name, *given, **{option: value})
            except (ValidationError, UserError) as error:
                said = str(error)
            yield name, option, said


REGISTRIES = (fusions, aligners, objectives, regularisers, schedules, encoders, tasks, protocols, systems)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_minus_one_is_refused_or_has_a_reason(registry: Registry[Any]) -> None:
    found = list(refusals(registry))
    passed = {f"{name} {option}" for name, option, said in found if not said}
    assert passed == (VALUES | LATER) & {f"{name} {option}" for name, option, _ in found}
    assert not [(name, option, said) for name, option, said in found if said and option not in said]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(UserError, match=r"'dropout'[\s\S]*finite[\s\S]*dropout: float = 0.0"):
        create_fusion("concat", {"a": 3, "b": 5}, dropout=value)
