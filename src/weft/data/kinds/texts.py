"""Several texts of a row side by side: how alike they are is what counts (question and answer, title and summary)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.data.kinds.base import Kind, Place, kinds, refuse
from weft.data.kinds.text import as_text
from weft.data.odd_cells import refuse_odd


@kinds.register("texts")
class Texts(Kind):
    """A tuple with a str or None of each column, two of them texts or more."""

    encoder = "likeness"
    several = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Cells as they are written; absent where fewer than two columns have a text."""
        for cells in columns:
            refuse_odd(f"modality {place.modality!r}", place.ids, cells)
        rows = [tuple(map(as_text, row)) for row in zip(*columns, strict=True)]
        return [row if sum(text is not None for text in row) > 1 else None for row in rows]

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """Equally many cells in every row, two of them texts."""
        sizes = {len(v) if isinstance(v, tuple) else 0 for v in values}
        wrong = [row for row, v in zip(ids, values, strict=True) if not _is_row(v) or len(v) != max(sizes)]
        remedy = "give equally long tuples of str or None; None where fewer than two texts are there"
        refuse(wrong, f"modality {name!r}: a row of texts has two texts or more", remedy)

    def pack(self, value: Any) -> Any:
        """The texts; halves of surrogate pairs, which UTF-8 does not know, are replaced."""
        return [None if text is None else text.encode("utf-8", "replace").decode() for text in value]

    def unpack(self, packed: Any) -> Any:
        """The tuple of texts."""
        return tuple(packed)


def _is_row(value: Any) -> bool:
    if not isinstance(value, tuple) or not all(text is None or isinstance(text, str) for text in value):
        return False
    return sum(text is not None and bool(text.strip()) for text in value) > 1
