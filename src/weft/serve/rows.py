"""Rows of a request: JSON to the values of modalities. Nothing in a request is ever read as a path of the server."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from weft.data import Dataset, Modality, TableConfig
from weft.data.columns import words_in
from weft.data.files import read_image
from weft.data.kinds import kind_named
from weft.data.kinds.base import Place
from weft.data.kinds.text import as_text
from weft.data.structs import fields_of
from weft.errors import UserError, did_you_mean, short, some

MOST_OTHERS = 100
"""Names in a request that the model does not know: columns that training left out, such as ids."""
PIXELS = 40_000_000
"""Of an image at most: what it unpacks to, not what is sent."""
ARRAYS = {"series": 2, "tokens": 2, "vector": 1}
"""Kinds that are nested lists of numbers, and how deep."""
WAY_OUT = {
    "image": 'upload it, or give {"base64": "..."}; a path is never read',
    "text": "give a text",
    "tabular": "give {column: cell}",
    "date": "give {column: date}",
    "texts": "give {column: text}",
}


class Reader:
    """Reads the rows that a model takes.

    Args:
        model: with its encoders; their kinds, and the table it was trained on, say what a value is.

    Raises:
        UserError: the model does not know its encoders, or one reads a kind that no request can hold.
    """

    def __init__(self, model: Any) -> None:
        if getattr(model, "encoders", None) is None:
            found = f"a {type(model).__name__} without encoders"
            raise UserError("a server reads raw rows", found, "train the model on a store (weft encode) or a table")
        self.kinds: dict[str, str] = {name: model.encoders[name]["kind"] for name in model.names}
        table = (model.table or {}).get("modalities", {})
        of_columns = [n for n, kind in self.kinds.items() if kind in WAY_OUT and kind_named(kind).several]
        self.columns = {name: self._columns(table.get(name)) for name in of_columns}
        self.unused = _names(model.table or {})
        self.types = {name: (table.get(name) or {}).get("types", {}) for name in self.columns}
        odd = [k for k in self.kinds.values() if k not in ARRAYS and k not in WAY_OUT and not _one_cell(k)]
        if odd or any(columns is None for columns in self.columns.values()):
            found = some(odd) if odd else "a table whose columns the model does not know"
            raise UserError("no request can hold such a value", found, f"served: {some([*ARRAYS, *WAY_OUT], 9)}")

    @staticmethod
    def _columns(entry: Mapping[str, Any] | None) -> Any:
        return None if entry is None else [entry["column"]] if entry.get("column") else entry["columns"]

    def described(self) -> str:
        """What a row may hold, in words: modalities, and their columns, which may also stand in the row itself."""
        each = [
            f"{name} ({k}{''.join(f', {c}' for c in self.columns.get(name, ()))})" for name, k in self.kinds.items()
        ]
        flat = "; columns may stand in the row itself, as in the table" if self.columns else ""
        return f"any of {'; '.join(each)}{flat}"

    def rows(self, rows: Sequence[Mapping[str, Any]], notes: list[str] | None = None) -> list[dict[str, Any]]:
        """Values of each row, modalities that are absent left out.

        Args:
            rows: values by modality; cells of columns side by side in a mapping of their own, or flat as in a table.
            notes: takes what is to be said of cells that cannot be read.

        Raises:
            UserError: an unknown modality, or a value that is not of its kind.
        """
        said: list[str] = [] if notes is None else notes
        without: dict[str, None] = {}
        found = [self._row(number, row, without, said) for number, row in enumerate(rows)]
        if without:
            said.append(f"this model does without {some([short(name) for name in without])}")
        return found

    def _row(self, number: int, row: Mapping[str, Any], without: dict[str, None], notes: list[str]) -> dict[str, Any]:
        known = {*self.kinds, *chain.from_iterable(self.columns.values())}
        row = _unpacked(row, known)
        absent = known.difference(row)
        for name in row:
            if name in known or name in without:
                continue
            misspelt = absent == known or get_close_matches(name, absent, 1) or len(without) == MOST_OTHERS
            if name not in self.unused and misspelt:
                remedy = did_you_mean(str(name), known, "modalities and columns")
                raise UserError(f"row {number}: no modality or column {name!r}"[:200], "an unknown name", remedy)
            without[name] = None
        given = {name: row[name] for name in row if name in self.kinds}
        for name, columns in self.columns.items():
            flat = name not in row or (name in columns and not isinstance(row[name], Mapping))
            if flat and (cells := {column: row[column] for column in columns if column in row}):
                given[name] = cells
        found = {n: self.value(n, cell, f"row {number}", notes) for n, cell in given.items() if cell is not None}
        return {name: value for name, value in found.items() if value is not None}

    def value(self, name: str, cell: Any, where: str, notes: list[str]) -> Any:
        """One value; None where it is empty. What cannot be read is missing, and noted."""
        kind, what = self.kinds[name], f"{where}, {name!r} ({self.kinds[name]})"
        if kind == "image":
            return cell if isinstance(cell, np.ndarray) else self._image(cell, what)
        if kind in ARRAYS:
            return _numbers(cell, ARRAYS[kind], what)
        if kind == "text":
            cell = as_text(cell) if isinstance(cell, list) and words_in(cell) is not None else cell
            if cell is None:
                return None
            if not isinstance(cell, str):
                raise _refused(what, cell, kind)
            return cell.encode("utf-8", "replace").decode() if cell.strip() else None
        if kind not in WAY_OUT:
            return _cell(kind, name, cell, what)
        columns = self.columns[name]
        if not isinstance(cell, Mapping):
            raise _refused(what, cell, kind)
        for column, part in cell.items():
            if column not in columns or not (part is None or isinstance(part, str | int | float)):
                raise UserError(
                    f"{what}: no such cell", repr(column)[:100], did_you_mean(str(column), columns, "columns")
                )
        place = Place(name, columns, [where], Path(), dict(self.types[name]), notes)
        try:
            return kind_named(kind).convert([[cell.get(column)] for column in columns], place)[0]
        except (ValueError, OverflowError) as error:
            raise UserError(f"{what}: a cell cannot be read", str(error)[:200], WAY_OUT[kind]) from None

    def _image(self, cell: Any, what: str) -> np.ndarray:
        if not (isinstance(cell, Mapping) and isinstance(cell.get("base64"), str) and len(cell) == 1):
            raise _refused(what, cell, "image")
        try:
            content = base64.b64decode(cell["base64"].rpartition("base64,")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{what}: this is no base64", str(error), WAY_OUT["image"]) from None
        return image(content, what)

    def dataset(self, rows: Sequence[Mapping[str, Any]]) -> Dataset:
        """Rows that :meth:`rows` read, as a data set."""
        modalities = {
            name: Modality(kind, [row.get(name) for row in rows], tuple(self.columns.get(name, ())))
            for name, kind in self.kinds.items()
        }
        ids = [str(i) for i in range(len(rows))]
        return Dataset("request", ids, modalities, {}, None, None, "retrieval", blank=True)


def _names(table: Mapping[str, Any]) -> set[str]:
    """Of all modalities and columns of a table, whether a model sees them or not."""
    if not table:
        return set()
    config = TableConfig(**table)
    columns = [column for modality in config.modalities.values() for column in modality.names]
    roles = (config.id, config.group, config.split, config.time)
    return {*config.modalities, *columns, *config.target_names, *(name for name in roles if name is not None)}


def image(content: bytes, what: str) -> np.ndarray:
    """``(H, W, 3)`` uint8 of the bytes of a file.

    Raises:
        UserError: no image, or too large a one.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > PIXELS:
                found = f"{opened.width} x {opened.height}"
                raise UserError(f"{what}: at most {PIXELS:,} pixels", found, "send a smaller one")
            return np.asarray(read_image(opened, what))
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise whatever they like at damaged files
        raise UserError(f"{what}: this is no image", type(error).__name__, "send a whole PNG or JPEG") from None


def _unpacked(row: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """A row with the fields of a struct, as training's table had it, as the columns that the model knows."""
    flat: dict[str, Any] = {}
    for name, cell in row.items():
        fields = {} if name in known else {f"{name}.{field}": cells[0] for field, cells in fields_of([cell]).items()}
        flat |= fields if fields.keys() & known else {name: cell}
    return flat


def _one_cell(kind: str) -> bool:
    """Whether a value of the kind is written in one cell of a table, and is no file: so are kinds from outside."""
    return not (kind_named(kind).files or kind_named(kind).several)


def _cell(kind: str, name: str, cell: Any, what: str) -> Any:
    """The value of such a cell, as the kind reads it in a table."""
    if not isinstance(cell, str | int | float):
        raise UserError(f"{what}: not a value", type(cell).__name__, "give what stands in a cell of the table")
    try:
        return kind_named(kind).convert([[cell]], Place(name, [name], ["row"], Path()))[0]
    except Exception as error:  # whoever wrote the kind
        raise UserError(f"{what}: the cell cannot be read", str(error)[:200], "give what stands in the table") from None


def _numbers(cell: Any, depth: int, what: str) -> np.ndarray:
    try:
        found = np.asarray(cell, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        found = np.zeros(0, np.float32)
    if not isinstance(cell, list) or found.ndim != depth or not found.size or not np.isfinite(found).all():
        raise UserError(f"{what}: lists of finite numbers, {depth} deep", str(type(cell).__name__), "give a whole one")
    return found


def _refused(what: str, cell: Any, kind: str) -> UserError:
    return UserError(f"{what}: not a value", type(cell).__name__, WAY_OUT[kind])
