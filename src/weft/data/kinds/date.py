"""Dates and times: year, month, weekday, hour and days since, see the encoder ``columns``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from weft.data.cells import learn_type
from weft.data.kinds.base import Place, kinds
from weft.data.kinds.tabular import Tabular


@kinds.register("date")
class Date(Tabular):
    """One or several columns of dates; a tuple of ``datetime`` or None.

    Whether ``1/2/2024`` is in January or February is learned from the training rows; where they leave it open, the
    month is read first.
    """

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Cells as dates; what is none is missing, and noted."""
        types = {name: type_ if type_.startswith("date") else "date" for name, type_ in place.types.items()}
        return super().convert(columns, replace(place, types=types))

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """(Nearly) every cell reads as a date."""
        return 0.98 if learn_type(cells).startswith("date") else 0.0

    def unpack(self, packed: Any) -> Any:
        """The tuple of dates."""
        found: tuple[datetime | None, ...] = super().unpack(packed)
        return found
