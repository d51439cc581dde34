"""Tables in memory: a pandas or polars DataFrame, a pyarrow Table or a dictionary of columns, as cells of Python.

Files named in cells are relative to the working folder. Nothing of pandas or polars is imported: a frame is known by
what it can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from weft.data.cells import as_category
from weft.data.structs import has_fields
from weft.errors import UserError

_AS_LIST = ("to_pylist", "to_list", "tolist")
"""What pyarrow, polars and pandas, numpy and torch call it."""


def is_frame(value: Any) -> bool:
    """Whether a value is a table in memory."""
    return isinstance(value, Mapping) or (hasattr(value, "columns") and hasattr(value, "__getitem__"))


def frame_columns(frame: Any) -> tuple[list[str], int, Callable[[str], list[Any]], list[str]]:
    """Names of the columns, number of rows, the cells of a column, and the columns whose cells have fields.

    Raises:
        UserError: it is no table, or columns of a dictionary have different lengths.
    """
    if not is_frame(frame):
        raise UserError(
            "a table in memory is a pandas or polars DataFrame, a pyarrow Table, or {column: cells}",
            type(frame).__name__,
            "pass one of these, or the path of a file",
        )
    if isinstance(frame, Mapping):
        single = next(
            (name for name, cells in frame.items() if isinstance(cells, str) or not hasattr(cells, "__len__")), None
        )
        if single is not None:
            raise UserError(
                "a column is a list of cells, one per row",
                f"{single!r}: {frame[single]!r}",
                f"give [{frame[single]!r}]",
            )
        lengths = {str(name): len(cells) for name, cells in frame.items()}
        if len(set(lengths.values())) > 1:
            raise UserError("columns have one cell per row", f"{lengths}", "cut them to equal length")
        keys: Sequence[Any] = list(frame)
        rows = next(iter(lengths.values()), 0)
    else:
        keys = list(getattr(frame, "column_names", frame.columns))
        rows = len(frame)
    named = dict(zip(map(str, keys), keys, strict=True))
    structs = [name for name, key in named.items() if has_fields(frame[key])]
    return [str(key) for key in keys], rows, lambda name: cells_of(frame[named[name]]), structs


def order_of(source: Any, name: str) -> list[str] | None:
    """The categories of an ordered column of pandas or an Enum of polars, lowest first; None of any other."""
    if not is_frame(source):
        return None
    keys = source if isinstance(source, Mapping) else getattr(source, "column_names", source.columns)
    dtype: Any = next((getattr(source[key], "dtype", None) for key in keys if str(key) == name), None)
    ordered = getattr(dtype, "ordered", type(dtype).__name__ == "Enum")
    return [str(as_category(cell)) for cell in dtype.categories] if ordered else None


def cells_of(column: Any) -> list[Any]:
    """A column as plain Python values, None where it is empty; tuples, sets and arrays as lists, pictures as PIL's."""
    if hasattr(column, "notna"):  # pandas
        if str(column.dtype).startswith("period"):
            column = column.dt.to_timestamp()
        filled = column.astype(object)
        return list(map(_plain, filled.where(column.notna(), None)))
    for method in _AS_LIST:
        if hasattr(column, method):
            return list(map(_plain, getattr(column, method)()))
    return list(map(_plain, column))


def _plain(cell: Any) -> Any:
    """A cell as plain values: arrays, tensors and series as lists, those that are pictures as such."""
    if cell is None or isinstance(cell, str | int | float | np.datetime64):
        return cell
    if isinstance(cell, list | tuple):
        scalars = not cell or isinstance(cell[0], str | int | float)
        return list(cell) if scalars else list(map(_plain, cell))
    if isinstance(cell, Mapping):
        return {key: _plain(value) for key, value in cell.items()}
    if isinstance(cell, set | frozenset):
        return sorted(cell, key=str)
    if isinstance(cell, PurePath):
        return str(cell)
    if _is_pixels(cell):
        array = np.asarray(cell)
        return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
    method = next((name for name in _AS_LIST if hasattr(cell, name)), None)
    return cell if method is None or isinstance(cell, type) else getattr(cell, method)()


def _is_pixels(cell: Any) -> bool:
    """Whether an array is ``(H, W[, 1 | 3 | 4])`` of 8-bit integers, eight pixels high and wide or more."""
    shape = tuple(getattr(cell, "shape", ()))
    pixels = str(getattr(cell, "dtype", "")).removeprefix("torch.") == "uint8"
    return pixels and len(shape) in (2, 3) and min(shape[:2]) >= 8 and shape[2:] in ((), (1,), (3,), (4,))
