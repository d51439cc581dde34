"""Peak memory of each process that trains a system: one process, two with all weights (DDP), two with shares (FSDP).

``weft fit`` of ``frozen-fusion`` with a wide head on ``shapes``, on the CPU, two processes joined by gloo, four steps
and two looks at the dev rows. *MiB* is the highest resident set of a process, libraries and rows (450 MiB) included, in
one run. *weights* are those of the model in float32. One process holds them five times between steps: they, their
gradients, two moments of Adam, the best ones so far. Shares halve that; but while a step computes, all weights and
gradients are there. That is the peak: dev rows are scored and a checkpoint is written below it.

The command keeps memory that a step frees, which saves time and costs a peak; with shares it gives it back. *returned*:
the other two do so, too. Other runs, not published whole, had 2843 to 3356 for all weights and 1777 to 2028 for shares.

    python benchmarks/shares_memory.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import _peak, set_threads, write_result

WAYS = {
    "one process": (1, False, False),
    "two, all weights (DDP)": (2, False, False),
    "two, in shares (FSDP)": (2, True, False),
    "one process, returned": (1, False, True),
    "two, all weights (DDP), returned": (2, False, True),
}
WIDTH = 8192
"""Of the fused vector, and of the layer behind it."""


def fit() -> None:
    """A process: the command, and what it took."""
    from weft import cli
    from weft.cli import main

    if os.environ["RETURNED"] == "True":
        cli.keep_freed_memory = lambda: False
    try:
        main()
    finally:
        peak = Path(os.environ["PEAKS"], os.environ.get("RANK", "0"))
        peak.write_text(str(_peak()))


def trained(folder: Path, count: int, shares: bool, returned: bool) -> tuple[list[int], int]:
    """Peak of each process, and bytes of the weights."""
    from weft.files import read_tensors

    environment = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": str(shares), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    words = ["fit", "shapes", "--data", "rows=80", "--data", "complete=true", "--system", "frozen-fusion", "--quiet"]
    words += ["--option", f"dim={WIDTH}", "--option", f"hidden={WIDTH}", "--out", str(folder / "model")]
    words += ["--set", "epochs=2", "--set", "batch_size=28"]
    command = [*(start if count > 1 else [sys.executable]), __file__, *words]
    subprocess.run(
        command, env={**os.environ, **environment, "PEAKS": str(folder), "RETURNED": str(returned)}, check=True
    )
    peaks = [int((folder / str(rank)).read_text()) for rank in range(count)]
    weights, _ = read_tensors(folder / "model" / "best" / "model.safetensors")
    return peaks, sum(tensor.nbytes for tensor in weights.values())


def main() -> None:
    set_threads(1)
    figures: dict[str, Any] = {}
    for way, (count, shares, returned) in WAYS.items():
        with tempfile.TemporaryDirectory() as place:
            peaks, weights = trained(Path(place), count, shares, returned)
        mib = [round(peak / 2**20) for peak in peaks]
        figures[way] = dict(zip(("first process, MiB", "second process, MiB"), mib, strict=False))
        figures[way]["weights, MiB"] = round(weights / 2**20)
        print(f"{way}: {mib}", flush=True)
    write_result("shares_memory", figures)


if __name__ == "__main__":
    fit() if "fit" in sys.argv[1:2] else main()
