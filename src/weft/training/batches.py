"""Batches on a device: gathered once and kept where they fit in memory, else read as they come.

Frozen features are small beside the steps spent on them, so a run reads them once and every batch is one
``index_select``. Where sequences do not matter (operators on vectors) only their mean is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from weft.tokens import Tokens, as_tokens, everywhere, full, mean_pool, present

if TYPE_CHECKING:
    from weft.store import Features

CHUNK = 512
"""Rows read at once."""


class Batches:
    """Some rows of features, batch by batch.

    Args:
        features: where the rows are.
        rows: which rows, ``(N,)``; a batch names them by position in this array.
        device: where batches go.
        pooled: keep the mean over the tokens instead of the sequence.
        cache_bytes: keep everything on the device up to this size.
    """

    def __init__(
        self, features: Features, rows: np.ndarray, device: torch.device, pooled: bool, cache_bytes: float
    ) -> None:
        self.features, self.rows, self.device, self.pooled = features, np.asarray(rows), device, pooled
        self._lengths = {name: np.maximum(lengths[self.rows], 1) for name, lengths in features.lengths.items()}
        if pooled:
            self._lengths = {name: np.ones_like(lengths) for name, lengths in self._lengths.items()}
        size = sum(len(rows) * self._lengths[name].max() * (4 * d + 1) for name, d in features.dims.items())
        self._cache = self._read() if size <= cache_bytes else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: np.ndarray) -> dict[str, Tokens]:
        """``{name: Tokens}`` of these positions, padded to the longest of the batch."""
        if self._cache is None:
            return self._gather(self.rows[positions])
        index = torch.from_numpy(positions).to(self.device)
        batch = {}
        for name, (values, mask) in self._cache.items():
            longest = int(self._lengths[name][positions].max())
            if longest < values.shape[1]:
                values, mask = values[:, :longest], mask[:, :longest]
            values = values.index_select(0, index)
            known = everywhere(*values.shape[:2], device=values.device) if full(mask) else mask.index_select(0, index)
            batch[name] = Tokens(values, known)
        return batch

    def chunks(self, size: int = CHUNK) -> Iterator[dict[str, Tokens]]:
        """All rows in order, ``{name: (size, T, D)}`` at a time."""
        for start in range(0, len(self), size):
            yield self[np.arange(start, min(start + size, len(self)))]

    def _gather(self, rows: np.ndarray) -> dict[str, Tokens]:
        batch = self.features.gather(rows)
        if self.pooled:
            batch = {name: as_tokens(mean_pool(tokens), present(tokens)) for name, tokens in batch.items()}
        return {name: tokens.to(self.device) for name, tokens in batch.items()}

    def _read(self) -> dict[str, Tokens]:
        """All rows, padded to the longest; written chunk by chunk into their place."""
        cache: dict[str, Tokens] = {}
        for start in range(0, len(self), CHUNK):
            for name, (values, mask) in self._gather(self.rows[start : start + CHUNK]).items():
                if name not in cache:
                    shape = (len(self), int(self._lengths[name].max()))
                    cache[name] = Tokens(values.new_zeros(*shape, values.shape[2]), mask.new_zeros(*shape))
                place = (slice(start, start + len(values)), slice(values.shape[1]))
                cache[name].values[place], cache[name].mask[place] = values, mask
        for name, (values, mask) in cache.items():  # asked once here, known of every batch
            if bool(mask.all()):
                cache[name] = Tokens(values, everywhere(*mask.shape, device=mask.device))
        return cache


def drop_modalities(inputs: dict[str, Tokens], probability: float) -> dict[str, Tokens]:
    """Hide each present modality of a row with ``probability`` by clearing its mask, never the last one of a row."""
    if not probability:
        return inputs
    there = torch.stack([present(tokens) for tokens in inputs.values()], dim=1)
    draw = torch.rand(there.shape, device=there.device)
    spared = torch.where(there, draw, -1.0).argmax(dim=1, keepdim=True)
    return _kept(inputs, (draw >= probability).scatter(1, spared, True))


def fewer_modalities(inputs: dict[str, Tokens]) -> dict[str, Tokens]:
    """Each row with a random strict subset of its modalities, its size uniform in ``1 .. |A| - 1``.

    A row with one modality keeps it.
    """
    there = torch.stack([present(tokens) for tokens in inputs.values()], dim=1)
    count = there.sum(dim=1, keepdim=True)
    size = 1 + (torch.rand(count.shape, device=there.device) * (count - 1)).long()
    place = torch.where(there, torch.rand(there.shape, device=there.device), 2.0).argsort(dim=1).argsort(dim=1)
    return _kept(inputs, place < size)


def _kept(inputs: dict[str, Tokens], keep: Tensor) -> dict[str, Tokens]:
    """Hide what ``keep`` ``(B, M)`` does not name."""
    return {name: Tokens(t.values, t.mask & keep[:, i : i + 1]) for i, (name, t) in enumerate(inputs.items())}
