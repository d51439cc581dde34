"""The manifest and the table of rows of a store, each written whole or not at all.

``<store>/manifest.json``, ``<store>/rows.parquet``, and the features of each modality: see :mod:`weft.store.block`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from weft.data.failure import Failure
from weft.errors import UserError
from weft.files import read_json, write_bytes

FORMAT, VERSION = "weft-store", 3
MANIFEST, ROWS, FAILED = "manifest.json", "rows.parquet", "failed.json"
ORIENTATION = 0x0112
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def content_hash(value: Any) -> str:
    """Hash of a value's content: a file by its bytes, an array by its numbers, shape and type, a text as it is."""
    if isinstance(value, Path):
        return file_hash(value)
    digest = hashlib.sha256()
    add_content(digest, value)
    return digest.hexdigest()


def add_content(digest: Any, value: Any) -> None:
    """Feed a value into a hash, with its type before it; an image with its palette, transparency and rotation."""
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        digest.update(b"s%d:" % len(text) + text)
    elif isinstance(value, tuple | list):
        digest.update(b"(%d:" % len(value))
        for part in value:
            add_content(digest, part)
    elif isinstance(value, dict):
        digest.update(b"d:")
        add_content(digest, sorted(value.items()))
    elif isinstance(value, Path):
        digest.update(f"f{file_hash(value)}:".encode())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"a{value.dtype.str}{value.shape}:".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, np.ndarray):
        add_content(digest, value.tolist())
    elif isinstance(value, Image.Image):
        palette = value.getpalette("RGBA") if value.mode in ("P", "PA") else None
        seen = palette, value.info.get("transparency"), value.getexif().get(ORIENTATION)
        digest.update(f"i{value.mode}{value.size}{seen}:".encode() + value.tobytes())
    elif isinstance(value, int | float | np.number | np.bool_):
        digest.update(f"n{float(value)!r}:".encode())
    else:
        digest.update(f"{type(value).__name__}:{value!s}:".encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def modality_folder(name: str) -> str:
    """A folder name for a modality that may be called anything."""
    safe = quote(name, safe=" ")
    return "%2E" + safe[1:] if safe.startswith(".") else safe


def rows_bytes(
    ids: Sequence[str],
    targets: dict[str, np.ndarray],
    split: np.ndarray | None,
    group: np.ndarray | None,
    pointers: dict[str, np.ndarray],
) -> bytes:
    """The table of rows: ``id``, ``split``, ``group``, ``target/<name>``, ``present/<name>``, ``value/<name>``."""
    columns: dict[str, pa.Array] = {"id": pa.array(list(ids), pa.string())}
    columns |= {name: to_arrow(values) for name, values in (("split", split), ("group", group)) if values is not None}
    columns |= {f"target/{name}": to_arrow(values) for name, values in targets.items()}
    columns |= {f"present/{name}": pa.array(pointer >= 0) for name, pointer in pointers.items()}
    columns |= {f"value/{name}": pa.array(pointer) for name, pointer in pointers.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def to_arrow(values: np.ndarray) -> pa.Array:
    """``(N,)`` or ``(N, K)`` numbers, booleans or strings."""
    values = np.asarray(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return pa.array(values.tolist() if values.dtype.kind in "OUS" else values)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """The inverse of :func:`to_arrow`."""
    if pa.types.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.array(flat).reshape(len(column), column.type.list_size)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    return np.array(column.to_numpy())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none.

    Raises:
        UserError: the file is no manifest of this format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        known = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        remedy = "restore it, or encode into another folder"
        raise UserError("the manifest of a store is damaged", f"{path}: {error}", remedy) from error
    if known != (FORMAT, VERSION):
        remedy = f"this version of weft reads {FORMAT} {VERSION}; encode again into another folder"
        raise UserError("a store of another format", f"{path}: {known[0]} {known[1]}", remedy)
    return manifest


def read_failures(folder: Path) -> list[Failure]:
    """The cells that could not be read when a store was made; none where all could."""
    path = folder / FAILED
    return [Failure(**found) for found in read_json(path)["failures"]] if path.is_file() else []


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest; its bytes depend on its content alone."""
    write_bytes(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode())
