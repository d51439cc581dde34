"""What runs on a GPU gives what the CPU gives. Run by ``make gpu``, where there is a GPU; elsewhere it is skipped.

The tests of operators, losses and golden vectors move what they made on the CPU. Those of training, verbs and systems
leave the choice to the library, which takes the GPU by itself; ``make gpu`` runs the ordinary tests of the systems'
verbs too. ``WEFT_TEST_DEVICE=cpu`` runs this folder on the CPU, against itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

DEVICE = torch.device(os.environ.get("WEFT_TEST_DEVICE", "cuda"))
GPU = torch.cuda.is_available()
needs_device = pytest.mark.skipif(DEVICE.type == "cuda" and not GPU, reason="torch sees no GPU here")
needs_gpu = pytest.mark.skipif(not GPU, reason="torch sees no GPU here")


def near(found: Any, expected: Any, what: str, tolerance: float = 1e-10) -> None:
    """Tensors or arrays, or lists of them, within a share of the largest value of the expected, or of 1."""
    if isinstance(expected, np.ndarray):
        found, expected = torch.from_numpy(found), torch.from_numpy(expected)
    if isinstance(expected, Tensor):
        assert found.shape == expected.shape, what
        a, b = (x.detach().cpu().double() for x in (found, expected))
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        assert torch.equal(a.isfinite(), b.isfinite()), what
        off = float((a - b).nan_to_num().abs().max()) / scale if b.numel() else 0.0
        assert off <= tolerance, f"{what}: off by {off:.1e} of the largest value"
        return
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        near(one, other, f"{what} [{index}]", tolerance)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the GPU is an error; on the CPU nothing is checked."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions of a GPU round their float32 inputs to 10 bits (TF32) unless told otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
