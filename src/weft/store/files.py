"""The files of a store: shards, the table of rows, the manifest. Each is written whole or not at all.

``<store>/manifest.json``, ``<store>/rows.parquet``, ``<store>/<modality>/shard-00042.safetensors``. A shard holds
``values`` ``(sum T, D)`` in fp16, bf16 or fp32 and ``offsets`` ``(n + 1,)`` int64: value ``i`` is
``values[offsets[i] : offsets[i + 1]]``. The manifest lists every finished shard with its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from weft.errors import UserError

FORMAT, VERSION = "weft-store", 1
MANIFEST, ROWS = "manifest.json", "rows.parquet"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name, sync, rename: after a crash the file is whole, or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, the form that is hashed."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def modality_folder(name: str) -> str:
    """A folder name for a modality that may be called anything."""
    safe = quote(name, safe=" ")
    return "%2E" + safe[1:] if safe.startswith(".") else safe


def shard_name(index: int) -> str:
    """``shard-00042.safetensors``."""
    return f"shard-{index:05d}.safetensors"


def shard_bytes(values: Sequence[np.ndarray], dtype: str) -> bytes:
    """The file of one shard, from its values ``(T_i, D)``."""
    offsets = np.cumsum([0, *(len(v) for v in values)], dtype=np.int64)
    block = torch.from_numpy(np.concatenate(values)).to(DTYPES[dtype])
    data: bytes = save({"values": block, "offsets": torch.from_numpy(offsets)}, metadata={"format": FORMAT})
    return data


def check_shard(path: Path, entry: dict[str, Any], verify: bool) -> None:
    """Refuse a shard that is missing, of another size, or (``verify``) of another hash than the manifest says.

    Raises:
        UserError: it names the shard.
    """
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        found = f"{path.stat().st_size} bytes, expected {entry['bytes']}" if path.is_file() else "no such file"
        raise damaged(path, found)
    if verify:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise damaged(path, f"SHA-256 {digest[:12]}..., expected {entry['sha256'][:12]}...")


def map_shard(path: Path, width: int, dtype: str) -> tuple[Tensor, np.ndarray]:
    """The memory-mapped block ``(sum T, D)`` of a shard and the number of tokens of each of its values.

    Raises:
        UserError: the file is not the shard the manifest speaks of; it names the shard.
    """
    try:
        with safe_open(path, framework="pt") as file:
            block, offsets = file.get_tensor("values"), file.get_tensor("offsets").numpy()
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
    lengths = np.diff(offsets)
    if block.dtype != DTYPES[dtype] or block.shape != (offsets[-1], width) or offsets[0] != 0 or (lengths < 1).any():
        raise damaged(path, f"values {tuple(block.shape)} {block.dtype}, offsets up to {offsets[-1]}")
    return block, lengths


def damaged(path: Path, found: str) -> UserError:
    """The error for a shard that is not what was written."""
    return UserError(
        f"the shard {path.parent.name}/{path.name} is damaged",
        f"{path}: {found}",
        "delete this file and encode again with the same settings: only this shard is made anew",
    )


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


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest; its bytes depend on its content alone."""
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode())
