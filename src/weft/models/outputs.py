"""How predictions of a system are kept: one file per row, or one table of all.

=============  ======================================  =========================================
``writes``     a value                                 kept as
=============  ======================================  =========================================
``label``      outputs ``(K,)`` of a head              ``predictions.csv``: the judge's decision
``text``       a str                                   ``predictions.csv``: id, prediction
``embedding``  ``(D,)`` float                          ``embeddings.parquet``: id, vector
``map``        ``(H, W)`` float in [0, 1]              ``<id>.png``, 8 bits
``image``      ``(H, W, 3)`` or ``(H, W)`` uint8       ``<id>.png``
``audio``      ``(samples, rate)``                     ``<id>.wav``, 16 bits
=============  ======================================  =========================================

What is judged is what is kept (:func:`rounded`): a map has 256 levels, as in the maps that authors publish.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weft.data.files import read_audio, read_grey, read_image
from weft.errors import UserError, some
from weft.files import write_bytes

TABLE = {"label": "predictions.csv", "text": "predictions.csv", "embedding": "embeddings.parquet"}
SUFFIX = {"map": ".png", "image": ".png", "audio": ".wav"}


def rounded(writes: str, value: Any) -> Any:
    """A prediction as it reads when it has been kept."""
    if writes == "map":
        return np.round(np.asarray(value) * 255).astype(np.uint8).astype(np.float32) / 255
    return value


def write_files(writes: str, folder: Path, ids: Sequence[str], values: Iterable[Any]) -> int:
    """Write one file per prediction, ``folder/<id><suffix>``, each in one step; how many there were."""
    done = 0
    for row, value in zip(ids, values, strict=True):
        content = wav_bytes(*value) if writes == "audio" else png_bytes(value)
        write_bytes(folder / f"{row}{SUFFIX[writes]}", content)
        done += 1
    return done


def to_array(writes: str, value: Any) -> np.ndarray:
    """A prediction as an array, a map with the 256 levels it is kept with; :func:`from_array` gives it back."""
    if writes == "map":
        return np.round(np.asarray(value) * 255).astype(np.uint8)
    if writes == "text":
        return np.frombuffer(value.encode(), dtype=np.uint8).copy()
    if writes == "audio":
        return np.concatenate([[value[1]], value[0]]).astype(np.float32)
    return np.ascontiguousarray(value)


def from_array(writes: str, array: np.ndarray) -> Any:
    """What :func:`to_array` made an array of; maps stay uint8."""
    if writes == "text":
        return array.tobytes().decode()
    return (array[1:], int(array[0])) if writes == "audio" else array


def read_files(writes: str, folder: Path, ids: Sequence[str]) -> list[Any]:
    """Predictions as :func:`write_files` wrote them, or as anybody did, named as the rows; maps in [0, 1].

    Raises:
        UserError: predictions of this kind are no files, or rows have none.
    """
    if writes not in SUFFIX:
        raise UserError("only files of predictions can be judged", f"kind {writes!r}", "give the folder of a model")
    paths = [folder / f"{row}{SUFFIX[writes]}" for row in ids]
    gone = [row for row, path in zip(ids, paths, strict=True) if not path.is_file()]
    if gone:
        raise UserError(
            "every row has a prediction of its name",
            f"{len(gone)} of {len(ids)} rows have none in {folder}: {some(gone)}",
            "choose the split that was predicted, or predict again",
        )
    if writes == "map":
        return [read_grey(path, f"map of row {row!r}") / 255 for row, path in zip(ids, paths, strict=True)]
    if writes == "image":
        return [np.asarray(read_image(path, f"image of row {row!r}")) for row, path in zip(ids, paths, strict=True)]
    return [read_audio(path, f"audio of row {row!r}") for row, path in zip(ids, paths, strict=True)]


def write_table(writes: str, path: Path, ids: Sequence[str], columns: Mapping[str, Any], names: Sequence[Any]) -> None:
    """Write predictions of all rows as one table; an array with one column per output becomes ``<key>_<name>``.

    Args:
        writes: ``"label"``, ``"text"`` or ``"embedding"``.
        path: of the file; CSV, for embeddings Parquet.
        ids: of the rows.
        columns: ``{"prediction": (n,) ...}``.
        names: of the outputs, where there are any.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    flat = {key: list(np.asarray(v)) if writes == "embedding" and np.ndim(v) == 2 else v for key, v in columns.items()}
    table = {"id": list(ids), **flat_columns(flat, names)}
    sink = io.BytesIO()
    if writes == "embedding":
        pyarrow.parquet.write_table(pa.table(table), sink)
    else:
        pyarrow.csv.write_csv(pa.table(table), sink)
    write_bytes(path, sink.getvalue())


def flat_columns(columns: Mapping[str, Any], names: Sequence[Any]) -> dict[str, Any]:
    """One column for each entry: an array ``(n, K)`` becomes ``<key>_<name>`` of the ``K`` names, or numbers."""
    table: dict[str, Any] = {}
    for key, value in columns.items():
        if isinstance(value, np.ndarray) and value.ndim == 2:
            labels = names if len(names) == value.shape[1] else range(value.shape[1])
            table |= {f"{key}_{label}": value[:, i] for i, label in enumerate(labels)}
        else:
            table[key] = value
    return table


def emptied(columns: Mapping[str, Any], gone: np.ndarray) -> dict[str, Any]:
    """Columns whose cells are None in the rows ``gone`` ``(n,)`` bool."""
    if not gone.any():
        return dict(columns)
    lists = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in columns.items()}
    return {key: [None if no else v for v, no in zip(cells, gone, strict=True)] for key, cells in lists.items()}


def png_bytes(value: np.ndarray) -> bytes:
    """A map ``(H, W)`` in [0, 1], or a uint8 image ``(H, W[, 3])``, as PNG."""
    from PIL import Image

    pixels = value if value.dtype == np.uint8 else np.round(value * 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format="png")
    return sink.getvalue()


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    """Samples ``(n,)`` in [-1, 1] as 16-bit mono WAV."""
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return sink.getvalue()
