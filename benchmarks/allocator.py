"""Claim: keeping freed memory in the process, as the ``weft`` command does, makes encoding and training cheaper.

The same work in fresh processes with and without ``weft.allocator.keep_freed_memory``, alternating: MobileNetV2 over
64 real photos, and training steps of LightCRL (addition, width 256, batch 64 of 197 + 22 tokens of width 768). Page
faults and peak memory beside the CPU seconds.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/allocator.py
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import set_threads, spread, timed, write_result
from lightcrl_cost import step
from real_comparisons import variables

from weft.allocator import keep_freed_memory
from weft.data import load_dataset
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.tokens import Tokens

PAIRS = 5


def photos() -> Callable[[], Any]:
    """MobileNetV2 over 64 photos, two batches."""
    there = variables()
    data = load_dataset("flickr8k", Path(there["WEFT_DATA"]) / "flickr8k")
    encoder = create_encoder(f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", "image")
    values = data.modalities["image"].values[::5]
    return lambda: [encoder.encode(values[start : start + 32]) for start in (0, 32)]


def lightcrl() -> Callable[[], Any]:
    """A training step on token sequences."""
    batch = {
        name: Tokens(torch.randn(64, length, 768), torch.ones(64, length, dtype=torch.bool))
        for name, length in (("image", 197), ("text", 22))
    }
    return step(AlignedModel.build(dims={"image": 768, "text": 768}, aligner="lightcrl", dim=256), lambda: batch)


CASES = {"64 photos, MobileNetV2": photos, "a step of LightCRL, batch 64": lightcrl}


def measure(case: str, keep: bool, answer: Any) -> None:
    """CPU seconds, page faults and peak bytes of the third call of a fresh process."""
    if keep:
        keep_freed_memory()
    set_threads(1)
    call = CASES[case]()
    call(), call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _, cpu = timed(call)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer.send((cpu, used.ru_minflt - before, used.ru_maxrss * 1024))


def fresh(case: str, keep: bool) -> tuple[float, int, int]:
    """:func:`measure` in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(case, keep, sender))
    child.start()
    sender.close()
    found: tuple[float, int, int] = receiver.recv()
    child.join()
    return found


def main() -> None:
    figures: dict[str, Any] = {"load_before": list(os.getloadavg())}
    for case in CASES:
        kept, left = [], []
        for pair in range(PAIRS):
            for keep in (True, False) if pair % 2 == 0 else (False, True):
                (kept if keep else left).append(fresh(case, keep))
        a, b = np.array(kept), np.array(left)
        faster = spread(list(b[:, 0] / a[:, 0]))
        figures[case] = {
            "cpu ms, kept": round(1000 * float(np.median(a[:, 0])), 1),
            "cpu ms, given back": round(1000 * float(np.median(b[:, 0])), 1),
            "times cheaper": f"{faster['median']:.2f} ({faster['q1']:.2f} to {faster['q3']:.2f})",
            "page faults, kept and given back": f"{np.median(a[:, 1]):.0f}, {np.median(b[:, 1]):.0f}",
            "peak MiB, kept and given back": f"{np.median(a[:, 2]) / 2**20:.0f}, {np.median(b[:, 2]) / 2**20:.0f}",
        }
        print(case, figures[case])
    write_result("allocator", figures)


if __name__ == "__main__":
    main()
