"""Peak memory of each process that trains a system: one process, two with all weights (DDP), two with shares (FSDP).

``weft fit`` of ``frozen-fusion`` with a wide head on ``shapes``, on the CPU, two processes joined by gloo, four steps
and two looks at the dev rows. *MiB* is the highest resident set of a process, libraries and rows included; *weights*
are those of the model in float32. Between steps Adam holds them four times in one process: they, their gradients, two
moments. Shares halve that, and that alone: to score dev rows and to write a checkpoint every process puts all weights
and moments together, so that the peak does not fall.

    python benchmarks/shares_memory.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import _peak, set_threads, write_result

WAYS = {"one process": (1, False), "two, all weights (DDP)": (2, False), "two, in shares (FSDP)": (2, True)}
WIDTH = 8192
"""Of the fused vector, and of the layer behind it."""


def fit() -> None:
    """A process: the command, and what it took."""
    from weft.cli import main

    try:
        main()
    finally:
        peak = Path(os.environ["PEAKS"], os.environ.get("RANK", "0"))
        peak.write_text(str(_peak()))


def trained(folder: Path, count: int, shares: bool) -> tuple[list[int], int]:
    """Peak of each process, and bytes of the weights."""
    from weft.files import read_tensors

    environment = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": str(shares), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    words = ["fit", "shapes", "--data", "rows=80", "--data", "complete=true", "--system", "frozen-fusion", "--quiet"]
    words += ["--option", f"dim={WIDTH}", "--option", f"hidden={WIDTH}", "--out", str(folder / "model")]
    words += ["--set", "epochs=2", "--set", "batch_size=28"]
    folder.mkdir(parents=True)
    command = [*(start if count > 1 else [sys.executable]), __file__, *words]
    subprocess.run(command, env={**os.environ, **environment, "PEAKS": str(folder)}, check=True)
    peaks = [int((folder / str(rank)).read_text()) for rank in range(count)]
    weights, _ = read_tensors(folder / "model" / "best" / "model.safetensors")
    return peaks, sum(tensor.nbytes for tensor in weights.values())


def main() -> None:
    set_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for way, (count, shares) in WAYS.items():
            peaks, weights = trained(Path(place, way), count, shares)
            mib = dict(
                zip(("first process, MiB", "second process, MiB"), (round(p / 2**20) for p in peaks), strict=False)
            )
            found[way] = {**mib, "weights, MiB": round(weights / 2**20)}
            print(f"{way}: {json.dumps(found[way])}", flush=True)
    write_result("shares_memory", found)


if __name__ == "__main__":
    fit() if "fit" in sys.argv[1:2] else main()
