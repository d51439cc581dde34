r"""One modality of many rows as ragged blocks, and batches out of it by one vectorised gather.

The values of a modality lie in blocks (one per shard, memory-mapped, or one in memory). Block ``s`` holds the tokens of
its values one after the other, ``(sum_i T_i, D)``. Rows point into the values, ``-1`` where the modality is absent, so
a value that many rows share is kept once.

A batch costs one ``index_select`` and one conversion to float32 for every block it touches. No loop runs over rows.
Where all values have the same number of tokens, a record is a whole value instead of a token. A column of up to
``IN_MEMORY`` bytes is joined to one block in memory: small batches of short records would otherwise spend their time in
calls, one per shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from weft.tokens import Tokens

POOL_BYTES = 1 << 26
IN_MEMORY = 1 << 29


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
        if len(blocks) > 1 and sum(block.nbytes for block in blocks) <= IN_MEMORY:
            blocks, lengths = [torch.cat(list(blocks))], [self.tokens]
        self.uniform = len(self.tokens) > 0 and bool((self.tokens == self.tokens[0]).all())
        self.per_record = int(self.tokens[0]) if self.uniform else 1
        self.blocks = [block.view(-1, self.per_record * width) for block in blocks]
        self._count = np.append(np.ones_like(self.tokens) if self.uniform else self.tokens, 0)
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
        if self.uniform and len(self.blocks) == 1 and bool((values >= 0).all()):
            records = self.blocks[0].index_select(0, torch.from_numpy(values)).to(torch.float32)
            shape = (len(rows), self.per_record)
            return Tokens(records.view(*shape, self.width), torch.ones(shape, dtype=torch.bool))
        count = self._count[values]
        longest = max(int(count.max(initial=0)), 1)
        mask = torch.from_numpy(np.arange(longest) < count[:, None])
        there = np.flatnonzero(count)
        full = bool((count == longest).all())
        records = self._read(values[there], there * longest, len(rows) * longest, full)
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
        count = self._count[values]
        tokens = self._read(values, np.cumsum(count) - count, int(count.sum()), True).view(-1, self.width)
        lengths = torch.from_numpy(self.tokens[values])
        means: np.ndarray = torch.segment_reduce(tokens, "mean", lengths=lengths, axis=0).numpy()
        return means

    def _read(self, values: np.ndarray, place: np.ndarray, total: int, full: bool) -> Tensor:
        """The records of ``values`` ``(n,)`` in a float32 tensor ``(total, W)``, each value's from its ``place`` on.

        ``full``: they fill the tensor; otherwise the rest is zero.
        """
        block = self._block[values]
        if full and len(self.blocks) == 1:
            records = torch.from_numpy(runs(self._start[values], self._count[values]))
            return self.blocks[0].index_select(0, records).to(torch.float32)
        order = np.argsort(block, kind="stable")
        values, block, place = values[order], block[order], place[order]
        count = self._count[values]
        source, target = (torch.from_numpy(runs(first, count)) for first in (self._start[values], place))
        ends = np.cumsum(count)
        out = (torch.empty if full else torch.zeros)(total, self.per_record * self.width)
        for begin, end in pairwise(np.flatnonzero(np.diff(block, prepend=-1, append=-1))):
            a, b = int(ends[begin] - count[begin]), int(ends[end - 1])
            part = self.blocks[block[begin]].index_select(0, source[a:b])
            out.index_copy_(0, target[a:b], part.to(torch.float32))
        return out


def runs(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``first[i], first[i] + 1, ...``, ``count[i]`` numbers for every ``i``, one after the other."""
    if (count == 1).all():
        return first
    ends = np.cumsum(count)
    return np.repeat(first - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)
