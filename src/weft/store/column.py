r"""One modality of many rows as one ragged block, and batches out of it by one vectorised gather.

The values of a modality lie one after the other in a block ``(sum_i T_i, D)``, memory-mapped or in memory. Rows point
into the values, ``-1`` where the modality is absent, so a value that many rows share is kept once. A batch costs one
``index_select`` and one conversion to float32. Where all values have the same number of tokens, a record is a whole
value instead of a token.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from weft.tokens import Tokens, everywhere

POOL_BYTES = 1 << 26


class Column:
    """Ragged features of one modality.

    Args:
        block: ``(sum T, D)``.
        lengths: ``(n,)`` the number of tokens of each value, all at least 1.
        pointer: ``(N,)`` index of each row's value; ``-1`` where absent.
    """

    def __init__(self, block: Tensor, lengths: np.ndarray, pointer: np.ndarray) -> None:
        self.pointer, self.width = np.asarray(pointer, dtype=np.int64), block.shape[1]
        self.tokens = np.asarray(lengths, dtype=np.int64)
        self.uniform = len(self.tokens) > 0 and bool((self.tokens == self.tokens[0]).all())
        self.per_record = int(self.tokens[0]) if self.uniform else 1
        self.block = block.view(-1, self.per_record * self.width)
        self._count = np.append(np.ones_like(self.tokens) if self.uniform else self.tokens, 0)
        self._start = np.cumsum(self._count) - self._count

    @property
    def presence(self) -> np.ndarray:
        """``(N,)`` bool."""
        return self.pointer >= 0

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` number of tokens of each row, 0 where absent."""
        return np.append(self.tokens, 0)[self.pointer]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every row's values; which of them share one value does not matter."""
        digest = hashlib.sha256(f"{self.block.dtype}{self.width}".encode())
        digest.update(self.lengths.tobytes())
        for part in self._parts(self.pointer[self.presence]):
            digest.update(self._read(part).numpy().data)
        return digest.hexdigest()

    def gather(self, rows: np.ndarray) -> Tokens:
        """Rows ``(n,)`` as float32 Tokens, padded with zeros to the longest of the batch; at least one token wide."""
        values = self.pointer[rows]
        if self.uniform and bool((values >= 0).all()):
            records = self.block.index_select(0, torch.from_numpy(values)).to(torch.float32)
            shape = (len(rows), self.per_record)
            return Tokens(records.view(*shape, self.width), everywhere(*shape, device=records.device))
        count = self._count[values]
        longest = max(int(count.max(initial=0)), 1)
        mask = torch.from_numpy(np.arange(longest) < count[:, None])
        there = np.flatnonzero(count)
        records = self._read(values[there])
        if len(records) < len(rows) * longest:
            places = torch.from_numpy(runs(there * longest, count[there]))
            records = records.new_zeros(len(rows) * longest, records.shape[1]).index_copy_(0, places, records)
        if self.per_record > 1:
            mask = mask.expand(-1, self.per_record).contiguous()
        return Tokens(records.view(len(rows), mask.shape[1], self.width), mask)

    def pooled(self, rows: np.ndarray) -> np.ndarray:
        """``(n, D)`` float32 means over the tokens; NaN where absent."""
        values = self.pointer[rows]
        if self.uniform and self.per_record == 1 and bool((values >= 0).all()):
            found: np.ndarray = self._read(values).numpy()  # the mean of one token is the token
            return found
        out = np.full((len(rows), self.width), np.nan, dtype=np.float32)
        values, inverse = np.unique(values, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        done = int((values < 0).sum())
        for part in self._parts(values[done:]):
            first, last = np.searchsorted(inverse, (done, done + len(part)), sorter=order)
            places = order[first:last]
            out[places] = self._means(part)[inverse[places] - done]
            done += len(part)
        return out

    def _parts(self, values: np.ndarray) -> list[np.ndarray]:
        """``values`` cut where their float32 copies reach ``POOL_BYTES``."""
        chunk = np.cumsum(self.tokens[values]) * self.width * 4 // POOL_BYTES
        return [part for part in np.split(values, np.flatnonzero(np.diff(chunk)) + 1) if len(part)]

    def _means(self, values: np.ndarray) -> np.ndarray:
        """``(n, D)`` means of values in increasing order."""
        tokens = self._read(values).view(-1, self.width)
        lengths = torch.from_numpy(self.tokens[values])
        means: np.ndarray = torch.segment_reduce(tokens, "mean", lengths=lengths, axis=0).numpy()
        return means

    def _read(self, values: np.ndarray) -> Tensor:
        """The records of ``values`` ``(n,)``, one value's after the other's, in float32."""
        records = torch.from_numpy(runs(self._start[values], self._count[values]))
        return self.block.index_select(0, records).to(torch.float32)


def runs(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``first[i], first[i] + 1, ...``, ``count[i]`` numbers for every ``i``, one after the other."""
    if (count == 1).all():
        return first
    ends = np.cumsum(count)
    return np.repeat(first - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)
