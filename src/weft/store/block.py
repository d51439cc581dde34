"""The features of one modality on disk: files that grow shard by shard and are read as one block.

``<modality>/values.safetensors`` holds ``values`` ``(sum T, D)`` in fp16, bf16 or fp32,
``<modality>/lengths.safetensors`` holds ``lengths`` ``(n,)`` int64, the number of tokens of each value, and
``<modality>/digests.safetensors`` holds ``digests`` ``(n, 32)`` uint8, the hash of the content that each was made from.
Their headers have one size whatever they say, so a shard is written at the end of what is there. The manifest is the
truth: it lists the shards that are finished, each with its tokens, its values and the SHA-256 of its bytes; what lies
behind them in a file is the rest of a run that was killed, and is written over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weft.errors import UserError
from weft.files import sync_folder
from weft.store.files import DTYPES, FORMAT

VALUES, LENGTHS, DIGESTS = "values.safetensors", "lengths.safetensors", "digests.safetensors"
HEADER = 512
NAMES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32", "int64": "I64", "uint8": "U8"}
CHUNK = 1 << 24


def write_shard(
    folder: Path, entry: dict[str, Any], index: int, values: Sequence[np.ndarray], digests: Sequence[str]
) -> None:
    """Write the values ``(T_i, D)`` of a shard at their place, synced, and list it in the modality's ``entry``.

    Args:
        folder: of the modality.
        entry: its part of the manifest.
        index: of a shard that is made anew, or the number of shards for a new one.
        values, digests: what it holds, and the hash of what each was made from.

    Raises:
        UserError: a shard that is made anew has other lengths than before.
    """
    block = torch.from_numpy(np.concatenate(values)).to(DTYPES[entry["dtype"]])
    lengths = torch.tensor([len(value) for value in values])
    shard = {"values": len(lengths), "tokens": len(block), "sha256": digest(block, lengths)}
    old = entry["shards"][index] if index < len(entry["shards"]) else shard
    if (old["values"], old["tokens"]) != (shard["values"], shard["tokens"]):
        raise UserError(
            f"shard {index} of {folder.name} is made anew with other lengths",
            f"{shard['tokens']} tokens instead of {old['tokens']}: the encoder does not repeat itself",
            "encode into another folder",
        )
    entry["shards"][index:] = [shard, *entry["shards"][index + 1 :]]
    (values_at, lengths_at), totals = place(entry, index), place(entry, len(entry["shards"]))
    write_at(folder / VALUES, block, values_at, totals[0], entry)
    write_at(folder / LENGTHS, lengths, lengths_at, totals[1], entry)
    write_at(folder / DIGESTS, as_bytes(digests), lengths_at, totals[1], entry)


def as_bytes(digests: Sequence[str]) -> Tensor:
    """SHA-256 in hex as ``(n, 32)`` uint8."""
    return torch.frombuffer(bytearray.fromhex("".join(digests)), dtype=torch.uint8).view(-1, 32)


def read_digests(folder: Path, entry: dict[str, Any]) -> list[str]:
    """The hash of the content of every value of a modality, as far as the file has them."""
    try:
        content = (folder / DIGESTS).read_bytes()[HEADER:].hex()
    except OSError:
        return []
    values = min(len(content) // 64, place(entry, len(entry["shards"]))[1])
    return [content[start : start + 64] for start in range(0, 64 * values, 64)]


def place(entry: dict[str, Any], index: int) -> tuple[int, int]:
    """Tokens and values before shard ``index``."""
    before = entry["shards"][:index]
    return sum(shard["tokens"] for shard in before), sum(shard["values"] for shard in before)


def write_at(path: Path, rows: Tensor, first: int, total: int, entry: dict[str, Any]) -> None:
    """Rows at their place in a file of ``total`` rows, with the header that says so."""
    size = rows[:1].nbytes
    created = not path.exists()
    with path.open("r+b" if not created else "w+b") as file:
        file.truncate(HEADER + total * size)
        file.seek(HEADER + first * size)
        file.write(raw(rows))
        file.seek(0)
        file.write(header(path.name, total, entry))
        file.flush()
        os.fsync(file.fileno())
    if created:
        sync_folder(path.parent)


def header(name: str, total: int, entry: dict[str, Any]) -> bytes:
    """The first bytes of a file, padded with spaces to their fixed size."""
    dtype, shape = {
        VALUES: (entry["dtype"], [total, entry["width"]]),
        LENGTHS: ("int64", [total]),
        DIGESTS: ("uint8", [total, 32]),
    }[name]
    size = int(np.prod(shape)) * {**DTYPES, "int64": torch.int64, "uint8": torch.uint8}[dtype].itemsize
    tensor = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"format": FORMAT}, name.partition(".")[0]: tensor}).encode()
    return (HEADER - 8).to_bytes(8, "little") + text.ljust(HEADER - 8)


def raw(rows: Tensor) -> memoryview:
    """The bytes of a tensor in memory, row-major."""
    return rows.contiguous().view(torch.uint8).numpy().data


def digest(block: Tensor, lengths: Tensor) -> str:
    """SHA-256 of a shard: its values ``(sum T, D)``, then its lengths ``(n,)``."""
    made = hashlib.sha256(raw(block))
    made.update(raw(lengths))
    return made.hexdigest()


def repair_headers(folder: Path, entry: dict[str, Any]) -> None:
    """Write the headers again where they do not say what the manifest says."""
    tokens, values = place(entry, len(entry["shards"]))
    for name, total in ((VALUES, tokens), (LENGTHS, values), (DIGESTS, values)):
        if not (folder / name).is_file():
            continue
        with (folder / name).open("r+b") as file:
            if file.read(HEADER) != header(name, total, entry):
                file.seek(0)
                file.write(header(name, total, entry))
                file.flush()
                os.fsync(file.fileno())


def damage(folder: Path, entry: dict[str, Any], verify: bool) -> Iterator[tuple[int, str]]:
    """Finished shards that are not what was written, and what was found: by the size of the files, or by hash."""
    sizes = [(folder / name).stat().st_size if (folder / name).is_file() else 0 for name in (VALUES, LENGTHS)]
    width = entry["width"] * DTYPES[entry["dtype"]].itemsize
    ends = (HEADER, HEADER)
    for index, shard in enumerate(entry["shards"]):
        starts, ends = ends, (ends[0] + shard["tokens"] * width, ends[1] + shard["values"] * 8)
        if sizes[0] < ends[0] or sizes[1] < ends[1]:
            yield index, f"the files end at {sizes[0]} and {sizes[1]} bytes, it at {ends[0]} and {ends[1]}"
        elif verify:
            found = hashlib.sha256()
            for name, start, end in zip((VALUES, LENGTHS), starts, ends, strict=True):
                hash_range(found, folder / name, start, end - start)
            if found.hexdigest() != shard["sha256"]:
                yield index, f"SHA-256 {found.hexdigest()[:12]}..., expected {str(shard['sha256'])[:12]}..."


def hash_range(made: Any, path: Path, start: int, size: int) -> None:
    """Feed a part of a file into a hash, piece by piece."""
    with path.open("rb") as file:
        file.seek(start)
        while size:
            piece = file.read(min(size, CHUNK))
            made.update(piece)
            size -= len(piece)


def map_block(folder: Path, entry: dict[str, Any]) -> tuple[Tensor, np.ndarray]:
    """The memory-mapped values ``(sum T, D)`` of a finished modality and the number of tokens of each, ``(n,)``.

    Raises:
        UserError: the files are not those the manifest speaks of.
    """
    if not entry["shards"]:
        return torch.zeros(0, entry["width"], dtype=DTYPES[entry["dtype"]]), np.zeros(0, np.int64)
    found = []
    for name in (VALUES, LENGTHS):
        try:
            with safe_open(folder / name, framework="pt") as file:
                found.append(file.get_tensor(name.partition(".")[0]))
        except (SafetensorError, OSError) as error:
            raise damaged(folder, name, str(error)) from error
    block, lengths = found[0], found[1].numpy()
    tokens, values = place(entry, len(entry["shards"]))
    if block.dtype != DTYPES[entry["dtype"]] or block.shape != (tokens, entry["width"]) or len(lengths) != values:
        raise damaged(folder, VALUES, f"values {tuple(block.shape)} {block.dtype}, {len(lengths)} lengths")
    if (lengths < 1).any() or lengths.sum() != tokens:
        raise damaged(folder, LENGTHS, f"{lengths.sum()} tokens, expected {tokens}")
    return block, lengths


def damaged(folder: Path, what: str | int, found: str) -> UserError:
    """The error for a file (by its name) or a shard (by its number) that is not what was written."""
    part = f"shard {what} of {folder.name}" if isinstance(what, int) else f"{folder.name}/{what}"
    return UserError(
        f"{part} is damaged",
        f"{folder}: {found}",
        "encode again with the same settings: what is damaged is found by its hash, and only that is made anew",
    )
