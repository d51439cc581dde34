"""The operators on a GPU beside transcriptions of their published code: the cases of ``operators``, timed by events.

A call is a forward pass and the gradients of all inputs and weights, training mode, weights and inputs on the GPU.
Both sides are compared in float64 first. 10 calls of each side warm up; then both alternate, 5 calls at a time, 60 of
each, each time between two CUDA events; *ms* is the median of a call, *speed* theirs over ours of neighbouring times,
with its quartiles: above 1 ours is faster. *MiB* is the rise of ``max_memory_allocated`` over a call, *launches* the
kernels of a call by torch's profiler. At the published size the table also has autocast to bfloat16, and
``torch.compile`` of both forward passes. By torch's defaults convolutions of float32 are rounded to TF32, products not.

At these sizes a GPU waits for the process that launches its kernels: what a row measures is mostly the number of
launches and the Python between them, and not arithmetic.

*One core* is the same call on one core of that machine's processor.

    python benchmarks/operators_gpu.py [names ...] [--profile FOLDER]
    python benchmarks/operators_gpu.py [names ...] --compiled | --core
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from harness import RESULTS, spread, timed, write_result
from operators import SIDES, check, step
from operators_published import OPERATORS, Problem
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM, ROUNDS, CALLS = 10, 12, 5
Call = Callable[[], list[Tensor]]
Row = dict[str, float | str]


def problem(operator: str, size: str, side: str, training: bool = True) -> Problem:
    """One side, on the GPU."""
    made = OPERATORS[operator]
    with torch.device(DEVICE):
        return made.make(side, made.sizes[size], training)


def prepare(operator: str, size: str, side: str, *, bf16: bool = False, compiled: bool = False) -> Call:
    """A call of one side."""
    made = problem(operator, size, side)
    forward = torch.compile(made.forward) if compiled else made.forward

    def rounded() -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return forward()

    made = made._replace(forward=rounded if bf16 else forward)
    return lambda: step(made)


def milliseconds(call: Call, calls: int) -> float:
    """Of one call, by the events before and after several."""
    if DEVICE.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            call()
        return 1000 * (time.perf_counter() - began) / calls
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(calls):
        call()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / calls


def mebibytes(call: Call) -> float:
    """The most memory of the GPU over a call, above what was taken before."""
    if DEVICE.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def launches(call: Call, report: Path | None) -> int:
    """Kernels of a call; with a path, what it spends its time in is written there."""
    if DEVICE.type != "cuda":
        return 0
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        call()
        torch.cuda.synchronize()
    if report is not None:
        table = trace.key_averages()
        orders = ("cuda_time_total", "cpu_time_total")
        report.write_text("\n".join(table.table(sort_by=order, row_limit=25) for order in orders))
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in trace.events())


def measure(name: str, calls: Sequence[Call], reports: Path | None = None) -> Row:
    """Both sides, ours first."""
    for call in calls:
        for _ in range(WARM):
            call()
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            times[side].append(milliseconds(calls[side], CALLS))
    speed = spread([theirs / ours for ours, theirs in zip(*times, strict=True)])
    paths = [None if reports is None else reports / f"{name}, {side}.txt".replace("/", "-") for side in SIDES]
    counted = [launches(call, path) for call, path in zip(calls, paths, strict=True)]
    row: Row = {
        **{f"{side}, ms": f"{spread(t)['median']:.3g}" for side, t in zip(SIDES, times, strict=True)},
        "speed": f"{speed['median']:.2f} ({speed['q1']:.2f} to {speed['q3']:.2f})",
        "MiB": " / ".join(f"{mebibytes(call):.3g}" for call in calls),
        "launches": " / ".join(map(str, counted)),
    }
    print(f"{name}: {row}", flush=True)
    return row


def table(operator: str, reports: Path | None, compiled: bool) -> dict[str, Row]:
    """The rows of an operator; what cannot be measured is said and left out."""
    made = OPERATORS[operator]
    published = next(iter(made.sizes))
    rows: dict[str, Row] = {}
    variants: list[tuple[str, str, dict[str, bool]]] = [(size, "", {}) for size in made.sizes]
    variants.insert(1, (published, ", bf16", {"bf16": True}))
    if compiled:
        variants = [(published, ", compiled", {"compiled": True})]
    for size, label, options in variants:
        name = f"{operator}, {size}{label}"
        try:
            if not label:
                with torch.device(DEVICE):
                    check(operator, size, not made.random)
            rows[name] = measure(name, [prepare(operator, size, side, **options) for side in SIDES], reports)
        except (RuntimeError, SystemExit) as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:1500]}", flush=True)
        torch.set_default_dtype(torch.float32)
    torch._dynamo.reset()
    return rows


def beside_a_core(operator: str) -> dict[str, Row]:
    """Our side at the published size on one core and on the GPU."""
    size = next(iter(OPERATORS[operator].sizes))
    torch.set_num_threads(1)
    alone = OPERATORS[operator].make("ours", OPERATORS[operator].sizes[size], True)
    step(alone)
    core = spread([1000 * timed(lambda: step(alone))[0] for _ in range(3)])["median"]
    row: Row = {"one core, ms": f"{core:.4g}"}
    for label, bf16 in (("GPU", False), ("GPU in bf16", True)):
        call = prepare(operator, size, "ours", bf16=bf16)
        milliseconds(call, WARM)
        found = spread([milliseconds(call, CALLS) for _ in range(ROUNDS)])["median"]
        row |= {f"{label}, ms": f"{found:.3g}", f"times, {label}": f"{core / found:.0f}"}
    print(f"{operator}: {row}", flush=True)
    return {f"{operator}, {size}, beside a core": row}


def save(rows: dict[str, Row]) -> None:
    """Rows replace their namesakes in the result."""
    path = RESULTS / "operators_gpu.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    write_result("operators_gpu", {k: v for k, v in kept.items() if k not in ("benchmark", "machine")} | rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(OPERATORS))
    parser.add_argument("--compiled", action="store_true", help="torch.compile alone, which takes minutes")
    parser.add_argument("--core", action="store_true", help="ours on one core of the processor and on the GPU")
    parser.add_argument("--profile", type=Path, help="folder for torch's profile of every row")
    arguments = parser.parse_args()
    if arguments.profile is not None:
        arguments.profile.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        rows = beside_a_core(name) if arguments.core else table(name, arguments.profile, arguments.compiled)
        if DEVICE.type == "cuda":
            save(rows)


if __name__ == "__main__":
    main()
