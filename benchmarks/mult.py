"""MulT forward + backward: the published arithmetic, transcribed literally, against ours; equal weights, equal outputs.

The literal side works as the original: time first, one pair of sequences at a time, every source embedded, normalised
and projected once as keys and once as values for every target and layer, explicit attention matrices of all heads with
an additive mask, their mean over heads computed and dropped, and the self-attention encoders run over all steps
although only the last is read. Dropout is off on both sides.

What to expect: half the time and a third of the memory where sequences are long, because attention is then most of the
work. At 50 steps the linear layers are, both sides share them, and ours is no faster: about 0.9 to 1.1 times the speed.

Run from the repository root: ``python benchmarks/mult.py``. OpenMP waits passively (set below): spinning threads on a
shared machine count as CPU seconds and measure the neighbours.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from harness import compare_ab, peak_memory, set_threads, write_result
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from weft.fusion.mult import MulT, SequenceAttention, SequenceEncoder, positions
from weft.tokens import Tokens

WIDTHS = {"text": 300, "audio": 74, "vision": 35}  # CMU-MOSEI
LAYERS, HEADS, WIDTH = 5, 5, 30  # of the original code


class Shape(NamedTuple):
    """One row of the result."""

    batch: int
    lengths: tuple[int, int, int]
    future_mask: bool
    repeats: int


SHAPES = {
    "aligned 50/50/50": Shape(16, (50, 50, 50), True, 7),
    "unaligned 50/375/500": Shape(4, (50, 375, 500), True, 7),
    "unaligned 50/375/500, no future mask": Shape(4, (50, 375, 500), False, 7),
}


def literal(module: MulT, inputs: Mapping[str, Tokens]) -> Tensor:
    """The published network on the weights of ``module``; every step counts."""
    streams = [p(t.values).transpose(0, 1) for p, t in zip(module.project, inputs.values(), strict=True)]
    encoders, last = iter(module.cross), []
    for a, memory in enumerate(module.memory):
        received = [encode(next(encoders), streams[a], x) for b, x in enumerate(streams) if b != a]
        last.append(encode(memory, torch.cat(received, dim=2), None)[-1])  # type: ignore[arg-type]
    z = torch.cat(last, dim=1)
    return module.head.out_layer(module.head.proj2(F.relu(module.head.proj1(z))) + z)


def encode(encoder: SequenceEncoder, x: Tensor, source: Tensor | None) -> Tensor:
    """``(T, B, E)`` on ``(S, B, E)``."""
    key = value = None
    if source is not None:
        key, value = embed(source), embed(source)
    x = embed(x)
    for layer in encoder.layers:
        norm, norm_mlp = layer.layer_norms
        query = norm(x)
        keys, values = (query, query) if key is None else (norm(key), norm(value))
        mask = future_mask(len(query), len(keys), x.device) if encoder.future_mask else None
        x = x + attend(layer.self_attn, query, keys, values, mask)
        x = x + layer.fc2(F.relu(layer.fc1(norm_mlp(x))))
    return encoder.layer_norm(x)


def embed(x: Tensor) -> Tensor:
    """``sqrt(E) X + PE``; a step whose first channel is 0 has no position."""
    steps = torch.arange(1, len(x) + 1, device=x.device).unsqueeze(1) * (x[:, :, 0] != 0)
    return x.shape[2] ** 0.5 * x + positions(steps.to(x.dtype), x.shape[2]).detach()


def future_mask(target: int, source: int, device: torch.device) -> Tensor:
    return torch.triu(torch.full((target, source), float("-inf"), device=device), 1 + abs(target - source))


def attend(att: SequenceAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    (wq, wk, wv), (bq, bk, bv) = att.in_proj_weight.chunk(3), att.in_proj_bias.chunk(3)
    size, batch = att.width // att.heads, query.shape[1]
    if query is key:
        q, k, v = F.linear(query, att.in_proj_weight, att.in_proj_bias).chunk(3, dim=-1)
    else:
        q, k, v = F.linear(query, wq, bq), F.linear(key, wk, bk), F.linear(value, wv, bv)
    q, k, v = (y.contiguous().view(len(y), batch * att.heads, size).transpose(0, 1) for y in (q * size**-0.5, k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    if mask is not None:
        scores = scores + mask.unsqueeze(0)
    weights = F.softmax(scores.float(), dim=-1).type_as(scores)
    received = torch.bmm(weights, v).transpose(0, 1).contiguous().view(len(query), batch, att.width)
    weights.view(batch, att.heads, len(query), len(key)).sum(dim=1).div_(att.heads)
    return att.out_proj(received)


def prepare(side: str, name: str) -> Callable[[], list[Tensor]]:
    """One call: forward, backward of the sum to all parameters and inputs; the output and the gradients."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    module = MulT(WIDTHS, 1, width=WIDTH, layers=LAYERS, heads=HEADS, future_mask=shape.future_mask).eval()
    inputs = {
        modality: Tokens(
            torch.randn(shape.batch, length, width, requires_grad=True),
            torch.ones(shape.batch, length, dtype=torch.bool),
        )
        for (modality, width), length in zip(WIDTHS.items(), shape.lengths, strict=True)
    }
    leaves = [t.values for t in inputs.values()] + list(module.parameters())

    def call() -> list[Tensor]:
        y = literal(module, inputs) if side == "literal" else module(inputs).vector
        return [y.detach(), *torch.autograd.grad(y.sum(), leaves)]

    return call


def check(name: str) -> None:
    """Both sides compute the same: every tensor to 1e-3 of its largest value, in float32."""
    for ours, other in zip(prepare("ours", name)(), prepare("literal", name)(), strict=True):
        assert_close(ours, other, rtol=0.0, atol=1e-3 * float(other.abs().max()) + 1e-6)


def main() -> None:
    set_threads(2)
    rows: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        check(name)
        sides = {side: prepare(side, name) for side in ("ours", "literal")}
        figures = compare_ab(name, *sides.values(), repeats=shape.repeats, labels=("ours", "literal"))
        for side in sides:
            figures[side]["peak_bytes"] = peak_memory(prepare, side, name)["peak_bytes"]
        figures["memory_ratio"] = figures["literal"]["peak_bytes"] / figures["ours"]["peak_bytes"]
        rows[name] = figures | {"shape": shape._asdict()}
        peaks = [figures[side]["peak_bytes"] / 2**20 for side in sides]
        print(f"  peak memory: ours {peaks[0]:.0f} MiB, literal {peaks[1]:.0f} MiB", flush=True)
    model = {"dims": WIDTHS, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "dtype": "float32"}
    write_result("mult", {"model": model, "omp_wait_policy": os.environ["OMP_WAIT_POLICY"], "shapes": rows})


if __name__ == "__main__":
    main()
