"""Golden cases run on the CPU; on another device where ``WEFT_TEST_DEVICE`` names one (``make gpu``)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

NOT_OF_A_DEVICE = {
    "test_evaluation_equals_the_original",
    "test_attack",
    "test_graph_answers_and_gradients",
    "test_corruptions_under_their_draws",
    "test_front_end",
    "test_published_weights_make_a_system",
    "test_embeddings",
}
"""Cases whose arithmetic, or a part of it, is numpy's or a file's: always on the CPU."""


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    name = os.environ.get("WEFT_TEST_DEVICE", "cpu")
    if name == "cpu" or request.node.originalname in NOT_OF_A_DEVICE:
        yield
        return
    with torch.device(name), torch.backends.cudnn.flags(enabled=False):  # no TF32; an LSTM evaluates with gradients
        yield
