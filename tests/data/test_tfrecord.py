"""TFRecord files: records of an independent writer, of this file's own, and damaged ones."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest

from weft.data.tfrecord import masked_checksum, read_example, read_records
from weft.errors import UserError

WRITTEN = (
    "bAAAAAAAAAD12rDXCmoKEQoFbWFnaWMSCBIGCgQAAIA+CiIKB3Rva19pZHMSFxoVChMBrAL7//////////8BgICAgIAgChoKDWltYWdlL2VuY29k"
    "ZWQSCQoHCgUA/2FiYwoVCgV0aW1lcxIMEgoKCAAAAD8AAKC/DETmmCAAAAAAAAAAKe2pUAoeCgsKBWVtcHR5EgIaAAoPCgNzcmMSCAoGCgRmaWxt"
    "qfrH1A=="
)
"""Two records that the library tfrecord 1.14.6 wrote."""


def varint(value: int) -> bytes:
    value %= 2**64
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(values: dict[str, object]) -> bytes:
    """An Example with lists that are not packed, as older writers leave them."""
    entries = b""
    for name, value in values.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif isinstance(value[0], float):
            feature = field(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", x) for x in value))
        else:
            feature = field(3, b"".join(varint(1 << 3) + varint(x) for x in value))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def record(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return size + struct.pack("<I", masked_checksum(size)) + data + struct.pack("<I", masked_checksum(data))


def test_what_another_library_wrote(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(base64.b64decode(WRITTEN))
    first, second = (read_example(data) for data in read_records(path))
    assert first["image/encoded"] == [b"\x00\xffabc"]
    np.testing.assert_array_equal(first["magic"], np.float32([0.25]))
    np.testing.assert_array_equal(first["times"], np.float32([0.5, -1.25]))
    assert first["tok_ids"].tolist() == [1, 300, -5, 2**40]
    assert second["empty"].tolist() == []
    assert second["src"] == [b"film"]


def test_what_is_written_here(tmp_path):
    given = {"a": b"\x01\x02", "b": [0.5, 2.0], "c": [0, -1, 2**62], "film": "\u00e9".encode()}
    path = tmp_path / "x.tfrecord"
    path.write_bytes(record(example(given)) + record(b""))
    found, empty = (read_example(data) for data in read_records(path))
    assert (found["a"], found["film"]) == ([b"\x01\x02"], ["\u00e9".encode()])
    assert (found["b"].tolist(), found["c"].tolist()) == (given["b"], given["c"])
    assert empty == {}


def test_damage_is_named(tmp_path):
    path = tmp_path / "x.tfrecord"
    whole = record(example({"a": [1]})) + record(example({"a": [2]}))
    for damaged in (whole[:-1], whole[:-20], whole[:40] + b"\x99" + whole[41:], whole + b"\x01"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"record [012], at byte"):
            list(read_records(path))
    with pytest.raises(UserError, match="is missing"):
        list(read_records(tmp_path / "none"))
    for other in (b"\xff\xff", b"\x0a\x05ab", b"\x0b", b"\x08\x01" + b"\x0a\x02\x08\x01"):
        with pytest.raises(UserError, match="is an Example"):
            read_example(other)
