"""Cross-diffusion attention: the published formula, written literally, against ours; forward + backward, two threads.

The literal side follows the published arithmetic: both symmetric normalisations as two products with a diagonal matrix
each, the product with the identity, and two products per direction, all N x N x N. Both sides hold the same weights and
share every linear layer and the fused stream's self-attention.

Run from the repository root: ``python benchmarks/cross_diffusion.py [sizes] [scaling] [parts] [plot] [check]``; without
words, the first four. What is not run anew keeps its figures. "parts" times what the passes are made of, on one thread;
"check" compares the two sides at every size, as "sizes" does too. OpenMP waits passively (set below): spinning threads
on a shared machine count as CPU seconds and measure the neighbours.
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
from harness import RESULTS, compare_ab, machine, peak_memory, set_threads, timed, write_result
from torch import Tensor

from weft.fusion.mutualformer import CrossDiffusionAttention

BATCH, WIDTH, HEADS = 2, 256, 8
SIZES = {64: (9, 20), 256: (7, 5), 1024: (5, 1), 2048: (5, 1)}  # tokens: (pairs of measurements, calls per measurement)
WARM = 1024  # above, no warm-up: one call of the literal side takes more than a minute
SCALING = (256, 512, 1024, 2048, 4096, 8192, 16384)
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "cross_diffusion.png"


class Literal(CrossDiffusionAttention):
    """The published formula, one product after the other."""

    def _exchange(self, r: Tensor, d: Tensor, mask_r: Tensor | None, mask_d: Tensor | None) -> tuple[Tensor, Tensor]:
        heads_r, heads_d = self._split(r, mask_r), self._split(d, mask_d)
        a_r, a_d = (torch.softmax(self.scale * h.query @ h.key.mT, dim=-1) for h in (heads_r, heads_d))
        s_r, s_d = self._normalised(a_r), self._normalised(a_d)
        start = torch.eye(r.shape[1], device=r.device).repeat(r.shape[0], self.heads, 1, 1)
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


class Checked:
    """A call that hands its outputs and gradients to the other side once, which compares them with its own."""

    def __init__(self, side: str, tokens: int, outcomes: dict[str, list[Tensor]]) -> None:
        self.side, self.call, self.outcomes = side, prepare(side, tokens), outcomes

    def __call__(self) -> None:
        found = self.call()
        if len(self.outcomes) < 2:
            self.outcomes.setdefault(self.side, found)


def largest_difference(outcomes: dict[str, list[Tensor]]) -> float:
    """Over output and gradients, relative to the largest value of each (or 1); refused above 1e-4."""
    pairs = zip(outcomes["ours"], outcomes["literal"], strict=True)
    found = max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)
    if not found < 1e-4:
        raise RuntimeError(f"the two sides differ by {found}")
    return found


def check() -> dict[str, float]:
    """Both sides at every size, without timing."""
    found = {}
    for tokens in SIZES:
        found[str(tokens)] = largest_difference({side: prepare(side, tokens)() for side in ("ours", "literal")})
        print(f"N {tokens}: largest difference {found[str(tokens)]:.1e}", flush=True)
    return found


def compare() -> dict[str, Any]:
    rows = {}
    for tokens, (repeats, calls) in SIZES.items():
        outcomes: dict[str, list[Tensor]] = {}
        sides = [Checked(side, tokens, outcomes) for side in ("ours", "literal")]
        figures = compare_ab(
            f"N {tokens}",
            *sides,
            repeats=repeats,
            calls=calls,
            warmup=int(tokens <= WARM),
            labels=("ours", "literal"),
        )
        figures["largest_difference"] = largest_difference(outcomes)
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


def parts(tokens: int = 2048, width: int = 32) -> dict[str, Any]:
    """Rates of what a pass is made of, best of 5, one thread: GFLOP/s of products, 1e9 entries/s of exponentials."""
    set_threads(1)
    rows: dict[str, Any] = {}

    def rate(amount: float, call: Callable[[], Any]) -> float:
        call()
        calls = max(1, int(0.05 / timed(call)[1]))
        return round(amount / min(timed(call, calls)[1] for _ in range(5)) / 1e9, 2)

    for heads, block, keys in ((4, 128, 2048), (1, 128, 2048), (1, 256, 1024), (1, 256, 512), (8, 128, 512)):
        q, k, x = (torch.randn(heads, n, width) for n in (block, keys, keys))
        scores, affinity, norm = *torch.randn(2, heads, block, keys), torch.zeros(heads, block, 1)
        out, total, cells = torch.empty_like(q), torch.zeros(heads, width, keys), scores.numel()
        rows[f"{heads} heads x {block} rows x {keys} keys"] = {
            "Q K^T": rate(2 * cells * width, lambda q=q, k=k, s=affinity: torch.bmm(q, k.mT, out=s)),
            "A X": rate(2 * cells * width, lambda a=scores, x=x, o=out: torch.bmm(a, x, out=o)),
            "A^T X": rate(2 * cells * width, lambda a=scores, q=q, t=total: t.baddbmm_(q.mT, a)),
            "softmax": rate(cells, lambda s=scores, a=affinity: torch.softmax(s, -1, out=a)),
            "exp(S - lse)": rate(cells, lambda s=scores, a=affinity, n=norm: torch.sub(s, n, out=a).exp_()),
        }
    q, k, v = (torch.randn(BATCH, HEADS, tokens, width, requires_grad=True) for _ in range(3))
    grad, cells = torch.randn_like(q), BATCH * HEADS * tokens**2
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def forward() -> Tensor:
        with torch.no_grad():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    rows["fused attention"] = {
        "forward, 2 products and exp": rate(4 * cells * width, forward),
        "backward, 5 products and exp": rate(
            10 * cells * width, lambda: torch.autograd.grad(y, (q, k, v), grad, retain_graph=True)
        ),
    }
    for name, figures in rows.items():
        print(name, figures, flush=True)
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
    words = sys.argv[1:] or ["sizes", "scaling", "parts", "plot"]
    path = RESULTS / "cross_diffusion.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures["shape"] = {"batch": BATCH, "width": WIDTH, "heads": HEADS, "dtype": "float32"}
    figures["omp_wait_policy"] = os.environ["OMP_WAIT_POLICY"]
    for word, measure in {"check": check, "parts": parts, "sizes": compare, "scaling": scale}.items():
        if word in words:
            set_threads(2)
            figures[word] = measure()
            figures["machine" if word == "sizes" else f"{word}_machine"] = machine()
    if words != ["plot"]:
        write_result("cross_diffusion", figures)
    plot(figures["sizes"], figures["scaling"], FIGURE)


if __name__ == "__main__":
    main()
