"""Every golden case found under $WEFT_GOLDEN, by family; no case is named in the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import GOLDEN


class Case(NamedTuple):
    """One recorded case: its configuration and its tensors under their original names."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def golden(
    pattern: str, *, without: tuple[str, ...] = (), only: tuple[str, ...] = ("",), suffix: str = "safetensors"
) -> pytest.MarkDecorator:
    """Parametrise a test over every case of the families that match ``pattern``; skip where there are none.

    ``without``: prefixes of cases that another test covers; ``only``: prefixes of those that this one covers;
    ``suffix``: "json" where cases have no tensors.
    """
    found = sorted(GOLDEN.glob(f"{pattern}/*.{suffix}"))
    files = [f for f in found if f.stem.startswith(only) and not f.stem.startswith(without)]
    skip = [pytest.param(None, marks=pytest.mark.skip(reason=f"no golden vectors {pattern!r} (set WEFT_GOLDEN)"))]
    params = [pytest.param(f, id=f"{f.parent.name}/{f.stem}") for f in files]
    return pytest.mark.parametrize("path", params or skip)


def load(path: Path) -> Case:
    """Read one case, its tensors on torch's default device (see ``conftest.py``)."""
    tensors = load_file(path, device=str(torch.get_default_device()))
    return Case(path, json.loads(path.with_suffix(".json").read_text()), tensors)
