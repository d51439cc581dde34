"""Values of one modality through its encoder: batches of like length, every result checked, every failure named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress, TaskID

from weft.data.failure import Failure
from weft.encoders import BadValue, Encoder
from weft.encoders.base import shown
from weft.errors import UserError, some
from weft.store.unique import Unique


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
        for begin in range(0, len(order), self.batch_size):
            batch = order[begin : begin + self.batch_size].tolist()
            for at, array in self._batch(batch, places):
                out[at] = self.check(array, places[at], dtype)
            bar.advance(task, len(batch))
        return out

    def _batch(self, batch: list[int], places: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """Results of the values that can be encoded, each with its position."""
        while batch:
            try:
                arrays = self.encoder.encode([self.unique.values[places[at]] for at in batch])
                return list(zip(batch, arrays, strict=True))
            except BadValue as error:
                self._refuse(places[batch[error.index]], error)
                batch = [at for number, at in enumerate(batch) if number != error.index]
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
        most = float(np.abs(array).max())
        if dtype == "fp16" and most > float(np.finfo(np.float16).max):
            raise UserError(
                f"features of {self.name!r} do not fit dtype 'fp16'",
                f"{most:.4g} in {self.rows_of(place)}; the largest fp16 is 65504",
                "encode with dtype='bf16' or 'fp32'",
            )
        return np.asarray(array, dtype=np.float32)

    def rows_of(self, place: int) -> str:
        """The ids of the rows that hold a value, for messages."""
        return f"row {some([self.ids[row] for row in np.flatnonzero(self.unique.pointer == place)])}"
