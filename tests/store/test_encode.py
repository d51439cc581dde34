"""Encoding into a store: what comes back, what is kept, what is refused, and a run that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.store.samples import Letters, letters, toy, toy_encoders
from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.store import Store, encode
from weft.store.block import HEADER


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0.0), ("fp16", 1e-3), ("bf16", 1e-2)])
def test_every_row_comes_back(tmp_path: Path, dtype, tolerance):
    dataset, encoders = toy(), toy_encoders()
    store = encode(dataset, encoders, tmp_path / "store", dtype=dtype, shard_rows=7, batch_size=3)
    assert store.ids == dataset.ids
    assert list(store.dims) == list(dataset.modalities)
    for name, values in dataset.targets.items():
        np.testing.assert_array_equal(store.targets[name], values)
    np.testing.assert_array_equal(store.split, dataset.split)
    np.testing.assert_array_equal(store.group, dataset.group)
    assert (store.task, store.labels) == ("classification", {"tags": ("p", "q", "r")})
    generator = np.random.default_rng(1)
    expected_of = {
        name: [None if v is None else encoders[name].encode([v])[0] for v in modality.values]
        for name, modality in dataset.modalities.items()
    }
    for rows in (np.arange(40), generator.permutation(40), np.array([3, 3, 0]), np.array([39])):
        batch = store.gather(rows)
        for column, name in enumerate(dataset.modalities):
            for index, row in enumerate(rows):
                expected = expected_of[name][row]
                length = int(batch[name].mask[index].sum())
                assert (expected is not None) == store.presence[row, column] == (length > 0)
                if expected is not None:
                    found = batch[name].values[index, :length].numpy()
                    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=max(tolerance, 1e-5))
                assert not batch[name].values[index, length:].any()


def test_batches_are_of_like_length_and_values_encoded_once(tmp_path: Path):
    encoder = Letters()
    dataset = toy()
    store = encode(dataset, {"text": encoder}, tmp_path / "store", shard_rows=8, batch_size=4)
    texts = [t for t in dataset.modalities["text"].values if t is not None]
    seen = [text for batch in encoder.batches for text in batch]
    assert sorted(seen) == sorted(set(texts))
    sizes = [len(text) for text in seen[:8]]
    assert sizes == sorted(sizes, reverse=True)
    report = store.report.modalities["text"]
    assert (report.rows, report.values, report.encoded, report.reused) == (
        len(texts),
        len(set(texts)),
        len(set(texts)),
        0,
    )
    assert report.per_second > 0
    again = encode(dataset, {"text": Letters()}, tmp_path / "store", shard_rows=8, batch_size=4)
    assert (again.report.modalities["text"].encoded, again.report.modalities["text"].reused) == (0, len(set(texts)))
    json.dumps(again.report.to_dict())


def test_equal_files_are_one_value(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for name, data in (("a", pixels), ("b", pixels), ("c", 255 - pixels)):
        Image.fromarray(data).save(tmp_path / f"{name}.png")
    values = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png", tmp_path / "a.png", None]
    modalities = {"image": Modality("image", values), "text": Modality("text", list("pqrst"))}
    dataset = Dataset("d", list("vwxyz"), modalities, {}, None, None, "retrieval")
    store = encode(dataset, {"image": create_encoder("image-patches", "image")}, tmp_path / "store")
    assert store.manifest["modalities"]["image"]["count"] == 2
    batch = store.gather(np.arange(4))["image"].values
    torch.testing.assert_close(batch[0], batch[3])
    assert not torch.equal(batch[0], batch[2])
    assert store.presence[:, 0].tolist() == [True] * 4 + [False]


def test_unreadable_values_name_their_rows(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:2000])
    values = [tmp_path / "good.png", tmp_path / "cut.png", tmp_path / "cut.png"]
    dataset = Dataset("d", ["p", "q", "r"], {"image": Modality("image", values)}, {}, None, None, "retrieval")
    encoders = {"image": create_encoder("image-patches", "image")}
    with pytest.raises(UserError, match=r"modality 'image', row 'q', 'r'.*truncated"):
        encode(dataset, encoders, tmp_path / "store")
    with pytest.raises(UserError, match="not finished"):
        Store.open(tmp_path / "store")
    (tmp_path / "cut.png").unlink()
    with pytest.raises(UserError, match="row 'q'"):
        encode(dataset, encoders, tmp_path / "other")


def test_features_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"(?s)do not fit dtype 'fp16'.*'row-"):
        encode(toy(), {"text": Letters(scale=1e6)}, tmp_path / "a")
    assert len(encode(toy(), {"text": Letters(scale=1e6)}, tmp_path / "b", dtype="bf16")) == 40
    with pytest.raises(UserError, match=r"(?s)NaN or infinite.*'row-"):
        encode(toy(), {"text": Letters(scale=1e38)}, tmp_path / "c")


def test_stores_do_not_mix(tmp_path: Path):
    folder = tmp_path / "store"
    encode(toy(), {"text": Letters()}, folder, shard_rows=7)
    before = hashes(folder)
    with pytest.raises(UserError, match="another encoder"):
        encode(toy(), {"text": Letters(scale=2)}, folder)
    with pytest.raises(UserError, match="another dtype"):
        encode(toy(), {"text": Letters()}, folder, dtype="bf16")
    with pytest.raises(UserError, match="other values"):
        encode(toy(30), {"text": Letters()}, folder)
    with pytest.raises(UserError, match="other modalities"):
        encode(toy(), toy_encoders(), folder)
    assert hashes(folder) == before
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        encode(toy(), {"text": Letters()}, tmp_path / "used")


def test_new_labels_do_not_encode_again(tmp_path: Path):
    encode(toy(), {"text": Letters()}, tmp_path / "store")
    relabelled = replace(toy(), targets={"score": np.linspace(0, 1, 40)})
    store = encode(relabelled, {"text": Letters()}, tmp_path / "store")
    assert store.report.modalities["text"].encoded == 0
    np.testing.assert_array_equal(store.targets["score"], np.linspace(0, 1, 40))


def test_arguments_are_checked(tmp_path: Path):
    series = create_encoder("random-kernels", "series")
    for encoders, options, match in (
        ({}, {}, "nothing to encode"),
        ({"txt": Letters()}, {}, "did you mean 'text'"),
        ({"text": series}, {}, "kind 'text'"),
        ({"text": Letters()}, {"dtype": "int8"}, "fp16, bf16, fp32"),
        ({"text": Letters()}, {"batch_size": 0}, "positive"),
    ):
        with pytest.raises(UserError, match=match):
            encode(toy(), encoders, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_encoders_learn_from_training_rows_only(tmp_path: Path):
    dataset = toy()
    store = encode(dataset, {"table": create_encoder("columns", "tabular")}, tmp_path / "a")
    assert store.manifest["modalities"]["table"]["state"]["columns"][0]["mean"] == np.arange(30).mean()
    rows = np.arange(5)
    other = encode(dataset, {"table": create_encoder("columns", "tabular")}, tmp_path / "b", train_rows=rows)
    assert other.manifest["modalities"]["table"]["state"]["columns"][0]["mean"] == 2.0
    encoder = store.encoder("table")
    np.testing.assert_allclose(
        encoder.encode([dataset.modalities["table"].values[7]])[0],
        store.gather(np.array([7]))["table"].values[0],
        atol=1e-3,
    )
    with pytest.raises(UserError, match="built by hand"):
        encode(dataset, {"text": Letters()}, tmp_path / "c").encoder("text")


@pytest.mark.parametrize("damage", ["flip", "length", "cut", "delete", "header"])
def test_a_damaged_shard_is_named_and_made_anew(tmp_path: Path, damage):
    store = encode(toy(), {"text": Letters()}, tmp_path / "store", shard_rows=7)
    before = hashes(store.folder)
    shards = store.manifest["modalities"]["text"]["shards"]
    assert len(shards) == 3
    file = store.folder / "text" / ("lengths.safetensors" if damage == "length" else "values.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[HEADER + shards[0]["tokens"] * 6 + 5] ^= 1
    elif damage == "length":
        data[HEADER + 7 * 8] ^= 1
    elif damage == "header":
        data[8] ^= 0xFF
    file.write_bytes(data[: -shards[2]["tokens"] * 6 - 1] if damage == "cut" else data)
    if damage == "delete":
        file.unlink()
    first = {"delete": "shard 0 of text", "header": r"text/values\.safetensors"}.get(damage, "shard 1 of text")
    with pytest.raises(UserError, match=f"{first} is damaged"):
        Store.open(store.folder, verify=True)
    if damage != "flip":
        with pytest.raises(UserError, match="is damaged"):
            Store.open(store.folder)
    again = encode(toy(), {"text": Letters()}, store.folder, shard_rows=7)
    made = {"flip": shards[1:2], "length": shards[1:2], "cut": shards[1:], "delete": shards, "header": []}[damage]
    assert again.report.modalities["text"].encoded == sum(shard["values"] for shard in made)
    assert hashes(store.folder) == before
    Store.open(store.folder, verify=True)


def test_another_process_opens_the_files_again(tmp_path: Path):
    store = encode(toy(), toy_encoders(), tmp_path / "store", shard_rows=7).subset(["table", "text"])
    again = pickle.loads(pickle.dumps(store))
    assert list(again.dims) == ["table", "text"]
    rows = np.arange(40)[store.presence.any(axis=1)]
    for name, tokens in store.gather(rows).items():
        torch.testing.assert_close(again.gather(rows)[name].values, tokens.values)


def test_an_encoder_that_does_not_repeat_itself_is_refused(tmp_path: Path):
    store = encode(toy(), {"text": Letters()}, tmp_path / "store", shard_rows=7)
    (store.folder / "text" / "values.safetensors").unlink()

    class Longer(Letters):
        def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
            return [np.repeat(tokens, 2, axis=0) for tokens in super().encode(values)]

    with pytest.raises(UserError, match="shard 0 of text is made anew with other lengths"):
        encode(toy(), {"text": Longer()}, store.folder, shard_rows=7)


def test_a_damaged_table_or_manifest_is_named(tmp_path: Path):
    store = encode(toy(), {"text": Letters()}, tmp_path / "store")
    (store.folder / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"rows\.parquet is damaged"):
        Store.open(store.folder)
    with pytest.raises(UserError, match=r"rows\.parquet is damaged"):
        Store.open(store.folder, verify=True)
    encode(toy(), {"text": Letters()}, store.folder)
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest"):
        Store.open(store.folder)
    with pytest.raises(UserError, match="no feature store"):
        Store.open(tmp_path / "nowhere")


@pytest.mark.parametrize("which", [1, 2])
def test_a_rename_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch, which):
    """The manifest is renamed first, the table of rows second; nothing is written in place."""
    store = encode(toy(), {"text": Letters()}, tmp_path / "store")
    files = {name: (store.folder / name).read_bytes() for name in ("manifest.json", "rows.parquet")}
    calls, real = [], os.replace

    def rename(source, target):
        calls.append(Path(target).name)
        if len(calls) == which:
            raise OSError("the disk is gone")
        real(source, target)

    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(OSError, match="the disk is gone"):
        encode(replace(toy(), targets={"y": np.arange(40)}), {"text": Letters()}, store.folder)
    monkeypatch.undo()
    assert calls == ["manifest.json", "rows.parquet"][:which]
    assert (store.folder / calls[-1]).read_bytes() == files[calls[-1]]
    if which == 2:
        with pytest.raises(UserError, match=r"rows\.parquet is damaged"):
            Store.open(store.folder)
    again = encode(toy(), {"text": Letters()}, store.folder)
    assert again.report.modalities["text"].encoded == 0
    assert {name: (store.folder / name).read_bytes() for name in files} == files


SCRIPT = """
import sys
from tests.store.samples import toy, toy_encoders
from weft.store import encode
encode(toy(), toy_encoders(pause=float(sys.argv[2])), sys.argv[1], shard_rows=4, batch_size=2, progress=False)
"""


def finished(folder: Path) -> int:
    """Shards of the text that the manifest lists."""
    manifest = folder / "manifest.json"
    shards = json.loads(manifest.read_text())["modalities"]["text"]["shards"] if manifest.exists() else []
    return sum(shard is not None for shard in shards)


def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path: Path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed), "0.2"])
    deadline = time.monotonic() + 120
    while finished(killed) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= finished(killed) < 5
    with pytest.raises(UserError, match="not finished"):
        Store.open(killed)
    with (killed / "text" / "values.safetensors").open("ab") as file:
        file.write(b"half a shard")
    resumed = encode(toy(), toy_encoders(), killed, shard_rows=4, batch_size=2, progress=False)
    assert resumed.report.modalities["text"].reused >= 4
    encode(toy(), toy_encoders(), whole, shard_rows=4, batch_size=2, progress=False)
    assert hashes(killed) == hashes(whole)
    texts = toy().modalities["text"].values
    for row in np.flatnonzero(resumed.presence[:, 0]):
        tokens = resumed.gather(np.array([row]))["text"]
        np.testing.assert_array_equal(tokens.values[0].numpy(), letters(texts[row]))


TWO = """
import sys
from tests.store.samples import toy, toy_encoders
from weft.store import encode
print("ready", flush=True)
sys.stdin.readline()
store = encode(toy(), toy_encoders(pause=0.05), sys.argv[1], shard_rows=4, batch_size=2, progress=False)
print(sum(report.encoded for report in store.report.modalities.values()))
"""


def test_two_processes_encode_into_one_folder(tmp_path: Path):
    """They start together; one encodes, the other waits and finds all of it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    pair = [subprocess.Popen([sys.executable, "-c", TWO, str(tmp_path / "both")], **pipes) for _ in range(2)]
    for process in pair:
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        process.stdin.write("go\n")
        process.stdin.flush()
    encoded = sorted(int(process.communicate(timeout=240)[0]) for process in pair)
    assert [process.returncode for process in pair] == [0, 0]
    alone = encode(toy(), toy_encoders(), tmp_path / "alone", shard_rows=4, batch_size=2)
    assert encoded == [0, sum(report.values for report in alone.report.modalities.values())]
    assert hashes(tmp_path / "both") == hashes(tmp_path / "alone")
