"""A table file as columns of plain Python cells, and cells as arrays.

CSV has only strings; Parquet and JSONL have types. A column is brought to the same values from all three: an empty or
blank cell and null are None, and ``[1, 2]`` in a CSV cell is a list (:mod:`weft.data.written`). What else a cell is,
its column's type says, see :mod:`weft.data.cells`. The delimiter of a CSV is the one of ``, ; tab |`` that cuts its
first lines into equal rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from weft.data.cells import NEARLY, as_number, is_blank, is_numeric
from weft.data.files import is_file, located, read_array
from weft.data.frame import frame_columns
from weft.data.structs import fields_of, has_fields
from weft.data.totals import label, totals, within
from weft.data.written import as_list, refuse_cut
from weft.errors import UserError, count, did_you_mean, some

FORMATS = (".csv", ".tsv", ".txt", ".parquet", ".jsonl")
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
DELIMITERS = (",", "\t", ";", "|")
ARRAYS = {
    ".npy": "an array of NumPy",
    ".npz": "arrays of NumPy",
    ".pt": "tensors of PyTorch",
    ".pth": "tensors of PyTorch",
    ".safetensors": "tensors",
    ".h5": "arrays of HDF5",
    ".pkl": "pickled objects",
    ".pickle": "pickled objects",
}
"""Files that are taken for tables, and what they hold."""
BINARY = {
    b"\x93NUMPY": "an array of NumPy (.npy)",
    b"PK\x03\x04": "a zip archive (.npz, .pt, .xlsx)",
    b"\x89HDF": "a file of HDF5",
    b"PAR1": "a Parquet file (.parquet)",
    b"\x80\x04\x95": "a pickle (.pkl)",
    b"\x80\x02": "a pickle (.pkl)",
}
"""How files begin that are no text, whatever their name."""
SAMPLE = 1 << 16
"""Characters of a CSV that its delimiter is found in."""


class Columns:
    """The columns of one table.

    Args:
        source: a ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl`` file, UTF-8, with column names; text also as ``.gz``.
            Or a table in memory, see :mod:`weft.data.frame`; files its cells name are relative to the working folder.

    Raises:
        UserError: missing file, another format, a damaged file, no rows, or a column name that comes twice in memory.

    Attributes:
        renamed: ``{name: what the file calls it}`` of columns whose name comes again in a file.
        unpacked: ``{column: the columns that its fields became}``, see :mod:`weft.data.structs`.
    """

    def __init__(self, source: Any) -> None:
        file = isinstance(source, str | Path)
        self.path = path = Path(source) if file else Path(type(source).__name__)
        own, self.rows, self._column, structs = _read(path) if file else frame_columns(source)
        self.names = _apart(own) if file else own
        self.renamed = {name: before for name, before in zip(self.names, own, strict=True) if name != before}
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise UserError(f"{path}: column names are unique", f"more than once: {some(twice)}", "rename the columns")
        unnamed = [name for name, before in zip(self.names, own, strict=True) if not before]
        if self.rows and len([name for name in unnamed if not all(map(is_blank, self._column(name)))]) > 1:
            found, remedy = f"the first line: {some(own)}", "remove a title above the column names, or name the columns"
            raise UserError(f"{path}: there are columns without a name", found, remedy)
        if self.rows == 0:
            raise UserError(f"{path}: the table has no rows", f"columns {some(self.names)}", "check the file")
        self._cells: dict[str, list[Any]] = {}
        self.unpacked = self._unpack(structs)

    def _unpack(self, structs: Sequence[str]) -> dict[str, list[str]]:
        """Put the fields of columns that have such in their place; ``{column: its new columns}``."""
        unpacked = {}
        for name in structs:
            found = {f"{name}.{field}": cells for field, cells in fields_of(self._column(name)[: self.rows]).items()}
            if found and not found.keys() & set(self.names):
                place = self.names.index(name)
                self.names[place : place + 1] = unpacked[name] = list(found)
                self._cells |= {
                    new: [None if is_blank(cell) else cell for cell in cells] for new, cells in found.items()
                }
        return unpacked

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
            self._cells[column] = [None if is_blank(cell) else cell for cell in self._column(column)[: self.rows]]
        return self._cells[column]

    def totals(self) -> list[str]:
        """The rows of sums and means under the table, which are no samples, as messages name them."""

        def cells(name: str) -> list[Any]:
            return self.cells(name, "totals")

        rows = range(self.rows - totals(self.names, self.rows, cells), self.rows)
        return [f"{row}: {label(self.names, row, cells)}" for row in rows]

    def leave_out_totals(self) -> list[str]:
        """Cut off the rows of sums and means under the table; what to say of them, and of those within, if any."""
        under = self.totals()
        self.rows -= len(under)
        self._cells = {name: known[: self.rows] for name, known in self._cells.items()}
        said = [f"left out: {said_of_totals(under)}"] if under else []
        return said + self._subtotals()

    def _subtotals(self) -> list[str]:
        """What to say of rows of sums and means within the table, which count as samples."""
        found = within(self.names, self.rows, lambda name: self.cells(name, "totals"))
        rows = some(f"{row}: {cell}" for row, cell in found.items())
        said = f"{count(len(found), 'row')} within the table with sums or means of those above, which count as samples"
        return [f"{said}: {rows}; remove them"] if found else []


def said_of_totals(rows: Sequence[str]) -> str:
    """What rows of sums and means are, in words."""
    return f"{count(len(rows), 'row')} under the table with sums or means of those above: {some(rows)}"


Source = tuple[list[str], int, Callable[[str], list[Any]], list[str]]
"""Column names, number of rows, the cells of a column, and the columns whose cells have fields."""


def is_table(path: str | Path) -> bool:
    """Whether a name is that of a table file."""
    return _suffix(Path(path)) in FORMATS


def refuse_arrays(path: Path) -> None:
    """Refuse a file of arrays that was given as a table.

    Raises:
        UserError: saying what it is and where such arrays go.
    """
    holds = ARRAYS.get(path.suffix.lower())
    if holds is None:
        return
    remedy = (
        "make a table with a row per sample, its cells the paths of .npy files, one array each, and name the column "
        "in the YAML: kind vector (D,), tokens (T, D) or series (T, C); in Python, arrays go into weft.data.Modality: "
        "see docs/howto/own_features.md"
    )
    if holds.startswith("pickled"):
        remedy = f"a pickled DataFrame goes to weft.compare(pandas.read_pickle(path), target=...); else {remedy}"
    raise UserError("a file of arrays is no table", f"{path}: {holds}", remedy)


def _suffix(path: Path) -> str:
    """``.csv`` of ``A.CSV`` and of ``a.csv.gz``."""
    path = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return path.suffix.lower()


def _read(path: Path) -> Source:
    suffix = _suffix(path)
    if suffix not in FORMATS:
        refuse_arrays(path)
        remedy = f"save it as a table in a file named {' or '.join(FORMATS)}"
        if suffix in SPREADSHEETS:
            remedy = "save the sheet as CSV; or in Python: weft.compare(pandas.read_excel(path), target=...)"
        raise UserError("a table is CSV, Parquet or JSONL", str(path), remedy)
    if not is_file(path):
        raise UserError("the table does not exist", str(path), "check the path; in a YAML it is relative to the YAML")
    try:
        if suffix == ".parquet":
            table = pa.parquet.read_table(path)
        else:
            content = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
            content = _utf8(content, path)
            if suffix == ".jsonl":
                return _read_jsonl(content.decode("utf-8-sig"), path)
            table = _read_csv(content, "\t" if suffix == ".tsv" else None)
    except (pa.ArrowException, csv.Error, ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        if "columns, got" in str(error):
            remedy = (
                "no title above the column names and no remark below the rows; a cell that holds a comma has quotes"
            )
            raise UserError(
                f"{path} cannot be read: a line has other cells than the first", str(error), remedy
            ) from error
        raise UserError(f"{path} cannot be read", str(error), "check that the file is whole and UTF-8") from error
    names = _apart(table.column_names)
    structs = [name for name, column in zip(names, table.columns, strict=True) if pa.types.is_struct(column.type)]
    return table.column_names, table.num_rows, lambda name: table.column(names.index(name)).to_pylist(), structs


def _apart(own: Sequence[str]) -> list[str]:
    """Names of columns, those that come again numbered as pandas does: ``value``, ``value.1``; ``Unnamed: 7``."""
    names: list[str] = []
    for place, name in enumerate(own):
        again = (f"{name}.{k}" if name else f"Unnamed: {place + k - 1}" for k in range(1, len(own) + 1))
        names.append(name if name not in names else next(new for new in again if new not in {*own, *names}))
    return names


def _utf8(content: bytes, path: Path) -> bytes:
    """The text of a file as UTF-8; UTF-16 with a byte order mark, as Excel writes it, is brought to it.

    Raises:
        UserError: it is in another encoding.
    """
    begins = next((what for begin, what in BINARY.items() if content.startswith(begin)), None)
    if begins is not None:
        remedy = "give it the name it had; arrays go into a column of a table, as paths: docs/howto/own_features.md"
        raise UserError(f"{path} is no table of text", begins, remedy)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16").encode()
    at = content[:SAMPLE].find(b"\0")
    wide = at >= 0
    try:
        content.decode()
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        guess = "UTF-16" if wide else "Windows-1252 (Latin-1)"
        found = f"byte {at}: {content[max(0, at - 20) : at + 20].decode('cp1252', 'replace')!r}"
        remedy = f"save it as UTF-8, e.g. iconv -f {guess.split()[0]} -t UTF-8 {path.name} > utf8-{path.name}"
        raise UserError(f"{path} is not UTF-8, but probably {guess}", found, remedy)
    return content


def _read_csv(content: bytes, delimiter: str | None) -> pa.Table:
    """Every column as strings: types are decided by what a column is used for."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    sample = content[:SAMPLE].decode("utf-8", "ignore")
    delimiter = delimiter or _delimiter(sample)
    header = next(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), [])
    own = pa.BufferOutputStream()  # of Arrow: its threads let go of what they read when Python may be gone already
    own.write(content)
    return pa.csv.read_csv(
        pa.BufferReader(own.getvalue()),
        read_options=pa.csv.ReadOptions(block_size=min(max(len(content) + 1, 1 << 20), 1 << 30)),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
    )


def _delimiter(sample: str) -> str:
    """The delimiter that cuts the first lines into the most rows of one length, then into the most columns."""

    def fit(delimiter: str) -> tuple[float, int]:
        try:
            lines = [line for line in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if line][:50]
        except csv.Error:
            return 0.0, 0
        if not lines or len(lines[0]) < 2:
            return 0.0, 0
        whole = lines[:-1] if len(lines) > 2 else lines  # the sample may end inside its last line
        return sum(len(line) == len(lines[0]) for line in whole) / len(whole), len(lines[0])

    return max(DELIMITERS, key=fit)


def _read_jsonl(content: str, path: Path) -> Source:
    records = [json.loads(line) for line in content.split("\n") if line.strip()]
    if not all(isinstance(record, dict) for record in records):
        found = "a line holds another value"
        raise UserError(f"{path}: every line is one JSON object", found, 'for example {"id": "a", "text": "..."}')
    names = dict.fromkeys(name for record in records for name in record)
    structs = [name for name in names if has_fields(record.get(name) for record in records)]
    return list(names), len(records), lambda name: [record.get(name) for record in records], structs


def words_in(cell: Any) -> list[str] | None:
    """The words of a cell that lists words; None for anything else. An empty list has none."""
    items = as_list(cell)
    there = [item for item in items or () if not is_blank(item)]
    if items is None or not all(isinstance(item, str) for item in there) or is_numeric(there):
        return None
    return [str(item).strip() for item in there]


def of_one_length(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether lists have one length, but for fewer than 5 % of them: these are slips, which reading refuses by row."""
    usual = max(Counter(map(len, lists)).values(), default=0)
    return usual > 0 and (usual == len(lists) or usual > NEARLY * len(lists))


def npy_axes(cells: Sequence[Any], folder: Path, axes: int) -> float:
    """The part of the cells that name ``.npy`` files, if most do and the first of them has so many axes; else 0."""
    names = [cell for cell in cells if isinstance(cell, str) and cell.lower().endswith(".npy")]
    if len(names) <= len(cells) / 2 or read_array(located(folder, names[0]), f"array {names[0]!r}").ndim != axes:
        return 0.0
    return len(names) / len(cells)


def array_values(columns: Sequence[Sequence[Any]], kind: str, name: str, ids: Sequence[str], folder: Path) -> list[Any]:
    """Cells as float32 arrays of ``kind``: ``(D,)`` vector, ``(T, C)`` series, ``(T, D)`` tokens.

    One column holds lists (also written ones, see :mod:`weft.data.written`, or paths of ``.npy`` files). Several
    columns hold numbers, the entries of a vector or the time steps of a series with one channel; or lists, the channels
    of a series. A row is absent where all its cells are empty.

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
        array = read_array(located(folder, cell), where)
    else:
        refuse_cut(where, [cell])
        content = cell if hasattr(cell, "__array_interface__") else as_list(cell)
        try:
            array = np.asarray(as_number(cell) if content is None else content, dtype=np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"{where}: a {kind} is a list of numbers, also a written one, or the path of an .npy file",
                f"{str(cell)[:80]!r} ({error})",
                "lists inside one cell have equal lengths and hold numbers only; lists of words are of kind text",
            ) from error
    if array.dtype.kind not in "fiub" or array.ndim > 2 or (kind == "vector" and array.ndim > 1):
        raise UserError(
            f"{where}: a {kind} is numbers on {'one axis' if kind == 'vector' else 'one or two axes'}",
            f"shape {array.shape}, {array.dtype}",
            "reshape the array, or choose another kind; pictures are paths, bytes of files, PIL images, or arrays of "
            "numpy (H, W, 3) of 8-bit integers",
        )
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and refused as such
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
