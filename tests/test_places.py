"""Folders at URLs: whole or not there, replaced whole, copied once for each version, and nothing foreign in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

import weft
from tests.cli.test_aligned_verbs import weft as run
from tests.models.test_classical import linear
from tests.store.samples import toy
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError
from weft.models.ensemble import EnsembleModel
from weft.places import OWN, elsewhere, here
from weft.store import Store, encode


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryFileSystem]:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def copies(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").glob("*/*") if path.is_dir()]


@pytest.mark.parametrize("scheme", ["memory://bucket/models/one", "file://{}/models/one"])
def test_a_model_is_read_where_it_was_pushed(scheme: str, tmp_path: Path) -> None:
    model, features = linear("classification")
    place = scheme.format(tmp_path)
    assert model.push_to_hub(place) == place
    for again in (weft.load(place), weft.load_model(place), type(model).from_pretrained(place)):
        assert np.array_equal(again.predict(features)["probability"], model.predict(features)["probability"])
    assert len(copies(tmp_path)) == (1 if scheme.startswith("memory") else 0)  # one copy for three readers


@pytest.mark.parametrize("scheme", ["memory://rows", "file://{}/rows"])
def test_a_store_is_read_where_it_was_pushed(scheme: str, tmp_path: Path) -> None:
    data, place = toy(), scheme.format(tmp_path)
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    store = encode(data, encoders, tmp_path / "store", progress=False)
    store.push_to_hub(place)
    again = Store.open(place, verify=True)
    assert again.fingerprint == store.fingerprint
    assert weft.load(place).fitted(np.arange(20)).fingerprint == store.fitted(np.arange(20)).fingerprint


def ensemble() -> tuple[EnsembleModel, Any]:
    (one, features), (other, _) = linear("classification"), linear("classification", components=2)
    return EnsembleModel(one.task, features.dims, [one, other], [0.75, 0.25]), features


def test_a_second_push_replaces_the_first(memory: MemoryFileSystem, tmp_path: Path) -> None:
    big, features = ensemble()
    weft.push(big, "memory://models/one")
    first = weft.load("memory://models/one")
    small, _ = linear("classification")
    weft.push(small, "memory://models/one")
    assert {Path(p).name for p in memory.find("/models/one")} == {"README.md", "config.json", "model.safetensors", OWN}
    assert type(weft.load("memory://models/one")) is type(small)
    assert len(copies(tmp_path)) == 2
    assert np.array_equal(first.outputs(features), big.outputs(features))  # the copy it came from is still there


@pytest.mark.parametrize("fails_at", range(6))
def test_a_push_that_breaks_off_leaves_no_half_model(
    fails_at: int, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = linear("classification")
    new, features = ensemble()
    weft.push(old, "memory://models/one")
    put, count = MemoryFileSystem.put_file, iter(range(100))

    def breaks(self: Any, *arguments: Any, **options: Any) -> None:
        if next(count) == fails_at:
            raise OSError("the line is cut")
        put(self, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", breaks)
    with pytest.raises(UserError, match="the line is cut"):
        weft.push(new, "memory://models/one")
    if fails_at == 0:  # nothing was touched yet
        assert type(weft.load("memory://models/one")) is type(old)
    else:
        with pytest.raises(UserError, match="a file is missing"):
            weft.load("memory://models/one")
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    weft.push(new, "memory://models/one")
    assert np.array_equal(weft.load("memory://models/one").outputs(features), new.outputs(features))


def test_what_weft_did_not_publish_is_not_replaced(memory: MemoryFileSystem) -> None:
    model, _ = linear("classification")
    memory.pipe_file("/photos/cat.png", b"cat")
    with pytest.raises(UserError, match="only what weft published is replaced"):
        weft.push(model, "memory://photos")
    assert memory.find("/photos") == ["/photos/cat.png"]


def test_nothing_foreign_is_copied_and_nothing_beside_the_copy_written(
    memory: MemoryFileSystem, tmp_path: Path
) -> None:
    model, _ = linear("classification")
    weft.push(model, "memory://models/one")
    for name in ("pytorch_model.bin", "member-0/model.pkl", "../../../out.json"):
        memory.store[f"/models/one/{name}"] = type(memory.store["/models/one/config.json"])(memory, name, b"\x80")
    folder = weft.load("memory://models/one").folder
    assert {path.name for path in folder.rglob("*")} == {"README.md", "config.json", "model.safetensors"}
    assert not list(tmp_path.rglob("out.json"))


def test_a_folder_that_changes_while_it_is_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, _ = linear("classification")
    weft.push(model, "memory://models/one")
    get = MemoryFileSystem.get

    def slow(self: Any, *arguments: Any, **options: Any) -> None:
        get(self, *arguments, **options)
        weft.push(model, "memory://models/one")

    monkeypatch.setattr(MemoryFileSystem, "get", slow)
    with pytest.raises(UserError, match="it was replaced while it was read"):
        weft.load("memory://models/one")
    monkeypatch.setattr(MemoryFileSystem, "get", get)
    assert weft.load("memory://models/one").names == model.names


def test_what_a_url_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        known_implementations, "lake", {"class": "no_such_package.Lake", "err": "Install no-such-package"}
    )
    with pytest.raises(UserError, match="neither a model nor a store"):
        weft.load("nowhere")
    with pytest.raises(UserError, match="there is nothing at this URL"):
        weft.load("memory://nowhere")
    with pytest.raises(UserError, match=r"not installed[\s\S]*no-such-package"):
        weft.load("lake://bucket/model")
    with pytest.raises(UserError, match=r"cannot be used[\s\S]*Protocol not known"):
        weft.load("tapestry://bucket/model")


def test_a_path_is_a_folder_here_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert elsewhere("runs/shapes")
    assert here(Path("runs/shapes")) == Path("runs/shapes")
    (tmp_path / "runs/shapes").mkdir(parents=True)
    assert not elsewhere("runs/shapes")
    assert not elsewhere("runs/shapes/winner")
    assert not elsewhere("/runs/shapes")
    assert not elsewhere("../runs")
    assert elsewhere("s3://bucket")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = ["a,b,price", *(f"{i},{i % 7},{2 * i}" for i in range(60))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    (tmp_path / "weft.yaml").write_text(
        "table: table.csv\ntarget: price\ntask: regression\n"
        "modalities:\n  a: {kind: tabular, columns: [a]}\n  b: {kind: tabular, columns: [b]}\n"
    )
    return tmp_path / "weft.yaml"


def test_verbs_write_to_urls_and_read_from_them(table: Path, memory: MemoryFileSystem, tmp_path: Path) -> None:
    fit = ("--fusion", "concat", "--dim", 4, "--set", "epochs=1", "-q")
    run("encode", table, "-o", "memory://out/store", "-q")
    run("encode", table, "-o", tmp_path / "store", "-q")
    assert Store.open("memory://out/store").fingerprint == Store.open(tmp_path / "store").fingerprint
    run("fit", "memory://out/store", *fit, "-o", "memory://out/model")
    run("fit", tmp_path / "store", *fit, "-o", tmp_path / "model")
    run("predict", "memory://out/model", tmp_path / "table.csv", "-o", "memory://out/there.csv", "-q")
    run("predict", tmp_path / "model", tmp_path / "table.csv", "-o", tmp_path / "here.csv", "-q")
    assert memory.cat("/out/there.csv") == (tmp_path / "here.csv").read_bytes()
    assert (tmp_path / "model/last").is_dir()
    assert not [path for path in memory.find("/out") if "/last/" in path or path.endswith(".lock")]
    run("encode", table, "-o", f"file://{tmp_path}/where", "-q")
    assert Store.open(tmp_path / "where").fingerprint == Store.open(tmp_path / "store").fingerprint
    with pytest.raises(UserError, match="results are written here or to a URL"):
        run("fit", tmp_path / "store", *fit, "-o", "hub://me/model")


def test_a_verb_that_fails_writes_nothing_and_one_that_cannot_write_does_not_begin(
    table: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown fusion"):
        run("fit", table, "--fusion", "kontcat", "--store", tmp_path / "store", "-o", "memory://out/model", "-q")
    assert memory.find("/out/model") == [f"/out/model/{OWN}"]
    memory.pipe_file("/photos/cat.png", b"cat")
    with pytest.raises(UserError, match="only what weft published"):
        run("encode", table, "-o", "memory://photos", "-q")
    put = MemoryFileSystem.put_file

    def full(self: Any, path: str, *arguments: Any, **options: Any) -> None:
        if path.endswith("rows.parquet"):
            raise OSError("the bucket is full")
        put(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", full)
    with pytest.raises(UserError, match=r"the bucket is full[\s\S]*the results are in ") as caught:
        run("encode", table, "-o", "memory://out/store", "-q")
    assert len(Store.open(Path(caught.value.remedy.rpartition(" in ")[2]))) == 60
    with pytest.raises(UserError, match="no feature store"):
        Store.open("memory://out/store")
