"""TFRecord files of ``Example`` messages, read without TensorFlow.

A file is records, one after the other: the length of its data (8 bytes, little endian), a checksum of the length (4),
the data, a checksum of the data (4). The checksum is CRC-32C, turned by 15 bits and shifted by a constant. An
``Example`` is a protocol buffer of named lists of bytes, floats or integers.

Sources: TensorFlow, ``tensorflow/core/lib/io/record_writer.h`` and ``tensorflow/core/example/feature.proto``; Protocol
Buffers, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weft.data.files import is_file
from weft.errors import UserError

POLYNOMIAL = 0x82F63B78
TURNED = 0xA282EAD8
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
Value = list[bytes] | np.ndarray


def _table() -> list[int]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return found


TABLE = _table()


def masked_checksum(data: bytes) -> int:
    """Of a record's length or data.

    >>> hex(masked_checksum(b"123456789"))
    '0xc7b10e20'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + TURNED) & 0xFFFFFFFF


def read_records(path: Path | str) -> Iterator[bytes]:
    """The data of each record, in order.

    Raises:
        UserError: the file is missing, ends inside a record, or a checksum is wrong; the record and its place are
            named.
    """
    if not is_file(Path(path)):
        raise UserError("a TFRecord file is missing", str(path), "check the path")
    with Path(path).open("rb") as file:
        number = at = 0
        while head := file.read(12):
            size = int.from_bytes(head[:8], "little")
            whole = len(head) == 12 and struct.unpack("<I", head[8:])[0] == masked_checksum(head[:8])
            rest = file.read(size + 4) if whole else b""
            data = rest[:size]
            if len(rest) != size + 4 or struct.unpack("<I", rest[size:])[0] != masked_checksum(data):
                raise UserError(
                    "every record of a TFRecord file is whole", f"{path}: record {number}, at byte {at}",
                    "copy the file again",
                )  # fmt: skip
            yield data
            number, at = number + 1, at + size + 16


def read_example(data: bytes) -> dict[str, Value]:
    """The lists of an ``Example`` by name: bytes, float32 ``(n,)`` or int64 ``(n,)``.

    Raises:
        UserError: it is no such message.
    """
    try:
        features = [_bytes(value) for number, value in _fields(data) if number == 1]
        entries = [dict(_fields(_bytes(v))) for part in features for number, v in _fields(part) if number == 1]
        return {_bytes(entry[1]).decode(): _list(_bytes(entry[2])) for entry in entries}
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise UserError(
            "a record is an Example: named lists of bytes, floats or integers", f"{len(data)} bytes: {error!r}",
            "read other messages otherwise",
        ) from error  # fmt: skip


def _list(data: bytes) -> Value:
    """Of a ``Feature``: the one list that is set; none is an empty list of bytes."""
    found: Value = []
    for kind, value in _fields(data):
        inner = [v for number, v in _fields(_bytes(value)) if number == 1]
        if kind == 1:
            found = [_bytes(v) for v in inner]
        elif kind == 2:
            packed = b"".join(v if isinstance(v, bytes) else struct.pack("<I", v) for v in inner)
            found = np.frombuffer(packed, "<f4").copy()
        elif kind == 3:
            numbers = [n for v in inner for n in (_varints(v) if isinstance(v, bytes) else [v])]
            found = np.array(numbers, dtype=np.uint64).astype(np.int64)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of a message's fields."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {EIGHT: 8, FOUR: 4}.get(kind)
        if kind == BYTES:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(f"field {number} of kind {kind} at byte {at}")
        part = data[at : at + size]
        yield number, part if kind == BYTES else int.from_bytes(part, "little")
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"a number, {value}, where a message is due")
    return value
