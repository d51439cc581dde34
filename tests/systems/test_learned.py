"""What a system learns of its training rows is nobody's to give: refused by its name, before the rows are looked at."""

from __future__ import annotations

import inspect
import re
from typing import Any, cast

import numpy as np
import pytest

from weft.errors import UserError
from weft.training.system import systems
from weft.training.system_task import make_system

OURS = [name for name in systems.names() if systems.get(name).__module__.startswith("weft.")]


def said_to_be_learned(name: str) -> set[str]:
    """By the arguments of its docstring, or of the class it takes them from."""
    for cls in systems.get(name).__mro__:
        lines = re.findall(r"^ +([\w, ]+): learned\b", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
        if lines:
            return {option for line in lines for option in line.split(", ")}
    return set()


@pytest.mark.parametrize("name", OURS)
def test_a_learned_option_is_refused_by_name(name: str) -> None:
    fields = systems.schema(name).model_fields
    needed = {option: "given" for option, field in fields.items() if field.is_required()}
    assert set(systems.learned(name)) == said_to_be_learned(name)
    for option in systems.learned(name):
        given: dict[str, Any] = {**needed, option: fields[option].default}
        with pytest.raises(UserError, match=f"{name}: '{option}' is learned from the training rows"):
            make_system(name, cast("Any", "no data"), np.arange(3), **given)


def test_most_systems_learn_something() -> None:
    assert sum(bool(systems.learned(name)) for name in OURS) > 10
