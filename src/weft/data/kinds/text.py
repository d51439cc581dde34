"""Text: a non-empty str; a column whose cells all name ``.txt`` or ``.md`` files is what these say.

A cell that lists words, ``["sea", "sky"]``, is these with commas.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from weft.data.columns import words_in
from weft.data.files import TEXT_SUFFIXES, located, read_text
from weft.data.kinds.base import Kind, Place, has_suffix, kinds, refuse, share
from weft.data.odd_cells import refuse_odd
from weft.data.remote import AT_ONCE, Remote, is_address

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
        """Cells as they are written; the files that all of them name, several at a time where they are elsewhere."""
        refuse_odd(f"modality {place.modality!r}", place.ids, columns[0])
        there = [(row, cell) for row, cell in zip(place.ids, columns[0], strict=True) if not says_nothing(cell)]
        if there and all(names_file(cell) for _, cell in there):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                found = dict(pool.map(lambda pair: (pair[0], _content(pair[0], pair[1], place)), there))
            return [found.get(row) for row in place.ids]
        return [as_text(cell) for cell in columns[0]]

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """Sure where most cells have several words; else what is left when no other kind is surer."""
        if len(cells) and all(map(names_file, cells)):
            return 1.0
        if share(cells, lambda cell: words_in(cell) is not None) > 0.5 and any(map(words_in, cells)):
            return 0.96
        several = share(cells, lambda cell: isinstance(cell, str) and len(cell.split()) > LONG)
        return 0.95 if several > 0.5 else max(0.1, 0.5 * several)

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """A non-empty str."""
        wrong = [row for row, v in zip(ids, values, strict=True) if not isinstance(v, str) or not v.strip()]
        refuse(wrong, f"modality {name!r}: a text is a non-empty str", "use None where the text is absent")

    def pack(self, value: Any) -> Any:
        """The text; halves of surrogate pairs, which UTF-8 does not know, are replaced."""
        return str(value).encode("utf-8", "replace").decode()


def as_text(cell: Any) -> str | None:
    """A cell as it is written, a list of words as these; None where it is empty."""
    words = words_in(cell)
    if words is not None:
        return ", ".join(words) or None
    return None if says_nothing(cell) else str(cell)


def says_nothing(cell: Any) -> bool:
    """Whether a cell is empty."""
    return cell is None or not str(cell).strip()


def names_file(cell: Any) -> bool:
    """Whether a cell is the path or address of a text file, in one word."""
    return has_suffix(cell, TEXT_SUFFIXES) and len(cell.split()) == 1


def _content(row: str, cell: str, place: Place) -> str | None:
    """What the file of a cell says; None where that is nothing."""
    name, where = cell.strip(), f"modality {place.modality!r}, row {row!r}"
    text = read_text(Remote(name) if is_address(name) else located(place.folder, name), where)
    return text if text.strip() else None
