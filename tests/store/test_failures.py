"""What cannot be read: the run stops and resumes, or leaves it out and says so."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.store.samples import Letters
from weft.cli import app
from weft.data import load_config, read_table
from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.encoders.base import read_each
from weft.errors import UserError
from weft.store import Store, encode, inspect_store

BAD = {3: "missing", 5: "cut", 11: "text"}


def photos(folder: Path, rows: int = 12, bad: dict[int, str] = BAD) -> list[Path]:
    """Pictures; some are not there, cut off, or none."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{row}.png" for row in range(rows)]
    for row, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        if bad.get(row) == "missing":
            path.unlink()
        elif bad.get(row) == "cut":
            path.write_bytes(path.read_bytes()[:700])
        elif bad.get(row) == "text":
            path.write_text("no picture")
    return paths


def dataset(paths: list[Path], texts: Sequence[str | None] | None = None) -> Dataset:
    texts = texts or [f"text {row}" for row in range(len(paths))]
    modalities = {"photo": Modality("image", paths), "text": Modality("text", texts)}
    return Dataset(
        "d", [f"r{row}" for row in range(len(paths))], modalities, {"y": np.arange(len(paths))}, None, None, ""
    )


def made() -> dict[str, Any]:
    return {"photo": create_encoder("image-patches", "image", grid=2), "text": Letters()}


def pixels_of(store: Store, row: str) -> np.ndarray:
    return store.gather(np.array([store.ids.index(row)]))["photo"].values[0].numpy()


def test_skipped_cells_are_absent_and_reported(tmp_path: Path) -> None:
    data = dataset(photos(tmp_path / "p"))
    store = encode(data, made(), tmp_path / "store", shard_rows=4, batch_size=3, progress=False, on_error="skip")
    assert {(f.row, f.modality) for f in store.report.failures} == {(f"r{row}", "photo") for row in BAD}
    reasons = {f.row: f.why for f in store.report.failures}
    assert "No such file" in reasons["r3"]
    assert "truncated" in reasons["r5"]
    assert "cannot be read" in reasons["r11"]
    assert np.flatnonzero(~store.presence[:, 0]).tolist() == sorted(BAD)
    assert store.presence[:, 1].all()
    assert Store.open(store.folder, verify=True).failures == store.report.failures
    assert json.loads((store.folder / "failed.json").read_text())["left_out"] == []
    clean = dataset([path for row, path in enumerate(data.modalities["photo"].values) if row not in BAD])
    other = encode(clean, made(), tmp_path / "clean", dtype="fp16", progress=False)
    good = [row for row in range(12) if row not in BAD]
    rows = np.array(good)
    np.testing.assert_array_equal(store.pooled(rows)["photo"], other.pooled(np.arange(len(good)))["photo"])
    assert inspect_store(store.folder).modalities["photo"].values == 9
    assert inspect_store(store.folder).failures == {"photo": 3}


def test_rows_with_nothing_else_are_left_out(tmp_path: Path) -> None:
    data = dataset(photos(tmp_path / "p"), [None if row in (3, 5) else "words" for row in range(12)])
    store = encode(data, made(), tmp_path / "store", progress=False, on_error="skip")
    assert store.report.left_out == ["r3", "r5"]
    assert store.ids == [f"r{row}" for row in range(12) if row not in (3, 5)]
    np.testing.assert_array_equal(store.targets["y"], [row for row in range(12) if row not in (3, 5)])
    again = encode(data, made(), tmp_path / "store", progress=False, on_error="skip")
    assert again.fingerprint == store.fingerprint
    assert again.report.modalities["photo"].encoded == 0


def test_what_is_mended_comes_in_with_the_next_run(tmp_path: Path) -> None:
    paths = photos(tmp_path / "p")
    first = encode(dataset(paths), made(), tmp_path / "store", shard_rows=4, progress=False, on_error="skip")
    before = (first.folder / "photo" / "values.safetensors").read_bytes()
    photos(tmp_path / "p", bad={5: "cut"})
    store = encode(dataset(paths), made(), tmp_path / "store", shard_rows=4, progress=False, on_error="skip")
    assert [f.row for f in store.report.failures] == ["r5"]
    assert store.report.modalities["photo"].encoded == 2
    assert (store.folder / "photo" / "values.safetensors").read_bytes()[512 : len(before)] == before[512:]
    photos(tmp_path / "p", bad={})
    store = encode(dataset(paths), made(), tmp_path / "store", progress=False)
    assert store.failures == []
    assert not (store.folder / "failed.json").exists()
    whole = encode(dataset(paths), made(), tmp_path / "whole", progress=False)
    np.testing.assert_array_equal(store.pooled(np.arange(12))["photo"], whole.pooled(np.arange(12))["photo"])


def test_the_run_stops_and_goes_on_behind_what_was_written(tmp_path: Path) -> None:
    paths = photos(tmp_path / "p", bad={9: "cut"})
    with pytest.raises(UserError, match=r"(?s)row 'r9'.*9\.png.*--on-error skip"):
        encode(dataset(paths), made(), tmp_path / "store", shard_rows=4, progress=False)
    photos(tmp_path / "p", bad={})
    store = encode(dataset(paths), made(), tmp_path / "store", shard_rows=4, progress=False)
    assert store.report.modalities["photo"].reused == 8
    assert store.report.modalities["photo"].encoded == 4


def test_nothing_but_failures_is_an_error(tmp_path: Path) -> None:
    paths = photos(tmp_path / "p", 3, dict.fromkeys(range(3), "text"))
    with pytest.raises(UserError, match=r"(?s)nothing of modality 'photo'.*'r0'.*0\.png"):
        encode(dataset(paths), made(), tmp_path / "store", progress=False, on_error="skip")


class Wayward(Letters):
    """Refuses some texts, and gives NaN for others; learns the number of texts it can read."""

    seen = 0

    def fit(self, values: Sequence[Any]) -> None:
        self.seen = len(read_each(values, self._read))

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        found = super().encode(read_each(values, self._read))
        return [tokens * (np.nan if "nan" in value else 1) for tokens, value in zip(found, values, strict=True)]

    def _read(self, value: str) -> str:
        if "bad" in value:
            raise ValueError("a bad text")
        return value

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}


def test_an_encoder_may_refuse_in_learning_and_give_nan(tmp_path: Path) -> None:
    texts = ["one", "bad", "two", "nan", "bad", "three"]
    ids = [f"r{row}" for row in range(6)]
    modalities = {"text": Modality("text", texts), "n": Modality("tabular", [(1.0,)] * 6, ("n",))}
    data = Dataset("d", ids, modalities, {}, None, None, "retrieval")
    encoders = {"text": Wayward(), "n": create_encoder("columns", "tabular")}
    store = encode(data, encoders, tmp_path / "s", progress=False, on_error="skip", train_rows=np.arange(6))
    assert {f.row for f in store.report.failures} == {"r1", "r4", "r3"}
    assert store.manifest["modalities"]["text"]["state"] == {"seen": 4}
    assert len(store.report.failures) == 3
    with pytest.raises(UserError, match="bad text"):
        encode(data, encoders, tmp_path / "t", progress=False, train_rows=np.arange(6))


def table(folder: Path, rows: int = 12, bad: dict[int, str] = BAD, start: int = 0) -> Path:
    photos(folder / "p", rows + start, bad)
    path = folder / f"table{start or ''}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "photo", "vector", "label"])
        for row in range(start, start + rows):
            vector = "[1, x]" if bad.get(row) == "text" else json.dumps([float(row), 1.0])
            writer.writerow([f"r{row}", f"p/{row}.png", vector, "odd" if row % 2 else "even"])
    (folder / "weft.yaml").write_text(
        "table: table.csv\nid: id\ntarget: label\ntask: classification\nmodalities:\n"
        "  photo: {kind: image, column: photo, encoder: image-patches}\n  vector: {kind: vector, column: vector}\n"
    )
    return path


def test_cells_of_a_table_are_left_out(tmp_path: Path) -> None:
    table(tmp_path)
    config = load_config(tmp_path / "weft.yaml")
    with pytest.raises(UserError, match="--on-error skip"):
        read_table(config.table, config)
    data = read_table(config.table, config, on_error="skip")
    assert {(f.row, f.modality) for f in data.failures} == {("r3", "photo"), ("r11", "vector")}
    assert data.failures[0].why == f"the file does not exist: {tmp_path / 'p' / '3.png'}"
    runner = CliRunner()
    command = ["encode", str(tmp_path / "weft.yaml"), "-o", str(tmp_path / "store"), "--on-error", "skip"]
    done = runner.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert {(f["row"], f["modality"]) for f in said["failed"]} == {
        ("r3", "photo"), ("r5", "photo"), ("r11", "photo"), ("r11", "vector")
    }  # fmt: skip
    assert said["left_out"] == ["r11"]
    assert said["rows"] == 11
    assert said["encoded"]["photo"]["encoded"] == 9
    shown = runner.invoke(app, [*command, "-q"])
    assert "4 cells could not be read" in shown.output
    assert "failed.json" in shown.output
