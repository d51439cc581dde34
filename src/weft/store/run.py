"""Values of one modality through its encoder: batches of like length, every result checked, every failure named."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from rich.progress import Progress, TaskID

from weft.data.failure import Failure
from weft.data.remote import AT_ONCE, Remote
from weft.encoders import BadValue, Encoder
from weft.encoders.base import read_one, shown
from weft.errors import UserError, some
from weft.store.unique import Unique

MOST_READERS = 8
"""Threads that decode ahead, at most."""


@dataclass(frozen=True)
class Run:
    """The encoding of one modality.

    Attributes:
        name: of the modality.
        encoder: fitted.
        unique: its values.
        ids: of the rows, for messages.
        batch_size: values per call of the encoder.
        failures: values that cannot be encoded are put here, once for every row that holds them; None: the first is an
            error.
        way_out: what its remedy says besides.
    """

    name: str
    encoder: Encoder
    unique: Unique
    ids: Sequence[str]
    batch_size: int
    failures: list[Failure] | None = None
    way_out: str = ""

    def fit(self, rows: np.ndarray) -> None:
        """Fit the encoder on the values of ``rows``; of those it cannot read it learns nothing."""
        found = self.unique.pointer[np.asarray(rows, dtype=np.int64)]
        places = found[found >= 0].tolist()
        while True:
            try:
                self.encoder.fit([self.unique.values[place] for place in places])
                return
            except BadValue as error:
                if self.failures is None:
                    self._refuse(places[error.index], error)
                places = [place for place in places if place != places[error.index]]

    def encode(self, places: Sequence[int], dtype: str, bar: Progress, task: TaskID) -> list[np.ndarray | None]:
        """The values at ``places`` as ``(T, D)`` arrays, encoded in batches of like length; None for a failure.

        Raises:
            UserError: a value cannot be encoded (its rows are named), or the result is what :meth:`check` refuses.
        """
        order = np.argsort(-self.encoder.lengths([self.unique.values[place] for place in places]), kind="stable")
        out: list[np.ndarray | None] = [None] * len(places)
        sizes = [min(self.batch_size, len(order) - begin) for begin in range(0, len(order), self.batch_size)]
        with closing(self._ready([places[at] for at in order])) as ready:
            for number, size in enumerate(sizes):
                begin = number * self.batch_size
                batch = list(zip(order[begin : begin + size].tolist(), islice(ready, size), strict=True))
                for at, array in self._batch([pair for pair in batch if pair[1] is not None], places):
                    out[at] = self.check(array, places[at], dtype)
                bar.advance(task, size)
        return out

    def one(self, dtype: str) -> np.ndarray | None:
        """The only value, as :meth:`encode` gives it, without its threads."""
        try:
            (array,) = self.encoder.encode([read_one(0, self.unique.values[0], self.encoder.prepare)])
        except BadValue as error:
            self._refuse(0, error)
            return None
        return self.check(array, 0, dtype)

    def _ready(self, places: Sequence[int]) -> Generator[Any]:
        """The values, read and decoded in threads a batch ahead of the encoder; None for a failure."""
        values = [self.unique.values[place] for place in places]
        remote = any(isinstance(value, Remote) for value in values)
        if not remote and type(self.encoder).prepare is Encoder.prepare:
            yield from values
            return
        threads = AT_ONCE if remote else min(MOST_READERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="weft-read") as pool:
            waiting: deque[tuple[int, Future[Any]]] = deque()
            ahead = zip(places, values, strict=True)
            try:
                while True:
                    for place, value in islice(ahead, max(self.batch_size, threads) - len(waiting)):
                        waiting.append((place, pool.submit(read_one, 0, value, self.encoder.prepare)))
                    if not waiting:
                        return
                    place, future = waiting.popleft()
                    try:
                        yield future.result()
                    except BadValue as error:
                        self._refuse(place, error)
                        yield None
            finally:
                pool.shutdown(cancel_futures=True)

    def _batch(self, batch: list[tuple[int, Any]], places: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """Results of the values that can be encoded, each with its position."""
        while batch:
            try:
                arrays = self.encoder.encode([value for _, value in batch])
                return [(at, array) for (at, _), array in zip(batch, arrays, strict=True)]
            except BadValue as error:
                self._refuse(places[batch[error.index][0]], error)
                del batch[error.index]
        return []

    def _refuse(self, place: int, error: UserError) -> None:
        """Record a value that cannot be encoded; where nothing is skipped, that is the end."""
        if self.failures is None:
            what = f"modality {self.name!r}, {self.rows_of(place)}: {error.what}"
            raise UserError(what, error.found, error.remedy + self.way_out) from error
        why = f"{error.what}: {error.found}"
        value = shown(self.unique.values[place])
        rows = np.flatnonzero(self.unique.pointer == place)
        self.failures.extend(Failure(self.ids[row], self.name, value, why) for row in rows)

    def check(self, array: np.ndarray, place: int, dtype: str) -> np.ndarray | None:
        """Refuse what an encoder must not return: not ``(T, D)``, NaN or infinite, or beyond the range of the dtype."""
        if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != self.encoder.width:
            raise UserError(
                f"the encoder of {self.name!r} returns (T, {self.encoder.width}) arrays with T >= 1",
                f"shape {array.shape} for {self.rows_of(place)}",
                "correct the encoder",
            )
        if not np.isfinite(array).all():
            error = UserError(
                f"the encoder of {self.name!r} gave NaN or infinite features",
                f"{self.rows_of(place)}",
                "look at that value; with half-precision autocast, use precision='bf16' or 'fp32'",
            )
            if self.failures is None:
                raise error
            self._refuse(place, error)
            return None
        if dtype == "fp16" and (most := float(np.abs(array).max())) > float(np.finfo(np.float16).max):
            raise UserError(
                f"features of {self.name!r} do not fit dtype 'fp16'",
                f"{most:.4g} in {self.rows_of(place)}; the largest fp16 is 65504",
                "encode with dtype='bf16' or 'fp32'",
            )
        return np.asarray(array, dtype=np.float32)

    def rows_of(self, place: int) -> str:
        """The ids of the rows that hold a value, for messages."""
        return f"row {some([self.ids[row] for row in np.flatnonzero(self.unique.pointer == place)])}"
