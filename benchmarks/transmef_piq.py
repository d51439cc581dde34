"""SSIM of fused pictures to their sources, TransMEF's judge beside the library piq, on real pairs.

    pip install --no-deps piq && WEFT_DATA=... python benchmarks/transmef_piq.py

As a whole piq imports torchvision, for features of networks. SSIM, all it has of the judge's metrics, does without: the
package is entered without its ``__init__``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import torch
from harness import fill_page, set_threads, write_result
from transmef_exposures import CLASSICAL, DATA, PAGE

from weft.data import load_dataset
from weft.systems.transmef import TransMef, metrics

ROADS = 20


def piq_ssim() -> Any:
    """``piq.ssim``."""
    found = importlib.util.find_spec("piq")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit("piq is not there: pip install --no-deps piq")
    package = types.ModuleType("piq")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["piq"] = package
    return importlib.import_module("piq.ssim").ssim


def main() -> None:
    set_threads(1)
    theirs = piq_ssim()
    roads = load_dataset("exposures", DATA / "roadscene")
    some = np.random.default_rng(2).permutation(len(roads))[:ROADS]
    sets = {
        "real exposures": TransMef.truth(load_dataset("exposures", DATA / "mefb"), np.arange(8)),
        "visible and infrared": TransMef.truth(roads, some),
    }
    lines = ["| pictures | fused by | SSIM, ours | SSIM, piq | apart at most |", "|---" * 5 + "|"]
    figures: dict[str, dict[str, float]] = {}
    for where, pairs in sets.items():
        for rule in ("mean", "max"):
            rows = []
            for pair in pairs:
                sources = [metrics.luma(x).round() for x in pair]
                fused = CLASSICAL[rule](sources)
                for source in sources:
                    a, b = (torch.from_numpy(x.astype(np.float64))[None, None] / 255 for x in (source, fused))
                    other = theirs(a, b, kernel_size=11, kernel_sigma=1.5, data_range=1.0, downsample=False)
                    rows.append([metrics.ssim(source, fused.astype(float)), float(other)])
            ours, piq = np.array(rows).T
            apart = float(np.abs(ours - piq).max())
            figures[f"{where}, {rule}"] = {"ours": float(ours.mean()), "piq": float(piq.mean()), "apart": apart}
            cells = [f"{ours.mean():.6f}", f"{piq.mean():.6f}", f"{apart:.1e}"]
            lines.append(f"| {where} | {rule} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    fill_page(PAGE, lines, "piq")
    write_result("transmef_piq", {"beside_piq": figures})


if __name__ == "__main__":
    main()
