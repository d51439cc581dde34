"""Two gloo processes, with all weights or with shares of them, train a system as one process does."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.test_loop import on_two_processes
from weft.data import load_dataset, make_splits
from weft.errors import UserError
from weft.files import read_tensors
from weft.training.loop import History
from weft.training.phase import Optimizer, Phase
from weft.training.shares import share
from weft.training.system_task import fit_system, make_system

TWO = """
import json, os, sys
from pathlib import Path
from tests.training.test_shares import trained
found = {}
for name, fsdp in (("two", "false"), ("shares", "true")):
    os.environ["ACCELERATE_USE_FSDP"] = fsdp
    if fsdp == "true":  # of 42 rows, three steps an epoch: what ends in the fifth goes on there
        trained(Path(sys.argv[1]) / name, steps=4)
    found[name] = trained(Path(sys.argv[1]) / name).epochs
print(json.dumps(found))
"""


class Stops(Exception):
    """Ends a training in the middle."""


def trained(folder: Path, steps: int | None = None) -> History | None:
    """A fusion without dropout, in batches of even size; None where it ends after some steps."""
    data = load_dataset("shapes", rows=60, complete=True)
    split = make_splits(data)
    system = make_system("frozen-fusion", data, split.train, dim=8, dropout=0.0)
    settings = {"epochs": 3, "patience": 0, "batch_size": 14, "lr": 1e-2}
    if steps is not None:
        make, left, first = system.batch, iter(range(steps)), [weakref.ref(weight) for weight in system.parameters()]

        def batch(*words: Any) -> Any:
            gc.collect()
            assert not any(weight() is not None for weight in first), "a process has its shares, and no whole weights"
            if next(left, None) is None:
                raise Stops
            return make(*words)

        system.batch = batch
        with pytest.raises(Stops):
            fit_system(system, data, split, {**settings, "checkpoint_seconds": 0, "log_every": 1}, folder, False)
        return None
    history = fit_system(system, data, split, settings, folder, progress=False)
    assert all(type(weight) is nn.Parameter for weight in system.parameters())
    assert np.isfinite(np.stack(list(system.predictions(data, split.test)))).all()
    return history


@pytest.mark.slow
def test_two_processes_train_a_system_as_one_does(tmp_path: Path) -> None:
    """Weights, moments of Adam, losses and scores to 1e-6: data parallel, and with shares of the weights (FSDP)."""
    one, found = trained(tmp_path / "one"), on_two_processes(TWO, tmp_path)
    assert one is not None
    whole = read_tensors(tmp_path / "one/last/checkpoint.safetensors")[0]
    best = read_tensors(tmp_path / "one/best/model.safetensors")[0]
    for name, epochs in found.items():
        for ours, theirs in zip(one.epochs, epochs, strict=True):
            assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, abs=1e-6)
        for file, expected in (("last/checkpoint.safetensors", whole), ("best/model.safetensors", best)):
            tensors = read_tensors(tmp_path / name / file)[0]
            assert tensors.keys() == expected.keys()
            assert max(float((tensors[key].double() - expected[key].double()).abs().max()) for key in tensors) < 1e-6


GATHERED = """
import json
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from weft.training.shares import first_has, whole
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
found = []
for rows in (4, 3, 1):
    full = torch.arange(3.0 * rows).reshape(rows, 3)
    share = distribute_tensor(full, mesh, [Shard(0)])
    got = first_has(share)
    assert torch.equal(whole(share), full)
    found.append(got is None if dist.get_rank() else torch.equal(got, full))
assert first_has(full) is full
assert all(found)
print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_what_is_written_is_whole_in_the_first_process_alone(tmp_path: Path) -> None:
    """Shares of even and uneven rows, and one that is empty."""
    assert on_two_processes(GATHERED, tmp_path) == [True, True, True]


def test_shares_are_for_one_phase() -> None:
    model = nn.Linear(2, 2)
    phase = Phase("one", model, Optimizer(list(model.parameters())))
    with pytest.raises(UserError, match=r"2 phases[\s\S]*without --use_fsdp"):
        share(model, torch.device("cpu"), [phase, phase])
