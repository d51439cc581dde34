r"""One modality of many rows as ragged blocks, and batches out of it by one vectorised gather.

The values of a modality lie in blocks (one per shard, memory-mapped, or one in memory). Block ``s`` holds the tokens of
its values one after the other, ``(sum_i T_i, D)``. Rows point into the values, ``-1`` where the modality is absent, so
a value that many rows share is kept once.

A batch of ``n`` rows costs one ``index_select`` per block it touches, one that puts the records in order (left out
where they are in order already), and one conversion to float32. No loop runs over rows. Where all values have the same
number of tokens, a record is a whole value instead of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.tokens import Tokens

POOL_BYTES = 1 << 26


class Fetched(NamedTuple):
    """Records read from the blocks: ``(R + 1, W)``, the last one zero, in the blocks' order unless ``ordered``."""

    records: Tensor
    first: np.ndarray
    ordered: bool


class Column:
    """Ragged features of one modality.

    Args:
        blocks: ``(sum T, D)`` tensors of one dtype.
        lengths: per block, the number of tokens of each of its values, all at least 1.
        pointer: ``(N,)`` index of each row's value, counted over all blocks; ``-1`` where absent.
        width: ``D``.
    """

    def __init__(
        self, blocks: Sequence[Tensor], lengths: Sequence[np.ndarray], pointer: np.ndarray, width: int
    ) -> None:
        self.pointer, self.width = np.asarray(pointer, dtype=np.int64), width
        self.tokens = np.concatenate([np.zeros(0, np.int64), *lengths]).astype(np.int64)
        uniform = len(self.tokens) > 0 and bool((self.tokens == self.tokens[0]).all())
        self.per_record = int(self.tokens[0]) if uniform else 1
        self.blocks = [block.view(-1, self.per_record * width) for block in blocks]
        self._count = np.ones_like(self.tokens) if uniform else self.tokens
        self._block = np.repeat(np.arange(len(blocks)), [len(n) for n in lengths])
        starts = [np.cumsum(n) - n for n in lengths]
        self._start = np.concatenate([np.zeros(0, np.int64), *starts]).astype(np.int64) // self.per_record

    @property
    def presence(self) -> np.ndarray:
        """``(N,)`` bool."""
        return self.pointer >= 0

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` number of tokens of each row, 0 where absent."""
        return np.append(self.tokens, 0)[self.pointer]

    def gather(self, rows: np.ndarray) -> Tokens:
        """Rows ``(n,)`` as float32 Tokens, padded with zeros to the longest of the batch; at least one token wide."""
        values = self.pointer[rows]
        there = values >= 0
        count = np.append(self._count, 0)[values]
        longest = max(int(count.max(initial=0)), 1)
        mask = torch.from_numpy(np.arange(longest) < count[:, None])
        fetched = self._fetch(values[there])
        if fetched.ordered and bool((count == longest).all()):
            records = fetched.records[:-1].to(torch.float32)
        else:
            first = np.full(len(rows), len(fetched.records) - 1)
            first[there] = fetched.first
            place = np.where(mask.numpy(), first[:, None] + np.arange(longest), len(fetched.records) - 1)
            records = fetched.records.index_select(0, torch.from_numpy(place.ravel())).to(torch.float32)
        if self.per_record > 1:
            mask = mask.expand(-1, self.per_record).contiguous()
        return Tokens(records.view(len(rows), mask.shape[1], self.width), mask)

    def pooled(self, rows: np.ndarray) -> np.ndarray:
        """``(n, D)`` float32 means over the tokens; NaN where absent."""
        out = np.full((len(rows), self.width), np.nan, dtype=np.float32)
        values, inverse = np.unique(self.pointer[rows], return_inverse=True)
        there = values >= 0
        means = np.full((len(values), self.width), np.nan, dtype=np.float32)
        present = values[there]
        tokens_before = np.cumsum(self.tokens[present]) if len(present) else np.zeros(0, np.int64)
        chunk = tokens_before * self.width * 4 // POOL_BYTES
        parts = [self._means(part) for part in np.split(present, np.flatnonzero(np.diff(chunk)) + 1) if len(part)]
        if parts:
            means[there] = np.concatenate(parts)
        out[:] = means[inverse]
        return out

    def _means(self, values: np.ndarray) -> np.ndarray:
        """``(n, D)`` means of values in increasing order."""
        tokens = self._fetch(values).records[:-1].to(torch.float32).view(-1, self.width)
        lengths = torch.from_numpy(self.tokens[values])
        means: np.ndarray = torch.segment_reduce(tokens, "mean", lengths=lengths, axis=0).numpy()
        return means

    def _fetch(self, values: np.ndarray) -> Fetched:
        """The records of ``values`` ``(n,)``, and where each value's first one lies."""
        block = self._block[values]
        ordered = bool((block[1:] >= block[:-1]).all())
        order = np.arange(len(values)) if ordered else np.argsort(block, kind="stable")
        values, block = values[order], block[order]
        count, start = self._count[values], self._start[values]
        ends = np.cumsum(count)
        total = int(ends[-1]) if len(ends) else 0
        source = torch.from_numpy(np.repeat(start - ends + count, count) + np.arange(total))
        records = torch.empty(total + 1, self.per_record * self.width, dtype=self.dtype)
        records[-1] = 0
        edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
        for begin, end in pairwise(edges):
            a, b = int(ends[begin] - count[begin]), int(ends[end - 1])
            torch.index_select(self.blocks[block[begin]], 0, source[a:b], out=records[a:b])
        first = np.empty_like(ends)
        first[order] = ends - count
        return Fetched(records, first, ordered)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype on disk or in memory; batches are float32."""
        return self.blocks[0].dtype if self.blocks else torch.float32
