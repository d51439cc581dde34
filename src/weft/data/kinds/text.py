"""Text: a non-empty str."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.data.kinds.base import Kind, Place, kinds, refuse, share

LONG = 3
"""A text has more words than this."""


@kinds.register("text")
class Text(Kind):
    """Words of a person; an empty cell is an absent text."""

    encoder = "tfidf"
    better = (
        "hf:sentence-transformers/all-MiniLM-L6-v2",
        "hf:BAAI/bge-small-en-v1.5",
        "hf:answerdotai/ModernBERT-base",
    )
    transformers = "hf-text"

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Cells as they are written."""
        return [None if cell is None or not str(cell).strip() else str(cell) for cell in columns[0]]

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Sure where most cells have several words; else what is left when no other kind is surer."""
        several = share(cells, lambda cell: isinstance(cell, str) and len(cell.split()) > LONG)
        return 0.95 if several > 0.5 else max(0.1, 0.5 * several)

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """A non-empty str."""
        wrong = [row for row, v in zip(ids, values, strict=True) if not isinstance(v, str) or not v.strip()]
        refuse(wrong, f"modality {name!r}: a text is a non-empty str", "use None where the text is absent")

    def pack(self, value: Any) -> Any:
        """The text; halves of surrogate pairs, which UTF-8 does not know, are replaced."""
        return str(value).encode("utf-8", "replace").decode()
