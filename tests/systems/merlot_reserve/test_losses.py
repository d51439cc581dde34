"""Two processes have the loss of one, and the mean of their gradients is its gradient."""

from __future__ import annotations

import torch
import torch.multiprocessing as mp

from tests.systems.merlot_reserve.processes import step, work


def test_two_processes_equal_one(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    loss, *gradients = step(slice(None))
    for part in parts:
        torch.testing.assert_close(part[0], loss)
    for found, wanted in zip(zip(parts[0][1:], parts[1][1:], strict=True), gradients, strict=True):
        torch.testing.assert_close(sum(found) / 2, wanted)
