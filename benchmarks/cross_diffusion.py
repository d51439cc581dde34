"""Cross-diffusion attention: the published formula, written literally, against ours; forward + backward, two threads.

The literal side follows the published arithmetic: both symmetric normalisations as two products with a diagonal matrix
each, the product with the identity, and two products per direction, all N x N x N. Both sides hold the same weights and
share every linear layer and the fused stream's self-attention.

Run from the repository root: ``python benchmarks/cross_diffusion.py``. OpenMP waits passively (set below): spinning
threads on a shared machine count as CPU seconds and measure the neighbours.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, compare_ab, peak_memory, set_threads, spread, timed, write_result
from torch import Tensor
from torch.testing import assert_close

from weft.fusion.mutualformer import CrossDiffusionAttention

BATCH, WIDTH, HEADS = 2, 256, 8
SIZES = {64: (9, 20), 256: (7, 5), 1024: (5, 1)}  # tokens: (pairs of measurements, calls per measurement)
LARGE, LARGE_PAIRS = 2048, 3
SCALING = (256, 512, 1024, 2048, 4096, 8192, 16384)
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "cross_diffusion.png"


class Literal(CrossDiffusionAttention):
    """The published formula, one product after the other."""

    def _exchange(self, r: Tensor, d: Tensor, mask_r: Tensor | None, mask_d: Tensor | None) -> tuple[Tensor, Tensor]:
        heads_r, heads_d = self._split(r, mask_r), self._split(d, mask_d)
        a_r, a_d = (torch.softmax(self.scale * h.query @ h.key.mT, dim=-1) for h in (heads_r, heads_d))
        s_r, s_d = self._normalised(a_r), self._normalised(a_d)
        start = torch.eye(r.shape[1]).repeat(r.shape[0], self.heads, 1, 1)
        alpha, fitted = self.diffusion["alpha"], a_r + a_d
        g_rd = alpha * (s_r @ start) @ s_d.mT + (1 - alpha) * fitted
        g_dr = alpha * (s_d @ start) @ s_r.mT + (1 - alpha) * fitted
        p_r, u_r = self._merge(a_r @ heads_r.value), self._merge(g_rd @ heads_d.value)
        p_d, u_d = self._merge(a_d @ heads_d.value), self._merge(g_dr @ heads_r.value)
        return torch.cat([p_r, u_r], dim=-1), torch.cat([p_d, u_d], dim=-1)

    @staticmethod
    def _normalised(affinity: Tensor) -> Tensor:
        delta = torch.diag_embed(affinity.sum(dim=-1).rsqrt())
        return (affinity @ delta).mT @ delta


def prepare(side: str, tokens: int, batch: int = BATCH) -> Callable[[], list[Tensor]]:
    """One call: forward of the attention, backward of its sum to inputs and parameters; the output and gradients."""
    torch.manual_seed(0)
    module = (Literal if side == "literal" else CrossDiffusionAttention)(WIDTH, HEADS)
    streams = [torch.randn(batch, tokens, WIDTH, requires_grad=True) for _ in range(3)]
    leaves = [*streams, *module.parameters()]

    def call() -> list[Tensor]:
        out = module(*streams)
        return [out.detach(), *torch.autograd.grad(out.sum(), leaves)]

    return call


def check(tokens: int) -> None:
    """Both sides compute the same: every tensor to 1e-4 of its largest value."""
    for ours, literal in zip(prepare("ours", tokens)(), prepare("literal", tokens)(), strict=True):
        assert_close(ours, literal, rtol=0.0, atol=1e-4 * max(1.0, float(literal.abs().max())))


def large(tokens: int, pairs: int) -> dict[str, Any]:
    """As compare_ab, A B B A, without a warm-up: one call of the literal side takes a minute and a half."""
    calls = {side: prepare(side, tokens) for side in ("ours", "literal")}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in calls}
    before = os.getloadavg()
    for pair in range(pairs):
        for side in list(calls) if pair % 2 == 0 else reversed(calls):
            times[side].append(timed(calls[side]))
            print(f"  N {tokens} {side}: {times[side][-1][1]:.1f} CPU s", flush=True)
    result: dict[str, Any] = {
        side: {kind: spread([t[i] for t in seconds]) for i, kind in enumerate(("wall_s", "cpu_s"))}
        for side, seconds in times.items()
    }
    paired = list(zip(times["ours"], times["literal"], strict=True))
    result["speed"] = {kind: spread([b[i] / a[i] for a, b in paired]) for i, kind in enumerate(("wall", "cpu"))}
    return result | {"repeats": pairs, "calls": 1, "load": [before, os.getloadavg()]}


def compare() -> dict[str, Any]:
    rows = {}
    for tokens in (*SIZES, LARGE):
        if tokens == LARGE:
            figures = large(tokens, LARGE_PAIRS)
        else:
            check(tokens)
            repeats, calls = SIZES[tokens]
            sides = (prepare("ours", tokens), prepare("literal", tokens))
            figures = compare_ab(f"N {tokens}", *sides, repeats=repeats, calls=calls, labels=("ours", "literal"))
        for side in ("ours", "literal"):
            figures[side]["peak_bytes"] = peak_memory(prepare, side, tokens)["peak_bytes"]
        rows[str(tokens)] = figures
        speed, ours, literal = (
            figures["speed"]["cpu"]["median"],
            *(figures[s]["peak_bytes"] for s in ("ours", "literal")),
        )
        print(f"N {tokens}: {speed:.1f} x by CPU seconds, {ours / 2**20:.0f} of {literal / 2**20:.0f} MiB", flush=True)
    return rows


def scale() -> dict[str, Any]:
    """Ours alone, one sample, one call in a fresh process."""
    rows = {}
    for tokens in SCALING:
        rows[str(tokens)] = peak_memory(prepare, "ours", tokens, 1)
        print(f"N {tokens}, B 1: {rows[str(tokens)]}", flush=True)
    return rows


def plot(rows: dict[str, Any], scaling: dict[str, Any], path: Path) -> None:
    """CPU seconds and peak memory over the number of tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (time, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes, many = [int(n) for n in rows], [int(n) for n in scaling]
    for side, colour in (("literal", "tab:red"), ("ours", "tab:blue")):
        label = {"literal": "published formula, B 2", "ours": "weft, B 2"}[side]
        time.plot(sizes, [rows[str(n)][side]["cpu_s"]["median"] for n in sizes], "o-", color=colour, label=label)
        memory.plot(sizes, [rows[str(n)][side]["peak_bytes"] / 2**20 for n in sizes], "o-", color=colour, label=label)
    time.plot(many, [scaling[str(n)]["cpu_s"] for n in many], "s--", color="tab:cyan", label="weft, B 1")
    peaks = [scaling[str(n)]["peak_bytes"] / 2**20 for n in many]
    memory.plot(many, peaks, "s--", color="tab:cyan", label="weft, B 1")
    memory.plot(many[3:], [peaks[-1] * n / many[-1] for n in many[3:]], ":", color="black", label="linear in N")
    for axes, label in ((time, "CPU seconds, forward + backward"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="tokens N", ylabel=label)
        axes.set_xticks([64, 256, 1024, 4096, 16384], ["64", "256", "1024", "4096", "16384"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    set_threads(2)
    if sys.argv[1:] == ["plot"]:
        written = json.loads((RESULTS / "cross_diffusion.json").read_text())
        plot(written["sizes"], written["scaling"], FIGURE)
        return
    rows = compare()
    shape = {"batch": BATCH, "width": WIDTH, "heads": HEADS, "dtype": "float32"}
    figures = {"shape": shape, "omp_wait_policy": os.environ["OMP_WAIT_POLICY"], "sizes": rows, "scaling": scale()}
    write_result("cross_diffusion", figures)
    plot(rows, figures["scaling"], FIGURE)


if __name__ == "__main__":
    main()
