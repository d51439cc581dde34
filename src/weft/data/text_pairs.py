"""Pairs of sentences with a label or a score: what QQP, MRPC and STS-B have in common.

Modalities ``first`` and ``second``, both text. Tables are read with quoting off unless a set says otherwise, plain or
gzipped; Parquet files are those of the Hugging Face hub. A row that lacks a sentence, or has another number of fields
than the layout says (there is one in a published part of QQP), is no pair and is left out.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from weft.data.dataset import Dataset, Modality
from weft.errors import UserError, some


class Pair(NamedTuple):
    """One labelled pair."""

    id: str
    first: str
    second: str
    target: str
    part: str


def table(path: Path, fields: int, *, quoted: bool = False, header: bool = True) -> Iterator[list[str]]:
    """Rows of a tab-separated file, plain or ``.gz``, that have at least ``fields`` fields."""
    with _open(path) as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        if header:
            next(rows, None)
        yield from (row for row in rows if len(row) >= fields)


def parquet(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """Rows of a Parquet file as strings, these columns; an empty string where a cell is null.

    Raises:
        UserError: a column is missing.
    """
    found = pq.read_schema(path).names
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path.name} lacks columns", some(missing), f"it has {some(found, 20)}; restore the file")
    for row in pq.read_table(path, columns=list(columns)).to_pylist():
        yield ["" if row[name] is None else str(row[name]) for name in columns]


def existing(root: Path, *names: str) -> Path | None:
    """The first of ``names``, plain or with ``.gz``, that is a file in ``root``."""
    return next((root / n for name in names for n in (name, f"{name}.gz") if (root / n).is_file()), None)


def pairs_dataset(
    name: str, pairs: list[Pair], target: str, task: str, dtype: type, group: np.ndarray | None = None
) -> Dataset:
    """The data set of these pairs; without parts there is no split.

    Raises:
        UserError: a target is no number; the rows are named.
    """
    values, wrong = [], []
    for pair in pairs:
        try:
            values.append(dtype(pair.target))
        except ValueError:
            wrong.append(f"{pair.id}: {pair.target}")
    if wrong or not pairs:
        found = some(wrong) if wrong else "no pairs"
        raise UserError(f"{name}: {target} is a number in every row", found, "restore the file in its official layout")
    modalities = {
        "first": Modality("text", [pair.first for pair in pairs]),
        "second": Modality("text", [pair.second for pair in pairs]),
    }
    split: Any = np.array([pair.part for pair in pairs]) if all(pair.part for pair in pairs) else None
    return Dataset(name, [pair.id for pair in pairs], modalities, {target: np.array(values)}, split, group, task)


def complete(pairs: Iterator[Pair]) -> list[Pair]:
    """The pairs that have both sentences, stripped."""
    stripped = (pair._replace(first=pair.first.strip(), second=pair.second.strip()) for pair in pairs)
    return [pair for pair in stripped if pair.first and pair.second]


def _open(path: Path) -> io.TextIOBase:
    csv.field_size_limit(2**24)
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
