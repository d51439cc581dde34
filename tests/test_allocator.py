"""Freed memory stays with the process: later steps take no new pages, where they otherwise take all of theirs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from weft.allocator import keep_freed_memory, return_freed_memory, return_much_freed_memory

STEPS = """
import resource, sys
import torch
from weft.allocator import keep_freed_memory, return_freed_memory
print(keep_freed_memory() if sys.argv[1] != "leave" else None)
if sys.argv[1] == "undo":
    return_freed_memory()
x = torch.randn(4096, 8)
model = torch.nn.Sequential(torch.nn.Linear(8, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 8))
for step in range(16):
    if step == 11:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model(x).square().mean().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[str, int]:
    """What the function said, and the page faults of the last five of sixteen steps, in its own process."""
    own = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    run = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True, env=own)
    said, count = run.stdout.split()
    return said, int(count)


def test_freed_memory_is_used_again() -> None:
    """With glibc; another C library says that it cannot."""
    said, kept = faults("keep")
    assert said == str(platform.libc_ver()[0] == "glibc")
    if said == "True":
        assert kept < faults("leave")[1] / 10
        assert kept < faults("undo")[1] / 10, "until it is told otherwise"


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
    assert return_freed_memory() is False


HOLE = """
import sys
import numpy as np
from weft.allocator import keep_freed_memory, return_much_freed_memory
keep_freed_memory()
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) << 10
before = resident()
x, above = np.ones(1 << 27), np.ones(1 << 10)
del x
full = resident() - before
said = return_much_freed_memory()
print(said, full, resident() - before)
"""


def test_much_freed_memory_is_returned_from_below_what_is_in_use() -> None:
    """A hole of a GiB under a block that stays; another C library says that it cannot."""
    run = subprocess.run([sys.executable, "-c", HOLE], capture_output=True, text=True, check=True)
    said, full, left = run.stdout.split()
    assert said == str(platform.libc_ver()[0] == "glibc")
    if said == "True":
        assert int(full) > 1 << 29
        assert int(left) < 1 << 27


def test_a_c_library_without_mallinfo_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert return_much_freed_memory() is False
