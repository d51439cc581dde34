"""Cells that hold several named values, ``{"lat": 52.1, "lon": 4.3}``: each is a column of its own, ``loc.lat``.

So polars and Parquet keep structs, JSONL objects and Python dictionaries. A struct with ``bytes``, as Hugging Face
writes images and sound, is one value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from weft.data.cells import is_blank

LOOKED_AT = 1000
"""Cells that are looked at for one that has fields."""
MOST = 100
"""More fields than these are no columns: words that are counted, ids."""


def has_fields(cells: Iterable[Any]) -> bool:
    """Whether one of the first cells has named values."""
    return any(isinstance(cell, Mapping) for cell in islice(cells, LOOKED_AT))


def fields_of(cells: Sequence[Any]) -> dict[str, list[Any]]:
    """``{field: cells}``, nested ones as ``a.b``; none where some cell is no struct, or there are too many fields."""
    if not all(is_blank(cell) or _is_struct(cell) for cell in cells):
        return {}
    rows = [dict(_leaves(cell)) if isinstance(cell, Mapping) else {} for cell in cells]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names} if len(names) <= MOST else {}


def _is_struct(cell: Any) -> bool:
    return isinstance(cell, Mapping) and "bytes" not in cell


def _leaves(cell: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cell.items():
        if _is_struct(value):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
