"""A table file as columns of plain Python cells, and cells as the values of a modality.

CSV has only strings; Parquet and JSONL have types. A column is brought to the same values from all three: an empty or
blank cell and null are None, ``[1, 2]`` in a CSV cell is a list, and a column whose cells are all numbers is numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from weft.data.files import read_array
from weft.errors import UserError, did_you_mean, some

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")
BLANK_NUMBERS = frozenset({"na", "n/a", "nan", "null", "none"})
"""Words that stand for an empty cell in a column of numbers."""


class Columns:
    """The columns of one table file.

    Args:
        path: a ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl`` file, UTF-8, with column names.

    Raises:
        UserError: missing file, another format, a damaged file, no rows, or a column name that comes twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names, self.rows, self._column = _read(path)
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise UserError(f"{path}: column names are unique", f"more than once: {some(twice)}", "rename the columns")
        if self.rows == 0:
            raise UserError(f"{path}: the table has no rows", f"columns {some(self.names)}", "check the file")
        self._cells: dict[str, list[Any]] = {}

    def cells(self, column: str, use: str) -> list[Any]:
        """The cells of a column, None where empty; ``use`` says in messages what the column was wanted for.

        Raises:
            UserError: no such column.
        """
        if column not in self.names:
            raise UserError(
                f"{self.path}: no column {column!r} ({use})",
                f"columns {some(self.names, 20)}",
                did_you_mean(column, self.names, "columns"),
            )
        if column not in self._cells:
            self._cells[column] = [_blank_to_none(cell) for cell in self._column(column)]
        return self._cells[column]


Source = tuple[list[str], int, Callable[[str], list[Any]]]
"""Column names, number of rows, and the cells of a column."""


def _read(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError("a table is CSV, Parquet or JSONL", str(path), f"name the file {' or '.join(FORMATS)}")
    if not path.is_file():
        raise UserError("the table does not exist", str(path), "check the path; in a YAML it is relative to the YAML")
    try:
        if suffix == ".jsonl":
            return _read_jsonl(path)
        table = pa.parquet.read_table(path) if suffix == ".parquet" else _read_csv(path)
    except (pa.ArrowException, csv.Error, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read", str(error), "check that the file is whole and UTF-8") from error
    return table.column_names, table.num_rows, lambda name: table.column(name).to_pylist()


def _read_csv(path: Path) -> pa.Table:
    """Every column as strings: types are decided by what a column is used for."""
    read = pa.csv.ReadOptions(block_size=min(max(path.stat().st_size + 1, 1 << 20), 1 << 30))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
    return pa.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _read_jsonl(path: Path) -> Source:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    if not all(isinstance(record, dict) for record in records):
        found = "a line holds another value"
        raise UserError(f"{path}: every line is one JSON object", found, 'for example {"id": "a", "text": "..."}')
    names = dict.fromkeys(name for record in records for name in record)
    return list(names), len(records), lambda name: [record.get(name) for record in records]


def _blank_to_none(cell: Any) -> Any:
    if isinstance(cell, str) and not cell.strip():
        return None
    return None if isinstance(cell, float) and np.isnan(cell) else cell


def as_number(cell: Any) -> float | None:
    """A cell as a finite or infinite float; None where it is empty or says so (``NA``, ``nan``).

    Raises:
        ValueError: it is no number.
    """
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in BLANK_NUMBERS):
        return None
    if isinstance(cell, list | dict | bool):
        raise ValueError(f"no number: {cell!r}")
    value = float(cell)
    return None if np.isnan(value) else value


def is_numeric(cells: Sequence[Any]) -> bool:
    """Whether some cells are numbers and all others are empty."""
    try:
        return any(as_number(cell) is not None for cell in cells)
    except (ValueError, TypeError):
        return False


def as_list(cell: Any) -> list[Any] | None:
    """A list cell, or a JSON list written in a string; None for anything else."""
    if isinstance(cell, list):
        return cell
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            value = json.loads(cell)
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, list) else None
    return None


def text_values(cells: Sequence[Any]) -> list[str | None]:
    """Cells as texts; an empty cell is an absent text."""
    return [None if cell is None else str(cell) for cell in cells]


def path_values(folder: Path) -> Callable[[Sequence[Any], str, Sequence[str]], list[Any]]:
    """Cells as paths relative to ``folder``; a struct with ``bytes``, as Hugging Face writes images, as that image."""

    def convert(cells: Sequence[Any], name: str, ids: Sequence[str]) -> list[Any]:
        values: list[Any] = []
        for row, cell in zip(ids, cells, strict=True):
            if isinstance(cell, dict) and cell.get("bytes") is not None:
                values.append(_embedded_image(cell["bytes"], f"modality {name!r}, row {row!r}"))
            elif isinstance(cell, dict):
                values.append(folder / cell["path"] if cell.get("path") else None)
            elif cell is None or isinstance(cell, str):
                values.append(None if cell is None else folder / cell)
            else:
                raise UserError(
                    f"modality {name!r}, row {row!r}: a file is named by its path", repr(cell), "give a path"
                )
        return values

    return convert


def _embedded_image(content: bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except OSError as error:
        raise UserError(f"{where}: the embedded image cannot be read", str(error), "write the image again") from error


def array_values(columns: Sequence[Sequence[Any]], kind: str, name: str, ids: Sequence[str], folder: Path) -> list[Any]:
    """Cells as float32 arrays of ``kind``: ``(D,)`` vector, ``(T, C)`` series, ``(T, D)`` tokens.

    One column holds lists (or JSON lists, or paths of ``.npy`` files). Several columns hold numbers, the entries of a
    vector or the time steps of a series with one channel; or lists, the channels of a series. A row is absent where all
    its cells are empty.

    Raises:
        UserError: ragged or non-numeric cells, NaN or infinite values, a missing file; the row is named.
    """
    values: list[Any] = []
    for row, *cells in zip(ids, *columns, strict=True):
        where = f"modality {name!r}, row {row!r}"
        if all(cell is None for cell in cells):
            values.append(None)
            continue
        parts = [_array(cell, kind, where, folder) for cell in cells]
        array = np.atleast_1d(parts[0]) if len(parts) == 1 else _join(parts, where)
        if not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))
            at = some((tuple(index) if len(index) > 1 else index[0] for index in bad.tolist()), 3)
            raise UserError(
                f"{where}: NaN, infinite or empty values in a {kind}",
                f"{len(bad)} of {array.size}, at {at}",
                "fill the gaps, drop the row, or empty the whole cell so that the modality is absent there",
            )
        values.append(array[:, None] if kind == "series" and array.ndim == 1 else array)
    return values


def _array(cell: Any, kind: str, where: str, folder: Path) -> np.ndarray:
    if isinstance(cell, str) and cell.lower().endswith(".npy"):
        array = read_array(folder / cell, where)
    else:
        content = as_list(cell)
        try:
            array = np.asarray(as_number(cell) if content is None else content, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{where}: a {kind} is a list of numbers, a JSON list, or the path of an .npy file",
                f"{str(cell)[:80]!r} ({error})",
                "lists inside one cell have equal lengths and hold numbers only",
            ) from error
    if array.dtype.kind not in "fiub" or array.ndim > 2 or (kind == "vector" and array.ndim > 1):
        raise UserError(
            f"{where}: a {kind} is numbers on {'one axis' if kind == 'vector' else 'one or two axes'}",
            f"shape {array.shape}, {array.dtype}",
            "reshape the array, or choose another kind",
        )
    return array.astype(np.float32)


def _join(parts: list[np.ndarray], where: str) -> np.ndarray:
    """Numbers to one ``(n,)`` array; lists of equal length to the channels of ``(T, C)``."""
    if len({part.shape for part in parts}) != 1 or parts[0].ndim > 1:
        raise UserError(
            f"{where}: columns of one modality hold one number each, or lists of one length",
            f"shapes {some(part.shape for part in parts)}",
            "make the columns equal, or make them modalities of their own",
        )
    return np.stack(parts, axis=-1)


def tabular_values(columns: Sequence[Sequence[Any]]) -> list[tuple[Any, ...] | None]:
    """Rows of cells: floats in columns of numbers, str in others, None where empty. Absent where all are empty."""
    converted = [
        [as_number(c) for c in cells] if is_numeric(cells) else [None if c is None else str(c) for c in cells]
        for cells in columns
    ]
    return [None if all(c is None for c in row) else row for row in zip(*converted, strict=True)]
