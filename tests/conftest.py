"""What all tests share: where the shared material is, one thread per process, the order in which tests start.

A set that is not there is skipped and said so. Tests run in several processes (``-n 2``), each with one thread: small
models are faster so, sums keep their order, and nobody waits for a core. Programs that tests start inherit it, and
import this very tree.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import weft
from weft.allocator import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(weft.__file__).parents[1])])
torch.set_num_threads(1)
keep_freed_memory()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copies of what lies at URLs are kept in a folder of the tests."""
    os.environ["WEFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests start first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
