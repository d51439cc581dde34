"""Five-answer VQA: METER with co-attention, with merged attention, UNITER, and the question alone, in one comparison.

``python benchmarks/vqa_meter_uniter.py VQA IMAGE_MODEL OUT [SEEDS] [EPOCHS]``. Small networks over the words of the
training questions and the frozen cells of one image model; every variant has the same rows, seeds and settings.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from weft.compare.systems import compare_systems
from weft.data import load_dataset, make_splits
from weft.files import write_json
from weft.training.config import TrainConfig

METER = {"text": {"layers": 1}, "head_rate": 1.0, "cross_rate": 1.0}
VARIANTS = {
    "co-attention": {"fusion": "co", "layers": 2, **METER},
    "merged attention": {"fusion": "merged", "layers": 4, **METER},
    "UNITER": {"system": "uniter", "layers": 5, "head_rate": 1.0},
    "question alone": {"fusion": "text", "layers": 4, **METER},
}


def main(root: str, model: str, out: str, seeds: str = "3", epochs: str = "30") -> None:
    torch.set_num_threads(1)
    data = load_dataset("vqa", root=Path(root))
    shared = {"image": f"hf:{model}", "dim": 64, "heads": 4, "dropout": 0.2, "length": 40, "loss": "task"}
    config = TrainConfig(epochs=int(epochs), batch_size=32, lr=1e-3, warmup=0.1, patience=8, weight_decay=0.05)
    started = time.monotonic()
    found = compare_systems(
        "meter", data, [make_splits(data)], VARIANTS, options=shared, seeds=int(seeds), config=config, folder=Path(out)
    )
    write_json(Path(out) / "comparison.json", found.to_dict())
    for variant, metrics in found.metrics.items():
        print(variant, {name: [round(v, 4) for v in values] for name, values in metrics.items()})
    print(found.gains)
    print(found.sentence, f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
