"""FAF-Net beside a literal transcription of its published arithmetic, and how fast it enhances on one core.

    python benchmarks/fafnet.py [published] [small]

The transcription keeps complex maps as ``(B, C, F, T, 2)`` as the authors do, takes each part out by a stride, runs
four real convolutions and two norms per layer, gathers the candidates row by row with advanced indices and computes
their magnitudes from squares. Both sides compute the same (checked in float64), forward and backward, at the published
size and at a small one, one thread. The real-time factor is seconds of processor time per second of speech, 30 s of it
with 15 s of reference, which is listened to once: below 1 is faster than real time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import compare_sides, set_threads, timed, write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from weft.allocator import keep_freed_memory
from weft.systems.fafnet import Fafnet
from weft.systems.fafnet.layers import ChannelAttention, ComplexConv2d, ComplexNorm, SimilarityFusion
from weft.systems.fafnet.network import FafNet

SIZES: dict[str, dict[str, Any]] = {
    "published": {"channels": (32, 64, 128), "reductions": (4, 8, 16), "candidates": 5},
    "small": {"channels": (8, 16, 32), "reductions": (4, 4, 4), "candidates": 3, "blocks": 2},
}
FRAMES, REFERENCE, SPEECH = 32, 64, 30


def conv(layer: ComplexConv2d, x: Tensor) -> Tensor:
    re, im = x[..., 0], x[..., 1]
    return torch.stack([layer.real(re) - layer.imag(im), layer.real(im) + layer.imag(re)], dim=-1)


def norm(layer: ComplexNorm, x: Tensor) -> Tensor:
    half = len(layer.weight) // 2
    assert layer.running_mean is not None
    assert layer.running_var is not None
    parts = []
    for k, cut in enumerate((slice(0, half), slice(half, None))):
        mean, var = layer.running_mean[cut].clone(), layer.running_var[cut].clone()
        parts.append(F.batch_norm(x[..., k], mean, var, layer.weight[cut], layer.bias[cut], layer.training))
    return torch.stack(parts, dim=-1)


def both(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([function(x[..., 0]), function(x[..., 1])], dim=-1)


def magnitude(x: Tensor) -> Tensor:
    return torch.sqrt(x[..., 0] ** 2 + x[..., 1] ** 2)


def select(reference: Tensor, indices: Tensor) -> Tensor:
    found = torch.stack([reference[i][:, :, indices[i]] for i in range(len(reference))])  # (B, C, F, T, K, 2)
    return found.permute(0, 4, 1, 2, 3, 5).contiguous()


def fusion(layer: SimilarityFusion, x: Tensor, found: Tensor) -> Tensor:
    batch, k, channels, bins, frames, _ = found.shape
    q = magnitude(x).view(batch, 1, channels * bins, frames).permute(0, 3, 1, 2)
    keys = magnitude(found).view(batch, k, channels * bins, frames).permute(0, 3, 2, 1)
    weights = torch.softmax(q @ keys, dim=-1).permute(0, 3, 2, 1).view(batch, k, 1, 1, frames, 1)
    return conv(layer.conv, (weights * found).view(batch, k * channels, bins, frames, 2))


def attend(layer: ChannelAttention, x: Tensor, fused: Tensor) -> Tensor:
    s = torch.cat([x, fused], dim=1)
    gate = torch.sigmoid(layer.excite(torch.relu(layer.squeeze(magnitude(s).mean(dim=(2, 3))))))
    return conv(layer.conv, s * gate[:, :, None, None, None])


def literal(net: Any, noisy: Tensor, reference: Tensor, indices: Tensor) -> Tensor:
    """The first stage of ``(B, F, T, 2)``."""
    x, r, skips = noisy.unsqueeze(1), reference.unsqueeze(1), []
    for down, fuse, skip in zip(net.encoder, net.fusion, net.skip, strict=True):
        x, r = (both(norm(down.norms[0], conv(down.conv, z)), F.leaky_relu) for z in (x, r))
        skips.append(attend(skip, x, fusion(fuse, x, select(r, indices))))
    z = skips[-1]
    for block in net.blocks:
        z = both(z + conv(block.second, both(conv(block.first, z), torch.relu)), torch.relu)
    for up in net.decoder:
        z = conv(up.conv, torch.cat([z, skips.pop()], dim=1))
        z = z if up.norm is None else both(norm(up.norm, z), F.leaky_relu)
    re, im = z[:, 0, ..., 0], z[:, 0, ..., 1]
    size = torch.sqrt(re**2 + im**2)
    re, im = torch.tanh(size) * re / (size + 1e-12), torch.tanh(size) * im / (size + 1e-12)
    return torch.stack([noisy[..., 0] * re, noisy[..., 1] * im], dim=-1)


def sides(
    size: str, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], nn.Module]:
    torch.manual_seed(0)
    net = FafNet(**SIZES[size], mask="parts", select="clean").to(dtype).train()
    noisy, reference = (torch.randn(1, 257, frames, 2, dtype=dtype) for frames in (FRAMES, REFERENCE))
    indices = torch.randint(REFERENCE, (1, FRAMES, SIZES[size]["candidates"]))
    weights = torch.randn_like(noisy)

    def step(answer: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            net.zero_grad()
            out = answer()
            (out * weights).sum().backward()
            return out.detach()

        return run

    def ours() -> Tensor:
        heard = net.listen(torch.view_as_complex(reference))
        return torch.view_as_real(net(torch.view_as_complex(noisy), heard, indices))

    return step(ours), step(lambda: literal(net, noisy, reference, indices)), net


def one_side(size: str, side: int) -> Callable[[], Tensor]:
    return sides(size)[side]


def check(size: str) -> None:
    ours, theirs, net = sides(size, torch.float64)
    found = []
    for side in (ours, theirs):
        found.append([side(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) == 1 + len(list(net.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def real_time(sizes: list[str]) -> dict[str, float]:
    """Processor seconds per second of speech."""
    rng = np.random.default_rng(0)
    small = {"rate": 8000, "n_fft": 256, "hop": 128, "channels": (8, 8, 16), "reductions": (2, 2, 2), "candidates": 3}
    models = {
        "published, one stage": Fafnet(stages=1),
        "published, two stages": Fafnet(stages=2),
        "small, 8 kHz": Fafnet(stages=1, blocks=2, **small),  # type: ignore[arg-type]
    }
    found = {}
    for name, model in models.items():
        if not name.startswith(tuple(sizes)):
            continue
        model.eval()
        speech, reference = (rng.normal(size=seconds * model.rate).astype(np.float32) for seconds in (SPEECH, 15))
        model.enhance(speech[: model.rate], reference)
        start = time.process_time()
        model.enhance(speech, reference)
        found[name] = (time.process_time() - start) / SPEECH
        print(f"{name}: {found[name]:.3f} s of processor time per second of speech", flush=True)
    return found


def arithmetic() -> dict[str, float]:
    """GFLOP of one and two published stages for a second of speech, and GFLOP that this core convolves in a second."""
    frames = 4 * 125
    noisy, reference, estimate = (torch.randn(1, 257, frames, dtype=torch.complex64) for _ in range(3))
    indices = torch.randint(frames, (1, frames, SIZES["published"]["candidates"]))
    x, weight = torch.randn(1, 128, 32, frames), torch.randn(128, 128, 3, 3)
    needed = []
    with torch.no_grad():
        for stage in (1, 2):
            net = FafNet(**SIZES["published"], stage=stage).eval()
            heard = net.listen(reference)
            with FlopCounterMode(display=False) as counted:
                net(noisy, heard, indices, estimate if stage == 2 else None)
            needed.append(counted.get_total_flops() / 4e9)
        with FlopCounterMode(display=False) as one:
            F.conv2d(x, weight, padding=1)
        fast = min(timed(lambda: F.conv2d(x, weight, padding=1))[1] for _ in range(20))
    rate = one.get_total_flops() / 1e9 / fast
    print(f"at least {needed[0] / rate:.2f} s for one stage, {sum(needed) / rate:.2f} s for two", flush=True)
    found = {"GFLOP, one stage": needed[0], "GFLOP, two stages": sum(needed), "GFLOP/s": rate}
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    set_threads(1)
    keep_freed_memory()  # as the command does
    figures: dict[str, Any] = {}
    sizes = sys.argv[1:] or list(SIZES)
    for size in sizes:
        check(size)
        ours, theirs, _ = sides(size)
        figures[size] = compare_sides(f"fafnet {size}, forward and backward", ours, theirs, one_side, size)
    write_result("fafnet", {"figures": figures, "real_time_factor": real_time(sizes), "arithmetic": arithmetic()})


if __name__ == "__main__":
    main()
