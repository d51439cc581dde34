"""How every benchmark measures: two sides alternating in one run, CPU seconds beside wall time, memory in a child.

A benchmark script checks first that both sides compute the same, then calls :func:`compare_ab` (time) or
:func:`peak_memory` (bytes), and hands its figures to :func:`write_result`::

    from harness import compare_ab, write_result

    figures = compare_ab("gather", ours, reference, repeats=7)
    write_result("store_gather", {"figures": figures})

Run a script from the repository root: ``python benchmarks/store_gather.py``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("weft", "torch", "numpy", "transformers", "safetensors", "scikit-learn", "faiss-cpu")


def set_threads(threads: int = 2) -> None:
    """One thread count for torch and, where it is installed, faiss."""
    torch.set_num_threads(threads)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(threads)


def cpu_seconds() -> float:
    """User and system seconds of this process and its finished children."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q1": float(q1), "q3": float(q3), "iqr": float(q3 - q1)}


def timed(function: Callable[[], Any], calls: int = 1) -> tuple[float, float]:
    """Wall and CPU seconds per call of ``calls`` calls in a row."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(calls):
        function()
    return (time.perf_counter() - wall) / calls, (cpu_seconds() - cpu) / calls


def compare_ab(
    name: str,
    a: Callable[[], Any],
    b: Callable[[], Any],
    *,
    repeats: int = 7,
    calls: int = 1,
    warmup: int = 1,
    labels: tuple[str, str] = ("ours", "reference"),
) -> dict[str, Any]:
    """Time ``a`` against ``b``, alternating A B B A A B ..., and print one line.

    Args:
        name: what is compared.
        a, b: the two sides; check before that they compute the same.
        repeats: pairs, at least 5.
        calls: calls per measurement, for work shorter than some milliseconds.
        warmup: calls of each side that are not measured.
        labels: names of the sides in the result.

    Returns:
        ``{label: {"wall_s": spread, "cpu_s": spread}, "speed": {"wall": spread, "cpu": spread}, "load": [...]}``;
        ``speed`` is time of b / time of a of each pair: above 1 means that ``a`` is faster.
    """
    if repeats < 5:
        raise ValueError(f"repeats is at least 5, found {repeats}")
    load_before = os.getloadavg()
    for _ in range(warmup):
        a(), b()
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            times[side].append(timed((a, b)[side], calls))
    wall, cpu = ([[t[kind] for t in side] for side in times] for kind in (0, 1))
    result: dict[str, Any] = {
        label: {"wall_s": spread(wall[side]), "cpu_s": spread(cpu[side])} for side, label in enumerate(labels)
    }
    result["speed"] = {
        kind: spread([tb / max(ta, 1e-9) for ta, tb in zip(*seconds, strict=True)])
        for kind, seconds in (("wall", wall), ("cpu", cpu))
    }
    result |= {"name": name, "repeats": repeats, "calls": calls, "load": [load_before, os.getloadavg()]}
    one, two = (result[label]["wall_s"]["median"] for label in labels)
    speed = result["speed"]
    print(
        f"{name}: {labels[0]} {one:.4g} s, {labels[1]} {two:.4g} s; speed of {labels[0]} relative to {labels[1]} "
        f"{speed['wall']['median']:.3f} (IQR {speed['wall']['q1']:.3f}-{speed['wall']['q3']:.3f}), "
        f"by CPU seconds {speed['cpu']['median']:.3f}; load {load_before[0]:.2f} -> {os.getloadavg()[0]:.2f}"
    )
    return result


def peak_memory(prepare: Callable[..., Callable[[], Any]], *args: Any, threads: int = 2) -> dict[str, float]:
    """Peak memory of one call, measured in a fresh process.

    Args:
        prepare: a function of a module (it is sent to the child); builds the inputs and returns the call to measure.
        args: arguments of ``prepare``.
        threads: torch threads in the child.

    Returns:
        ``{"peak_bytes": rise of the resident set above its size just before the call, "wall_s", "cpu_s"}``.

    Raises:
        RuntimeError: the child died (out of memory is a result too: catch it and write it down).
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, threads, prepare, args))
    child.start()
    sender.close()
    try:
        figures: dict[str, float] = receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the measured process ended with exit code {child.exitcode}") from None
    child.join()
    return figures


def compare_sides(
    label: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    one_side: Callable[..., Callable[[], Any]],
    key: str,
    repeats: int = 5,
) -> dict[str, Any]:
    """:func:`compare_ab` on one thread, with the peak memory of each side in a process of its own and counted, printed.

    Args:
        label: what is measured.
        ours, theirs: a step of each.
        one_side: makes a step alone, of ``key`` and 0 (ours) or 1 (theirs).
        key: of the size or part.
        repeats: pairs of steps that are timed.
    """
    found = compare_ab(label, ours, theirs, repeats=repeats)
    memory = [peak_memory(one_side, key, side, threads=1) for side in (0, 1)]
    found["ours"]["memory"], found["reference"]["memory"] = memory
    a, b = (side["peak_bytes"] for side in memory)
    print(f"  peak memory {a / 2**20:.0f} MiB of {b / 2**20:.0f} MiB: {a / b:.2f}")
    counted = {"ours": peak_allocated(ours), "reference": peak_allocated(theirs)}
    found["tensors_mib"] = {side: round(most / 2**20, 1) for side, most in counted.items()}
    print(f"  of tensors alone, counted: {counted['ours'] / counted['reference']:.3f}")
    return found


def peak_allocated(call: Callable[[], Any]) -> int:
    """The most bytes of memory that torch held at once for tensors made in a call, its second; on the CPU, exact."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum(sizes).max(initial=0))


def _measure(sender: Any, threads: int, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    set_threads(threads)
    call = prepare(*args)
    before = _reset_peak()
    wall, cpu = timed(call)
    sender.send({"peak_bytes": _peak() - before, "wall_s": wall, "cpu_s": cpu})


def _reset_peak() -> int:
    """Resident bytes now; on Linux the high-water mark starts again here, elsewhere it keeps its value so far."""
    mark = Path("/proc/self/clear_refs")
    if mark.exists():
        mark.write_text("5")
    return _peak()


def _peak() -> int:
    """High-water mark of the resident set, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Commit, versions, processor, threads: what a figure depends on."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed_sources": bool(git("status", "--porcelain", "--", "../src", ".")),
        "python": platform.python_version(),
        "packages": {package: found for package in PACKAGES if (found := installed(package))},
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg(),
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def fill_page(page: Path, lines: Sequence[str], mark: str = "table") -> None:
    """Put the lines between ``<!-- mark -->`` and the next ``<!-- end -->`` of a page, made where there is none."""
    text = page.read_text() if page.exists() else f"<!-- {mark} -->\n<!-- end -->\n"
    before, rest = text.split(f"<!-- {mark} -->\n")
    after = rest.partition("<!-- end -->")[2]
    page.write_text("\n".join([f"{before}<!-- {mark} -->", *lines, f"<!-- end -->{after}"]))


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/<name>.json``: the figures and the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), **figures}, indent=2) + "\n")
    print(f"wrote {path.relative_to(RESULTS.parent.parent)}")
    return path
