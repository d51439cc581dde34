"""Every operator with published code, as a user gets it, against a transcription of that code's arithmetic.

Both sides hold the same weights; the outputs and the gradients of all inputs are compared before anything is timed. A
call is a forward pass and the gradients of all inputs and weights, float32, one thread, in training and in evaluation
mode, at the published size (the first of each operator) and at two others. Both sides alternate (A B B A ...) in one
run; *speed* is their CPU seconds over ours: above 1, ours is faster. Memory is the most bytes that tensors took at once
over a call, counted by torch's profiler: the resident set of a process moves by a MiB or two of code pages that a first
call touches, more than the small sizes take.

The transcriptions do what the public code does: TFN multiplies by two batched products; LMF appends a constant 1 and
multiplies by all ranks in one broadcast product; BLOCK's family merges chunk by chunk with one linear layer each; AFF
runs 1 x 1 convolutions and BatchNorm on maps; MulT and MutualFormer form their attention matrices; ARAF copies vectors
to maps; LightCRL's encoder is torch's own, padding included. LMF-MulT has no public code: its transcription is
its definition with MulT's published layers. ``tucker`` is not run at its published size, whose core has 4 10^9 weights.

What is not run anew keeps its figures.

python benchmarks/operators.py [names ...]   the table: all sizes, both modes, memory
python benchmarks/operators.py --memory [..] the bytes alone
python benchmarks/operators.py --bar [..]    the published sizes in training; the last line is {operator: speed}

python benchmarks/operators.py --null [..]   the same, of the published code beside itself, built twice

What the interface costs, on tensors of a few numbers (``mlb``, forward and backward, an AMD EPYC): 210 us a call beside
181 of the published module, 18 of the 29 in the forward pass. The view of one token as a vector takes most (undone by
another view, not by a squeeze's inverse: 33 before), checks, the order of names and masks some 5, modules around
modules and what is computed when it is read the rest. Where a call takes a millisecond that is three percent: what
``mlb``, ``linear-sum`` and ``mutan`` lack at the smaller sizes.

``--repeats N``: pairs of measurements, 6 otherwise. Where a side's weights lie in memory stays so for a whole run: even
the published code beside itself gives .96 to 1.04 at 4800 x 2048 -> 3000, with quartiles that leave 1 out. Ratios as
near to 1 as those of the rows "beside itself" are not told from it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import RESULTS, compare_ab, machine, peak_allocated, set_threads, timed
from operators_published import OPERATORS, Problem
from torch import Tensor, nn

SIDES = ("ours", "published")
SECONDS = 0.15
"""Calls are repeated until one measurement takes this long."""


class Published(nn.Module):
    """The published side as its users call it: a module. It matters at the smallest sizes, by some microseconds."""

    def __init__(self, forward: Callable[[], Tensor]) -> None:
        super().__init__()
        self.compute = forward

    def forward(self) -> Tensor:
        return self.compute()


def step(problem: Problem) -> list[Tensor]:
    """The result, and the gradients of its weighted sum by inputs and weights."""
    y = problem.forward()
    weight = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
    leaves = [*problem.inputs, *problem.weights]
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)]


def prepare(operator: str, size: str, side: str, training: bool) -> Callable[[], list[Tensor]]:
    make, sizes, _ = OPERATORS[operator]
    problem = make(side, sizes[size], training)
    if side == "published":
        problem = problem._replace(forward=Published(problem.forward))
    return lambda: step(problem)


def check(operator: str, size: str, training: bool) -> None:
    """Both sides give the same result and the same gradients of the inputs, relative to the largest value of each.

    In float64, since the slope of a signed square root near 0 magnifies the rounding of float32 ten thousand times.
    """
    torch.set_default_dtype(torch.float64)
    made = [OPERATORS[operator].make(side, OPERATORS[operator].sizes[size], training) for side in SIDES]
    found = [step(problem)[: 1 + len(problem.inputs)] for problem in made]
    torch.set_default_dtype(torch.float32)
    for ours, other in zip(*found, strict=True):
        difference = float((ours.view_as(other) - other).abs().max() / other.abs().max().clamp(min=1e-6))
        if difference > 1e-6:
            raise SystemExit(f"{operator}, {size}: the two sides differ by {difference:.1e} of the largest value")


def measure(operator: str, size: str, training: bool, *, memory: bool, repeats: int) -> dict[str, Any]:
    """The figures of one row."""
    check(operator, size, training and not OPERATORS[operator].random)
    calls = [prepare(operator, size, side, training) for side in SIDES]
    calls[1]()
    once = timed(calls[1])[1]
    name = f"{operator}, {size}, {'training' if training else 'evaluation'}"
    figures = compare_ab(name, *calls, repeats=repeats, calls=max(1, int(SECONDS / max(once, 1e-5))), labels=SIDES)
    if memory:
        add_memory(figures, operator, size, training)
    return figures


def add_memory(figures: dict[str, Any], operator: str, size: str, training: bool) -> None:
    """The bytes of both sides, into the figures of a row."""
    for side in SIDES:
        figures[side]["peak_bytes"] = peak_allocated(prepare(operator, size, side, training))
    figures["memory_ratio"] = figures["published"]["peak_bytes"] / max(figures["ours"]["peak_bytes"], 1)
    print(f"  {operator}, {size}: their memory is {figures['memory_ratio']:.2f} times ours", flush=True)


def memory(names: Sequence[str]) -> None:
    """Of the rows in training that are there, the bytes anew."""
    for name in names:
        rows = json.loads((RESULTS / "operators.json").read_text())["operators"].get(name, {})
        there = [(s, rows[f"{name}, {s}, training"]) for s in OPERATORS[name].sizes if f"{name}, {s}, training" in rows]
        for size, row in there:
            add_memory(row, name, size, True)
        save(name, [row for _, row in there])


def bar(names: Sequence[str], repeats: int) -> None:
    """The published sizes, in training; one line of JSON last."""
    speeds = {}
    for name in names:
        row = measure(name, next(iter(OPERATORS[name].sizes)), True, memory=False, repeats=repeats)
        save(name, [row])
        speeds[name] = round(row["speed"]["cpu"]["median"], 3)
    print(json.dumps(speeds))


def null(names: Sequence[str], repeats: int) -> None:
    """What chance alone does to a ratio: the published code beside itself, at the published sizes in training."""
    for name in names:
        size = next(iter(OPERATORS[name].sizes))
        calls = [prepare(name, size, "published", True) for _ in SIDES]
        save(name, [compare_ab(f"{name}, {size}, published beside itself", *calls, repeats=repeats, labels=SIDES)])


def table(names: Sequence[str], repeats: int) -> None:
    """All rows of these operators."""
    for name in names:
        rows = [(size, mode) for size in OPERATORS[name].sizes for mode in (True, False)]
        save(name, [measure(name, size, mode, memory=mode, repeats=repeats) for size, mode in rows])


def save(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows replace their namesakes in the result, whose bytes stay where none are new."""
    path = RESULTS / "operators.json"
    kept = json.loads(path.read_text())["operators"] if path.exists() else {}
    old = kept.setdefault(name, {})
    for row in rows:
        for part in SIDES:
            row[part] = {k: v for k, v in old.get(row["name"], {}).get(part, {}).items() if k == "peak_bytes"} | row[
                part
            ]
        old[row["name"]] = row
    path.write_text(json.dumps({"benchmark": "operators", "machine": machine(), "operators": kept}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(OPERATORS))
    parser.add_argument("--bar", action="store_true")
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--repeats", type=int, default=6)
    arguments = parser.parse_args()
    set_threads(1)
    if arguments.memory:
        memory(arguments.names)
    else:
        (bar if arguments.bar else null if arguments.null else table)(arguments.names, arguments.repeats)
