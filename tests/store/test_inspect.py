"""The report on a store, against counts made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.store.samples import Letters, toy, toy_encoders
from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.ops.neighbours import mutual_knn
from weft.store import encode, inspect_store

TEXTS = ["ab", "ab", "c", None, "ab", "defg", "c", "h"]
VECTORS = [[3.0, 4.0], [3.0, 4.0], [0.0, 1.0], [0.0, 1.0], None, [3.0, 4.0], [0.0, 1.0], None]


@pytest.fixture
def store(tmp_path: Path):
    vectors = [None if v is None else np.array(v) for v in VECTORS]
    dataset = Dataset(
        name="by hand",
        ids=[f"r{i}" for i in range(8)],
        modalities={"text": Modality("text", TEXTS), "vector": Modality("vector", vectors)},
        targets={"y": np.arange(8)},
        split=np.array(["train"] * 4 + ["dev"] + ["test"] * 3),
        group=np.array([0, 0, 1, 1, 2, 1, 3, 3]),
        task="regression",
    )
    encoders = {"text": Letters(), "vector": create_encoder("precomputed", "vector")}
    return encode(dataset, encoders, tmp_path / "store", dtype="fp32", shard_rows=3)


def test_the_report_counts_right(store):
    report = inspect_store(store.folder)
    assert (report.rows, report.splits) == (8, {"train": 4, "dev": 1, "test": 3})
    assert report.presence == [(["text", "vector"], 5), (["text"], 2), (["vector"], 1)]
    text, vector = report.modalities["text"], report.modalities["vector"]
    assert (text.present, text.values, text.width, text.dtype) == (7, 4, 3, "fp32")
    assert (text.tokens["min"], text.tokens["median"], text.tokens["max"]) == (1, 2, 4)
    assert text.duplicates == 3
    assert text.leaks == {"dev": 1, "test": 1}
    assert (vector.duplicates, vector.leaks) == (4, {"test": 2})
    assert vector.norms == {"mean": 3.0, "std": 2.0, "min": 1.0, "max": 5.0}
    assert report.duplicates == 2
    assert report.leaks == {"test": 1}
    assert report.leaking_ids == ["r6"]
    assert report.group_leaks == 1
    assert text.not_finite == 0
    assert text.bytes == sum(p.stat().st_size for p in (store.folder / "text").iterdir())
    assert report.bytes > text.bytes + vector.bytes


def test_the_report_is_json_and_text(store):
    report = inspect_store(store.folder)
    assert json.loads(json.dumps(report.to_dict()))["modalities"]["text"]["encoder"]["name"] == "letters"
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(report.render())
    for expected in ("by hand (regression): 8 rows", "letters", "text + vector", "dev 1, test 1"):
        assert expected in captured.get()


def test_a_damaged_shard_is_named(store):
    file = store.folder / "vector" / "values.safetensors"
    data = bytearray(file.read_bytes())
    data[0:8] = b"\xff" * 8
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"vector/values\.safetensors is damaged"):
        inspect_store(store.folder)


def test_neighbours_that_two_modalities_share(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype(np.float32)
    views = {"x": x, "turned": x @ np.linalg.qr(rng.normal(size=(6, 6)))[0], "noise": rng.normal(size=(80, 6))}
    views = {name: list(v.astype(np.float32)) for name, v in views.items()}
    views["noise"][3] = None
    split = np.array(["train"] * 60 + ["test"] * 20)
    dataset = Dataset(
        name="views", ids=[f"r{i}" for i in range(80)], targets={}, split=split, group=np.arange(80) // 2,
        task="retrieval", modalities={n: Modality("vector", v) for n, v in views.items()},
    )  # fmt: skip
    encode(dataset, {n: create_encoder("precomputed", "vector") for n in views}, tmp_path, dtype="fp32")
    report = inspect_store(tmp_path)
    assert {pair: found["rows"] for pair, found in report.neighbours.items()} == {
        "x, turned": 30,
        "x, noise": 30,
        "turned, noise": 30,
    }, "training rows, one of a group"
    assert report.neighbours["x, turned"]["overlap"] == pytest.approx(1.0)
    assert report.neighbours["x, noise"]["overlap"] < 0.5
    console = Console(record=True, width=200)
    console.print(report.render())
    assert "nearest neighbours that x, turned share" in console.export_text()


class Layered(type(create_encoder("precomputed", "vector"))):
    """Two layers side by side, as a frozen network with ``layer=[5, 2]`` gives them."""

    def identity(self):
        return {**super().identity(), "layer": [5, 2]}


def test_the_layers_that_go_together_are_named(tmp_path):
    rng = np.random.default_rng(0)
    x, noise, more = (rng.normal(size=(60, 4)) for _ in range(3))
    turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    views = {"a": np.hstack([noise, x]), "b": np.hstack([turned, more]), "c": turned}
    dataset = Dataset(
        name="layers", ids=[f"r{i}" for i in range(60)], targets={}, group=None,
        split=np.array(["train"] * 50 + ["test"] * 10),
        modalities={n: Modality("vector", list(v.astype(np.float32))) for n, v in views.items()}, task="retrieval",
    )  # fmt: skip
    encoders = {"a": Layered(), "b": Layered(), "c": create_encoder("precomputed", "vector")}
    encode(dataset, encoders, tmp_path, dtype="fp32")
    report = inspect_store(tmp_path)
    assert list(report.layers) == ["a, b", "a, c", "b, c"]
    assert len(report.layers["a, b"]) == 4
    assert [next(iter(pairs)) for pairs in report.layers.values()] == [
        "a layer 2, b layer 5",
        "a layer 2, c",
        "b layer 5, c",
    ]
    assert report.layers["a, b"]["a layer 2, b layer 5"] == pytest.approx(1.0)
    k = report.neighbours["a, b"]["k"]
    parts = (torch.tensor(v.astype(np.float32))[:50] for v in (noise, more))
    assert report.layers["a, b"]["a layer 5, b layer 2"] == pytest.approx(mutual_knn(*parts, k))
    console = Console(record=True, width=200)
    console.print(report.render())
    assert "layers of a, b that share most, of 4" in console.export_text()


def test_leaks_are_counted_where_the_rows_have_no_split(tmp_path: Path) -> None:
    data = toy(40)
    same = Modality("text", ["the same"] * 40)
    bare = replace(data, modalities={**data.modalities, "text": same}, split=None, group=None, targets={})
    report = inspect_store(encode(bare, toy_encoders(), tmp_path / "store", progress=False).folder)
    assert report.splits == {}
    assert sum(report.modalities["text"].leaks.values()) == 12
    assert report.modalities["table"].leaks == {}
