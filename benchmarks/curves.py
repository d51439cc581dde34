"""Time and memory of every fusion against tokens, modalities and rows of a batch, with fitted exponents.

A call is a forward pass and the gradients of all inputs and weights, float32, one thread, in training mode; all tokens
real; operators at their defaults but for dropout, which is off, so that the fused kernels of attention run. Tokens: two
modalities of one row, width 64, 64 to 16,384 tokens each, for the operators that read sequences. Modalities: 2 to 8
of width 64, 16 rows, 8 tokens (1 where the operator reads vectors). Batch: 32 to 2,048 rows of two such modalities.
Time is the least CPU seconds of three calls (one where a call takes a second); memory is the most bytes that tensors
took at once, counted by torch's profiler. An exponent is the slope of a line through the logarithms of the last three
sizes: 1 is linear, 2 quadratic. A size that would take more than ``--most`` CPU seconds or ``--gib`` GiB, by the last
one's growth, is not run; a size that an operator refuses, neither.

python benchmarks/curves.py [--axes tokens modalities batch] [--operators NAME ...] [--most 8] [--gib 6]

What is not run anew keeps its figures. The figure is ``docs/figures/curves.png``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from harness import RESULTS, peak_allocated, set_threads, timed, write_result
from torch import Tensor

from weft.errors import UserError
from weft.fusion import create_fusion, fusions, list_fusions
from weft.tokens import Tokens, everywhere

WIDTH, ROWS, TOKENS = 64, 16, 8
AXES = {
    "tokens": (64, 256, 1024, 4096, 16384),
    "modalities": (2, 3, 4, 5, 6, 8),
    "batch": (32, 128, 512, 2048),
}
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "curves.png"
Point = dict[str, float]


def step(name: str, count: int, rows: int, tokens: int) -> Callable[[], tuple[Tensor, ...]]:
    """One call of an operator on so many modalities.

    Raises:
        UserError: it refuses them.
    """
    torch.manual_seed(0)
    operator = fusions.get(name)
    options = {option: 0.0 for option in fusions.describe(name)[1] if "dropout" in option}
    names = [f"m{m}" for m in range(count)]
    module = create_fusion(name, dict.fromkeys(names, WIDTH), WIDTH, **options).train()
    length = 1 if operator.wants == "vectors" else tokens
    leaves = [torch.randn(rows, length, WIDTH, requires_grad=True) for _ in names]
    inputs = {n: Tokens(v, everywhere(rows, length, device=v.device)) for n, v in zip(names, leaves, strict=True)}
    targets = [*leaves, *(w for w in module.parameters() if w.requires_grad)]

    def call() -> tuple[Tensor, ...]:
        vector = module(inputs).vector
        return torch.autograd.grad(vector, targets, torch.ones_like(vector), allow_unused=True)

    return call


def at(axis: str, name: str, size: int) -> Callable[[], tuple[Tensor, ...]]:
    given = {"tokens": (2, 1, size), "modalities": (size, ROWS, TOKENS), "batch": (2, size, TOKENS)}[axis]
    return step(name, *given)


def curve(axis: str, name: str, most: float, most_bytes: float) -> dict[str, Point]:
    """``{size: {"cpu_s", "bytes"}}``, as far as the operator goes and time and memory reach."""
    found: dict[str, Point] = {}
    for size in AXES[axis]:
        if len(found) > 1 and too_much(found, size, most, most_bytes):
            break
        try:
            call = at(axis, name, size)
            call()
        except UserError:
            continue
        seconds = timed(call)[1]
        if seconds < 1:
            calls = max(1, int(0.03 / max(seconds, 1e-4)))
            seconds = min(timed(call, calls)[1] for _ in range(3))
        found[str(size)] = {"cpu_s": seconds, "bytes": float(peak_allocated(call))}
        print(f"{axis} {size}, {name}: {seconds:.3g} CPU s, {found[str(size)]['bytes'] / 2**20:.1f} MiB", flush=True)
    return found


def too_much(found: Mapping[str, Point], size: int, most: float, most_bytes: float) -> bool:
    """Whether the next size would, if the last two sizes' growth goes on."""
    (first, before), (last, now) = list(found.items())[-2:]
    growth = math.log(size / int(last)) / math.log(int(last) / int(first))
    limits = {"cpu_s": most, "bytes": most_bytes}
    return any(now[key] * (now[key] / before[key]) ** growth > limit for key, limit in limits.items())


def exponent(points: Mapping[str, Point], key: str) -> float | None:
    """Slope over the last three sizes; None with fewer."""
    if len(points) < 3:
        return None
    sizes, values = zip(*[(int(size), point[key]) for size, point in list(points.items())[-3:]], strict=True)
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2)


def wanted(axis: str, name: str) -> bool:
    operator = fusions.get(name)
    if axis == "tokens":
        return operator.wants != "vectors"
    return operator.arity[1] is None if axis == "modalities" else True


def plot(curves: Mapping[str, Mapping[str, Mapping[str, Point]]]) -> None:
    """Two rows, seconds above memory; a column per axis; the lines of operators that read sequences in colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    coloured = [n for n in sorted(curves["tokens"]) if len(curves["tokens"][n]) > 1]
    colours = {n: plt.get_cmap("tab20")(i) for i, n in enumerate(coloured)}
    figure, panels = plt.subplots(2, len(AXES), figsize=(15, 9), layout="constrained")
    for column, axis in enumerate(AXES):
        for row, (key, label, unit) in enumerate((("cpu_s", "CPU seconds", 1.0), ("bytes", "peak MiB", 2.0**20))):
            panel = panels[row, column]
            for name, points in curves.get(axis, {}).items():
                xs, ys = [int(s) for s in points], [p[key] / unit for p in points.values()]
                style = {"color": colours[name], "label": name} if name in colours else {"color": "0.8", "zorder": 1}
                panel.plot(xs, ys, marker="o", markersize=3, linewidth=1.3, **style)
            panel.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
            panel.set_xticks(AXES[axis], [f"{s:,}" for s in AXES[axis]])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    panels[0, 1].set_title("grey: operators that read vectors", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--operators", nargs="+", default=list_fusions())
    parser.add_argument("--most", type=float, default=8.0, help="CPU seconds of a call")
    parser.add_argument("--gib", type=float, default=6.0, help="GiB of a call")
    arguments = parser.parse_args()
    set_threads(1)
    path = RESULTS / "curves.json"
    curves: dict[str, dict[str, dict[str, Point]]] = json.loads(path.read_text())["curves"] if path.exists() else {}
    for axis in arguments.axes:
        for name in arguments.operators:
            if wanted(axis, name):
                found = curve(axis, name, arguments.most, arguments.gib * 2**30)
                curves.setdefault(axis, {})[name] = found
    tables = {
        f"{axis}: exponents of CPU seconds and of memory": {
            name: f"{exponent(points, 'cpu_s')} / {exponent(points, 'bytes')}"
            for name, points in sorted(lines.items())
            if exponent(points, "cpu_s") is not None
        }
        for axis, lines in curves.items()
    }
    write_result("curves", {**tables, "figure": "![curves](figures/curves.png)", "curves": curves})
    if all(axis in curves for axis in AXES):
        plot(curves)


if __name__ == "__main__":
    main()
