"""Features under encoders that were fitted on other rows: what every split and fold needs of encoders that learn.

An encoder with ``refits`` (vocabularies, categories) that has seen a test row has told the model of it. So a store
keeps the raw values of such modalities (``<modality>/raw.json``), and :meth:`~weft.store.Store.fitted` fits the encoder
on the rows it is given and encodes all values again, in memory; a copy under ``<modality>/fitted/`` serves other
processes.
Encoders that learn nothing, or scales alone, are never touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.data.kinds import kind_named
from weft.encoders import BadValue, Encoder, create_encoder
from weft.errors import UserError
from weft.files import canonical, read_json, read_tensors, sha256, write_bytes, write_tensors
from weft.store.block import read_digests
from weft.store.files import DTYPES

Refitted = tuple[dict[str, Tensor], dict[str, Any]]
RAW, FITTED = "raw.json", "fitted"
BATCH = 512


def fitted_on(pointer: np.ndarray, rows: np.ndarray) -> str:
    """What an encoder learns from: a hash of the values of these rows, by their numbers, in order."""
    found = pointer[np.asarray(rows, dtype=np.int64)]
    return sha256(np.ascontiguousarray(found[found >= 0]).tobytes())


def write_raw(folder: Path, kind: str, values: Mapping[str, Any]) -> None:
    """Keep values of a modality by the hash of their content, beside those that are kept already."""
    one, path = kind_named(kind), folder / RAW
    before = read_json(path) if path.exists() else {}
    kept = {**before, **{digest: one.pack(value) for digest, value in values.items() if digest not in before}}
    if kept != before:
        write_bytes(path, json.dumps(kept, ensure_ascii=False).encode())


def read_raw(folder: Path, entry: dict[str, Any]) -> list[Any]:
    """The different values of a modality whose encoder refits, in the order of the store's pointers."""
    kind, packed = kind_named(entry["kind"]), read_json(folder / entry["folder"] / RAW)
    return [kind.unpack(packed[digest]) for digest in read_digests(folder / entry["folder"], entry)]


def refit(folder: Path, name: str, entry: dict[str, Any], pointer: np.ndarray, rows: np.ndarray) -> Refitted:
    """``values`` and ``lengths`` of a modality whose encoder is fitted on ``rows``, and its entry in the manifest."""
    made = fitted_on(pointer, rows)
    path = folder / entry["folder"] / FITTED / f"{made[:16]}.safetensors"
    if path.exists():
        tensors, about = read_tensors(path)
        if about["address"] == entry["address"] and about["fitted"] == made:
            return tensors, _entry(entry, made, json.loads(about["state"]), tensors["values"])
    values = read_raw(folder, entry)
    encoder = create_encoder(entry["recipe"]["spec"], entry["kind"], **entry["recipe"]["options"])
    known = pointer[np.asarray(rows, dtype=np.int64)]
    encoder.fit([values[value] for value in known[known >= 0]])
    tensors = _encoded(name, encoder, values, DTYPES[entry["dtype"]])
    state = encoder.state()
    about = {"address": entry["address"], "fitted": made, "state": json.dumps(state)}
    write_tensors(path, tensors, about)
    return tensors, _entry(entry, made, state, tensors["values"])


def _encoded(name: str, encoder: Encoder, values: Sequence[Any], dtype: torch.dtype) -> dict[str, Tensor]:
    arrays: list[np.ndarray] = []
    for start in range(0, len(values), BATCH):
        try:
            arrays += encoder.encode(values[start : start + BATCH])
        except BadValue as error:
            raise UserError(f"modality {name!r}: {error.what}", error.found, error.remedy) from error
    block = torch.from_numpy(np.concatenate(arrays)).to(dtype)
    return {"values": block, "lengths": torch.tensor([len(array) for array in arrays])}


def _entry(entry: dict[str, Any], made: str, state: dict[str, Any], block: Tensor) -> dict[str, Any]:
    content = {key: entry[key] for key in ("encoder", "dtype", "values")} | {"state": state}
    return {**entry, **content, "fitted": made, "width": block.shape[1], "address": sha256(canonical(content))}
