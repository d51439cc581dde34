"""Rows that come after a model or a data set: read by what training learned, never by the rows beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.data.columns import Columns
from weft.data.dataset import Dataset
from weft.data.failure import OnError
from weft.data.table import read_table
from weft.data.table_config import TableConfig
from weft.data.target_cells import as_class


def read_more(source: Any, table: Mapping[str, Any], on_error: OnError = "stop") -> Dataset:
    """Rows to add to others, read as those were: by their types and labels; classes that they did not have are new.

    Args:
        source: as of :func:`read_table`.
        table: of the data set that the others are.
        on_error: as of :func:`read_table`.

    Raises:
        UserError: as :func:`read_table`.
    """
    config = TableConfig(**{**table, "table": str(source), "splits": None})
    return read_table(source, _with_new_classes(config, config.classes, Columns(source)), on_error=on_error)


def as_learned(config: TableConfig, table: Mapping[str, Any] | None) -> TableConfig:
    """How rows that a model has not seen are read by a configuration of theirs: cells and classes as in its own table.

    They are few perhaps, so nothing is learned of them, and no split is made.

    Args:
        config: of the rows.
        table: of the data set that the model was trained on; None: it was no table, and the rows are read as they say.

    Raises:
        UserError: the table of ``config`` cannot be read.
    """
    if table is None:
        return config.model_copy(update={"splits": None})
    known = TableConfig(**table)
    types = {column: type_ for modality in known.modalities.values() for column, type_ in modality.types.items()}
    modalities = {
        name: modality.model_copy(
            update={"types": modality.types | {column: types[column] for column in modality.names if column in types}}
        )
        for name, modality in config.modalities.items()
    }
    classes = {name: found for name, found in known.classes.items() if name not in config.classes}
    learned = {"splits": None, "modalities": modalities, "labels": known.labels or config.labels}
    return _with_new_classes(config.model_copy(update=learned), classes, Columns(config.table))


def _with_new_classes(config: TableConfig, classes: Mapping[str, Sequence[Any]], columns: Columns) -> TableConfig:
    """The configuration with these classes of targets, and those that the columns have beside."""
    columns.leave_out_totals()
    all_classes = dict(config.classes)
    for name, known in classes.items():
        cells = [] if name not in columns.names else columns.cells(name, "target")
        found = {as_class(cell, known) for cell in cells if cell is not None} - set(known)
        all_classes[name] = [*known, *sorted(found, key=str)]
    return config.model_copy(update={"classes": all_classes})
