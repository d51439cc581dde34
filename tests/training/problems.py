"""Small problems with known answers."""

from __future__ import annotations

import numpy as np
import torch

from weft.data import Split
from weft.tokens import Tokens


class Memory:
    """Features in memory, as the interface has them."""

    def __init__(self, values, targets, group=None, task="classification", ids=None):
        self.values = values
        self.targets, self.group, self.task, self.split = targets, group, task, None
        self.dims = {name: v.shape[-1] for name, v in values.items()}
        self.presence = np.stack([~np.isnan(v).any(axis=-1) for v in values.values()], axis=1)
        self.ids = ids or [f"r{i}" for i in range(len(self.presence))]

    def __len__(self):
        return len(self.ids)

    def gather(self, rows):
        out = {}
        for i, (n, v) in enumerate(self.values.items()):
            there = torch.from_numpy(self.presence[rows, i])
            out[n] = Tokens(torch.nan_to_num(torch.from_numpy(v[rows]).float()).unsqueeze(1), there.unsqueeze(1))
        return out

    def pooled(self, rows):
        return {n: v[rows] for n, v in self.values.items()}

    def subset(self, names):
        return Memory({n: self.values[n] for n in names}, self.targets, self.group, self.task, self.ids)


def xor(rows: int = 600, seed: int = 0, width: int = 4) -> tuple[Memory, Split]:
    """The label is the XOR of two signs, one in each modality: neither knows anything alone."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (rows, 2))
    values = {n: rng.normal(size=(rows, width)) * 0.3 + 3 for n in ("a", "b")}
    for i, n in enumerate(values):
        values[n][:, 0] += 2 * bits[:, i]
    order = rng.permutation(rows)
    return Memory(values, {"label": bits.sum(axis=1) % 2}), Split(*np.split(order, [rows * 3 // 5, rows * 4 // 5]))
