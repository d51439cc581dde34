"""Columns of a table side by side: numbers, categories, dates, times of day, by the types training rows taught."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time
from pathlib import Path
from typing import Any

from weft.data.cells import SAID, has_thousands, learn_type, read_cell, said_of_unread
from weft.data.kinds.base import Kind, Place, kinds, refuse
from weft.data.odd_cells import refuse_odd
from weft.errors import count, some

FEW, EACH, SHARE = 20, 10, 0.02
"""Words of at most so many kinds, or of this part of the rows, are categories; however long, at so many rows each."""


@kinds.register("tabular")
class Tabular(Kind):
    """A tuple of cells: float (a number), str (a category), ``datetime`` (a date), ``time`` (of day), or None."""

    encoder = "columns"
    several = True
    typed = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Cells by their column's type. What cannot be read so is missing, and noted; absent where all are."""
        read = [self._read(cells, column, place) for cells, column in zip(columns, place.columns, strict=True)]
        return [None if all(cell is None for cell in row) else row for row in zip(*read, strict=True)]

    def _read(self, cells: Sequence[Any], column: str, place: Place) -> list[Any]:
        refuse_odd(f"modality {place.modality!r}, column {column!r}", place.ids, cells)
        values, type_ = [], place.types[column]
        wrong: list[tuple[str, Any]] = []
        for row, cell in zip(place.ids, cells, strict=True):
            try:
                values.append(read_cell(cell, type_))
            except ValueError:
                values.append(None)
                wrong.append((row, cell))
        if wrong:
            place.notes.append(said_of_unread(column, type_, wrong, remedy=place.teaches))
        if type_.startswith("number") and not type_.endswith("thousands") and not place.teaches:
            unlike = zip(place.ids, cells, values, strict=True)
            doubtful = [(row, c, v) for row, c, v in unlike if v is not None and has_thousands(c, type_)]
            if doubtful:
                read = some([f"{row}: {cell} as {value:g}" for row, cell, value in doubtful], SAID)
                place.notes.append(
                    f"column {column!r} ({type_}): {count(len(doubtful), 'cell')} read with a separator of thousands, "
                    f"which no training row had: {read}: if it is the decimal sign, write numbers as training did"
                )
        return values

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Numbers and times, or words that come again."""
        if not learn_type(cells).startswith(("date", "category")):
            return 0.97
        if any(isinstance(cell, list | dict) for cell in cells):
            return 0.0
        distinct = len({str(cell).strip() for cell in cells})
        if distinct <= max(FEW, SHARE * len(cells)) and distinct * EACH <= len(cells):
            return 0.96
        if max(len(str(cell)) for cell in cells) > 100:
            return 0.0
        return 0.6 if distinct < len(cells) and (distinct <= FEW or distinct <= len(cells) / 3) else 0.0

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """One cell for each field."""
        wrong = [row for row, v in zip(ids, values, strict=True) if len(v) != len(fields)]
        rule = (
            f"modality {name!r}: a {kinds.name_of(type(self))} value has one cell for each of the {len(fields)} fields"
        )
        refuse(wrong, rule, "use None for an empty cell")

    def pack(self, value: Any) -> Any:
        """Cells; a date is ``["date", ISO 8601]``, a time of day ``["time", ISO 8601]``."""
        return [_plain(cell) for cell in value]

    def unpack(self, packed: Any) -> Any:
        """The tuple of cells."""
        read = {"date": datetime.fromisoformat, "time": time.fromisoformat}
        return tuple(read[cell[0]](cell[1]) if isinstance(cell, list) else cell for cell in packed)


def _plain(cell: Any) -> Any:
    if isinstance(cell, datetime | time):
        return ["date" if isinstance(cell, datetime) else "time", cell.isoformat()]
    if cell is None or isinstance(cell, str | bool | int):
        return cell
    value = float(cell)
    return None if value != value else value
