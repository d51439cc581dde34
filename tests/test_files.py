"""Files are replaced whole or not at all, JSON is JSON, and a lock holds between processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from weft.errors import UserError
from weft.files import (
    lock,
    read_json,
    read_tensors,
    replacing,
    to_json,
    write_bytes,
    write_json,
    write_tensors,
    write_tensors_in_turn,
)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    write_json(path, {"old": 1})

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_json_has_neither_nan_nor_infinity():
    value = {"a": float("nan"), "b": [np.float32("inf"), 1], "c": np.array([np.nan, 2.0]), 3: torch.tensor([1.0])}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, 1], "c": [None, 2.0], "3": [1.0]}


def test_tensors_and_text_come_back(tmp_path):
    write_tensors(tmp_path / "deep" / "t.safetensors", {"x": torch.arange(3)}, {"about": "[b]"})
    tensors, about = read_tensors(tmp_path / "deep" / "t.safetensors")
    assert tensors["x"].tolist() == [0, 1, 2]
    assert about == {"about": "[b]"}
    assert (tmp_path / "deep" / "t.safetensors").read_bytes() == save({"x": torch.arange(3)}, {"about": "[b]"})
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["t.safetensors"]


def test_tensors_are_written_one_after_the_other(tmp_path: Path) -> None:
    """Of every type, empty, without axes, sharing memory; each is asked for once, in their order."""
    x = torch.randn(3, 4)
    kinds = (
        torch.float64,
        torch.int64,
        torch.float32,
        torch.int32,
        torch.bfloat16,
        torch.float16,
        torch.uint8,
        torch.bool,
    )
    tensors = {str(kind): (10 * x).to(kind) for kind in kinds}
    tensors |= {"row": x[1], "turned": x.t(), "number": torch.tensor(7.0), "none": torch.zeros(0, 2)}
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    asked: list[torch.Tensor] = []

    def ask(shape: torch.Tensor) -> torch.Tensor:
        asked.append(shape)
        return next(tensor for tensor in tensors.values() if tensor is shape)

    write_tensors_in_turn(tmp_path / "deep" / "t.safetensors", tensors, ask, {"about": "[b]"})
    found, about = read_tensors(tmp_path / "deep" / "t.safetensors")
    assert about == {"about": "[b]"}
    assert [id(tensor) for tensor in asked] == [id(tensor) for tensor in tensors.values()]
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_missing_and_damaged_files_are_named(tmp_path):
    write_bytes(tmp_path / "bad", b"\xff{")
    for read in (read_json, read_tensors):
        with pytest.raises(UserError, match="missing"):
            read(tmp_path / "gone")
        with pytest.raises(UserError, match="damaged"):
            read(tmp_path / "bad")


def test_a_lock_holds_against_another_process_and_is_freed_by_its_death(tmp_path):
    code = """import pathlib, sys, time; from weft.files import lock
with lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "l")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process"), lock(tmp_path / "l", seconds=0.1):
        pass
    holder.kill()
    holder.wait()
    with lock(tmp_path / "l", seconds=5):
        pass


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing(folder) as fresh:
        (fresh / "a").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(folder) as fresh:
        (fresh / "gone" / "a").write_text("half")
    assert (folder / "a").read_text() == "old"
    with replacing(folder) as fresh:
        (fresh / "b").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in folder.iterdir()] == ["b"]
