"""Batches from the store against a bare memory-mapped gather of the same rows. Target: at least half its speed.

The bare side knows everything in advance: one file with every value in order, its row numbers or token numbers already
computed, no absent rows, no mask. Both give float32. A page cache that is warm on both sides.

The store was written in 32 shards; both sides read memory-mapped files. OpenMP waits passively (set below): spinning
threads on a shared machine measure the neighbours.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import compare_ab, set_threads, write_result
from safetensors import safe_open
from safetensors.torch import save_file

from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.store import Store, encode

ROWS, BATCH, SHARDS = 4096, 256, 32
CASES = {
    "vectors of 384": (384, 1, 1),
    "vectors of 1280": (1280, 1, 1),
    "maps of 49 x 256": (256, 49, 49),
    "sentences of 4..24 x 384": (384, 4, 24),
}


def make(folder: Path, width: int, shortest: int, longest: int) -> tuple[Store, torch.Tensor, np.ndarray]:
    """A store of random features, the same features in one bare file, and the number of tokens of each row."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(shortest, longest + 1, ROWS)
    values = [generator.standard_normal((n, width), dtype=np.float32) for n in lengths]
    dataset = Dataset(
        "speed", [str(i) for i in range(ROWS)], {"x": Modality("tokens", values)}, {}, None, None, "retrieval"
    )
    store = encode(
        dataset,
        {"x": create_encoder("precomputed", "tokens")},
        folder / "store",
        shard_rows=ROWS // SHARDS,
        progress=False,
    )
    save_file({"values": torch.from_numpy(np.concatenate(values)).half()}, folder / "bare.safetensors")
    with safe_open(folder / "bare.safetensors", framework="pt") as file:
        return store, file.get_tensor("values"), lengths


def bare_gather(block: torch.Tensor, lengths: np.ndarray, rows: np.ndarray) -> Callable[[], torch.Tensor]:
    """Index the file, convert, and where lengths differ pad: as short as it can be written."""
    starts = np.cumsum(lengths) - lengths
    if (lengths == lengths[0]).all():
        whole = block.view(len(lengths), -1)
        index = torch.from_numpy(rows)
        return lambda: whole.index_select(0, index).float().view(len(rows), lengths[0], -1)
    tokens = torch.from_numpy(np.concatenate([np.arange(starts[r], starts[r] + lengths[r]) for r in rows]))
    sizes = lengths[rows].tolist()
    return lambda: torch.nn.utils.rnn.pad_sequence(
        list(block.index_select(0, tokens).float().split(sizes)), batch_first=True
    )


def main() -> None:
    set_threads()
    figures = []
    for case, (width, shortest, longest) in CASES.items():
        folder = Path(tempfile.mkdtemp())
        try:
            store, block, lengths = make(folder, width, shortest, longest)
            generator = np.random.default_rng(1)
            shuffled = [generator.permutation(ROWS)[:BATCH] for _ in range(8)]
            consecutive = [np.arange(i * BATCH, (i + 1) * BATCH) for i in range(8)]
            for order, batches in (("shuffled", shuffled), ("consecutive", consecutive)):
                bare = [bare_gather(block, lengths, rows) for rows in batches]
                for rows, gather in zip(batches, bare, strict=True):
                    if not torch.equal(store.gather(rows)["x"].values, gather()):
                        raise SystemExit("the two sides differ")
                figures.append(
                    compare_ab(
                        f"{case}, {order} batches of {BATCH}",
                        lambda batches=batches, store=store: [store.gather(rows) for rows in batches],
                        lambda bare=bare: [gather() for gather in bare],
                        repeats=9,
                        calls=20 if longest == 1 else 2,
                        warmup=2,
                        labels=("store", "bare"),
                    )
                )
        finally:
            shutil.rmtree(folder)
    write_result("store_gather", {"rows": ROWS, "shards": SHARDS, "target": "speed >= 0.5", "figures": figures})


if __name__ == "__main__":
    main()
