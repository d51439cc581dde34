"""Paths of the shared material, one skip rule for all: a set that is not there is skipped and said so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weft.allocator import keep_freed_memory

SHARED = Path(__file__).resolve().parents[2] / "shared"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
keep_freed_memory()


def shared_path(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable, SHARED / default)).resolve()


GOLDEN, DATA, MODELS = (shared_path(f"WEFT_{n.upper()}", n) for n in ("golden", "data", "models"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path.name}/ is not here (set WEFT_GOLDEN, WEFT_DATA, WEFT_MODELS)")
    return path


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of small real data sets."""
    return _folder(DATA)


@pytest.fixture(scope="session")
def mobilenet() -> Path:
    """A real ImageNet MobileNetV2 as a transformers folder."""
    return _folder(MODELS / "mobilenet_v2_1.0_224")
