"""What targets and outputs are checked for."""

from __future__ import annotations

import numpy as np

from weft.errors import UserError, some


def missing(values: np.ndarray) -> np.ndarray:
    """Bool of the shape of ``values``: None, NaN, NaT."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.array([v is None or v != v for v in values.ravel()], dtype=bool).reshape(values.shape)
    return np.zeros(values.shape, dtype=bool)


def refuse_missing(target: np.ndarray) -> None:
    """Refuse a target ``(N,)`` or ``(N, K)`` with missing values, naming the rows."""
    gone = missing(target)
    rows = np.flatnonzero(gone.reshape(len(gone), -1).any(axis=1))
    if len(rows):
        raise UserError(
            "a target has missing values",
            f"rows {some(rows.tolist())} of {len(gone)}",
            "drop these rows, or give them a value",
        )


def check_outputs(outputs: np.ndarray, width: int, rows: int | None = None) -> np.ndarray:
    """Outputs as float64 ``(N, width)``.

    Raises:
        UserError: the shape does not fit, or a value is NaN or infinite; the rows are named.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    if (
        outputs.ndim != 2
        or outputs.shape[1] != width
        or (rows is not None and len(outputs) != rows)
        or not len(outputs)
    ):
        raise UserError(
            f"outputs are ({'N' if rows is None else rows}, {width}), one row per row of the target, and at least one",
            f"shape {outputs.shape}",
            "give the outputs of a head of this task for the same rows",
        )
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(bad):
        raise UserError(
            "outputs hold NaN or infinite values",
            f"rows {some(bad.tolist())} of {len(outputs)}",
            "lower the learning rate if training diverged; check the features of these rows",
        )
    return outputs
