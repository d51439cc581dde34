"""Columns of a table that no kind reads, in words: bytes, objects, files. Their repr or their name is never a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from enum import Enum
from itertools import islice
from numbers import Number
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import numpy as np

from weft.data.files import KNOWN_SUFFIXES, content_of, is_file, is_picture, is_sound, located
from weft.errors import UserError, short, some

LOOKED_AT, FILES = 1000, 20
"""Cells that are looked at, and those that are looked for as files."""
_PLAIN = (str, Number, np.generic, date, time, timedelta, UUID, Enum)


def refuse_odd(what: str, rows: Sequence[str], cells: Sequence[Any]) -> None:
    """Refuse cells whose ``str`` is not what they say, where words are wanted.

    Raises:
        UserError: naming the rows.
    """
    odd = [(row, cell) for row, cell in zip(rows, cells, strict=True) if not is_plain(cell)]
    if odd:
        found = some([f"{row}: {short(repr(cell))}" for row, cell in odd], 3)
        raise UserError(f"{what}: its cells are words, numbers, times or lists", found, "give words, or empty the cell")


def why_odd(cells: Sequence[Any]) -> str | None:
    """Why no kind reads the present cells of a column, and the way out; None where one may."""
    looked = list(islice(cells, LOOKED_AT))
    odd = Counter(what for cell in looked if (what := odd_cell(cell)) is not None)
    if 2 * sum(odd.values()) > len(looked):
        what = odd.most_common(1)[0][0]
        return f"{what}, which no kind reads: {_remedy(what)}"
    return None


def why_files(cells: Sequence[Any], folder: Path) -> str | None:
    """Why cells of words say nothing of a row: they name files that are there, of a sort that no kind reads."""
    names = [cell for cell in islice(cells, FILES) if isinstance(cell, str) and 0 < len(cell) < 1024]
    suffixes = {PurePath(name.strip()).suffix.lower() for name in names}
    if not names or "" in suffixes or suffixes & KNOWN_SUFFIXES:
        return None
    if 2 * sum(is_file(located(folder, name)) for name in names) <= len(names):
        return None
    return (
        f"its cells name files ({some(sorted(suffixes), 3)}), which no kind reads: bring what is in them into the "
        "table; numbers as .npy files (numpy.save), each a series (T, C) or a vector (D,), and name these"
    )


def is_plain(cell: Any) -> bool:
    """Whether a cell is empty, a word, a number, a time, or a list of these: whether its ``str`` says what it is."""
    if isinstance(cell, list):
        return not cell or is_plain(cell[0])
    return cell is None or isinstance(cell, _PLAIN) or type(cell).__module__.startswith("pandas")


def odd_cell(cell: Any) -> str | None:
    """What a cell holds that is neither plain nor a picture nor sound."""
    if is_plain(cell) or is_picture(cell):
        return None
    if isinstance(cell, list):
        return odd_cell(cell[0])
    content = content_of(cell)
    if content is not None:
        return None if is_sound(content) else BYTES
    if isinstance(cell, Mapping):
        return None if "bytes" in cell else STRUCTS
    return f"Python objects ({type(cell).__name__})"


BYTES, STRUCTS = "bytes of neither a picture nor a sound", "objects with fields of their own"


def _remedy(what: str) -> str:
    if what == BYTES:
        return "decode them to words or numbers, or put them into files and name these"
    if what == STRUCTS:
        return "make columns of their fields (polars: unnest; pandas: json_normalize)"
    return "make them numbers, words, lists of numbers, or pictures (PIL, or arrays (H, W, 3) of uint8)"
