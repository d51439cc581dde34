"""New rows in a store: the old ones keep their bytes, encoders stay as they are, and a killed run loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.store.samples import Letters, toy, toy_encoders
from tests.store.test_failures import dataset, made, photos, pixels_of, table
from weft.cli import app
from weft.data.dataset import Dataset
from weft.errors import UserError
from weft.store import Store, encode
from weft.store.block import HEADER

FILES = ("values.safetensors", "lengths.safetensors", "digests.safetensors")
QUIET: dict[str, Any] = {"shard_rows": 4, "batch_size": 3, "progress": False}


def blocks(folder: Path) -> dict[str, bytes]:
    """The bytes of every feature, without the headers that tell how many there are."""
    return {str(path): path.read_bytes()[HEADER:] for path in folder.rglob("*.safetensors") if path.name in FILES}


def old_and_all(rows: int = 40, old: int = 26) -> tuple[Dataset, Dataset]:
    data = toy(rows)
    return data.take(np.arange(old)), data


@pytest.mark.parametrize("grown", [True, False], ids=["a source that grew", "the new rows alone"])
def test_new_rows_are_encoded_and_old_ones_stay(tmp_path: Path, grown: bool) -> None:
    old, data = old_and_all()
    first = encode(old, toy_encoders(), tmp_path / "store", **QUIET)
    before, state = blocks(first.folder), {n: e["state"] for n, e in first.manifest["modalities"].items()}
    rows = np.arange(26)
    features = first.gather(rows[first.presence[rows].any(axis=1)])
    more = data if grown else data.take(np.arange(26, 40))
    store = encode(more, toy_encoders(), tmp_path / "store", append=True, **QUIET)
    after = blocks(first.folder)
    assert all(after[path].startswith(content) for path, content in before.items())
    assert {n: e["state"] for n, e in store.manifest["modalities"].items()} == state
    assert store.ids == data.ids
    for name in ("label", "count", "tags"):
        np.testing.assert_array_equal(store.targets[name], data.targets[name])
    np.testing.assert_array_equal(store.split, data.split)
    np.testing.assert_array_equal(store.group, data.group)
    for name, tokens in store.gather(rows[store.presence[rows].any(axis=1)]).items():
        np.testing.assert_array_equal(tokens.values, features[name].values)
    for name in store.dims:
        encoder = store.encoder(name) if name != "text" else Letters()
        for row in range(26, 40):
            value, tokens = data.modalities[name].values[row], store.gather(np.array([row]))[name]
            assert (value is None) == (not tokens.mask.any())
            if value is not None:
                np.testing.assert_allclose(tokens.values[0], encoder.encode([value])[0], atol=2e-3, rtol=1e-3)
    texts = set(data.modalities["text"].values[26:]) - set(old.modalities["text"].values) - {None}
    assert store.report.modalities["text"].encoded == len(texts)
    again = encode(more, toy_encoders(), tmp_path / "store", append=True, **QUIET)
    assert sum(report.encoded for report in again.report.modalities.values()) == 0
    assert blocks(first.folder) == after
    assert again.fingerprint == store.fingerprint != first.fingerprint
    Store.open(store.folder, verify=True)


def test_encoders_are_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, data = old_and_all()
    encode(old, toy_encoders(), tmp_path / "store", **QUIET)

    def learn(self: object, values: object) -> None:
        raise AssertionError("learned again")

    monkeypatch.setattr("weft.encoders.columns.Columns.fit", learn)
    encode(data, toy_encoders(), tmp_path / "store", append=True, **QUIET)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"(?s)features of other values.*--append"):
        encode(toy(44), toy_encoders(), tmp_path / "store", **QUIET)


def test_a_refit_on_other_rows_knows_the_new_ones(tmp_path: Path) -> None:
    old, data = old_and_all()
    encode(old, {"table": toy_encoders()["table"]}, tmp_path / "a", dtype="fp32", **QUIET)
    grown = encode(data, {"table": toy_encoders()["table"]}, tmp_path / "a", dtype="fp32", append=True, **QUIET)
    whole = encode(data, {"table": toy_encoders()["table"]}, tmp_path / "b", dtype="fp32", **QUIET)
    rows = np.arange(10, 33)
    np.testing.assert_array_equal(
        grown.fitted(rows).pooled(np.arange(40))["table"], whole.fitted(rows).pooled(np.arange(40))["table"]
    )


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    old, data = old_and_all()
    folder = tmp_path / "store"
    encode(old, {"text": Letters()}, folder, **QUIET)
    before = blocks(folder), (folder / "rows.parquet").read_bytes()

    def add(rows: Dataset, encoder: Letters | None = None, **options: Any) -> None:
        encode(rows, {"text": encoder or Letters()}, folder, append=True, **{**QUIET, **options})

    with pytest.raises(UserError, match="another encoder"):
        add(data, Letters(scale=2))
    with pytest.raises(UserError, match="another dtype"):
        add(data, dtype="bf16")
    with pytest.raises(UserError, match="other modalities"):
        encode(data, toy_encoders(), folder, append=True, **QUIET)
    with pytest.raises(UserError, match=r"(?s)another target 'label'.*'row-0'.*ids of their own"):
        add(replace(data.take(np.arange(26, 40)), ids=[f"row-{row}" for row in range(14)]))
    texts = replace(data.modalities["text"], values=["other", *data.modalities["text"].values[1:]])
    with pytest.raises(UserError, match=r"(?s)hold something else.*'row-0'.*ids of their own"):
        add(replace(data, modalities={**data.modalities, "text": texts}))
    with pytest.raises(UserError, match="same target, split and group"):
        add(replace(data, group=None))
    with pytest.raises(UserError, match="another type"):
        add(replace(data, targets={**data.targets, "count": np.array(["x"] * 40)}))
    with pytest.raises(UserError, match=r"(?s)another target 'count'.*'row-3'"):
        add(replace(data, targets={**data.targets, "count": np.where(np.arange(40) == 3, -1, np.arange(40))}))
    with pytest.raises(UserError, match="task and labels"):
        add(replace(data, labels={"tags": ("p", "q", "z")}))
    assert before == (blocks(folder), (folder / "rows.parquet").read_bytes())
    assert Store.open(folder).ids == old.ids


@pytest.mark.parametrize(("method", "part"), [("grouped", "train"), ("temporal", "test")])
def test_a_split_that_was_drawn_stays(tmp_path: Path, method: str, part: str) -> None:
    """Rows of a group that is there (two rows make one) go with it, others to the part that spoils nothing."""
    data = toy(40)
    drawn = {"splits": {"method": method}, "classes": {}}
    split = np.array(["train", "train", "test", "dev", "test"] * 5)
    old = replace(data.take(np.arange(25)), table=drawn, split=split)
    encode(old, {"text": Letters()}, tmp_path / "s", **QUIET)
    store = encode(replace(data, table=drawn), {"text": Letters()}, tmp_path / "s", append=True, **QUIET)
    assert store.split[:25].tolist() == split.tolist()
    assert store.split[25:].tolist() == ["test", *[part] * 14]


def test_failures_and_new_rows_go_together(tmp_path: Path) -> None:
    paths = photos(tmp_path / "p", 20)
    data = dataset(paths)
    encode(data.take(np.arange(12)), made(), tmp_path / "store", on_error="skip", **QUIET)
    photos(tmp_path / "p", 20, {5: "cut", 13: "text"})
    store = encode(data.take(np.arange(10, 20)), made(), tmp_path / "store", append=True, on_error="skip", **QUIET)
    assert [f.row for f in store.failures] == ["r3", "r5", "r13"]
    store = encode(data, made(), tmp_path / "store", append=True, on_error="skip", **QUIET)
    assert [f.row for f in store.failures] == ["r5", "r13"]
    whole = encode(data, made(), tmp_path / "whole", on_error="skip", **QUIET)
    assert store.presence.tolist() == whole.presence.tolist()
    for row in store.ids:
        np.testing.assert_array_equal(pixels_of(store, row), pixels_of(whole, row))


SCRIPT = """
import sys
from tests.store.test_append import QUIET, old_and_all
from tests.store.samples import Letters
from weft.store import encode
encode(old_and_all(400, 26)[1], {"text": Letters(pause=0.1)}, sys.argv[1], append=True, **QUIET)
"""


def test_a_killed_run_leaves_the_old_rows_and_goes_on(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    old, data = old_and_all(400, 26)
    for folder in (killed, whole):
        first = encode(old, {"text": Letters()}, folder, **QUIET)
    shards = len(first.manifest["modalities"]["text"]["shards"])
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed)])
    deadline = time.monotonic() + 120

    def finished() -> int:
        return len(json.loads((killed / "manifest.json").read_text())["modalities"]["text"]["shards"])

    while finished() < shards + 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert finished() >= shards + 1
    plain = encode(old, {"text": Letters()}, killed, **QUIET)
    assert plain.ids == old.ids
    assert plain.report.modalities["text"].encoded == 0
    resumed = encode(data, {"text": Letters()}, killed, append=True, **QUIET)
    encode(data, {"text": Letters()}, whole, append=True, **QUIET)
    assert blocks(killed).values() != []
    assert [*blocks(killed).values()] == [*blocks(whole).values()]
    assert (killed / "rows.parquet").read_bytes() == (whole / "rows.parquet").read_bytes()
    assert resumed.ids == data.ids


def test_a_kill_between_the_manifest_and_the_rows(tmp_path: Path) -> None:
    old, data = old_and_all()
    encode(old, {"text": Letters()}, tmp_path / "s", **QUIET)
    rows = (tmp_path / "s" / "rows.parquet").read_bytes()
    store = encode(data, {"text": Letters()}, tmp_path / "s", append=True, **QUIET)
    (tmp_path / "s" / "rows.parquet").write_bytes(rows)
    with pytest.raises(UserError, match="encode again"):
        Store.open(tmp_path / "s")
    again = encode(data.take(np.arange(26, 40)), {"text": Letters()}, tmp_path / "s", append=True, **QUIET)
    assert again.fingerprint == store.fingerprint
    (tmp_path / "s" / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="none can be added"):
        encode(data, {"text": Letters()}, tmp_path / "s", append=True, **QUIET)


def test_a_table_of_new_rows_is_read_as_the_old_one_was(tmp_path: Path) -> None:
    """The label of the new rows is one, and the numbers of one class look like any others: the store knows better."""
    runner, store = CliRunner(), str(tmp_path / "store")
    table(tmp_path, bad={})
    assert runner.invoke(app, ["encode", str(tmp_path / "weft.yaml"), "-o", store, "-q"]).exit_code == 0
    new = table(tmp_path, rows=1, start=12, bad={})
    done = runner.invoke(app, ["encode", str(new), "-o", store, "--append", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 13
    opened = Store.open(store)
    assert opened.ids[-1] == "r12"
    assert opened.targets["label"].tolist() == ["even", "odd"] * 6 + ["even"]
    new.write_text(new.read_text().replace("even", "neither").replace("r12", "r13"))
    done = runner.invoke(app, ["encode", str(new), "-o", store, "--append", "--json"])
    assert done.exit_code == 0, done.output
    assert Store.open(store).targets["label"][-1] == "neither"
    assert "neither" in Store.open(store).manifest["table"]["classes"]["label"]
    yaml = tmp_path / "weft.yaml"
    yaml.write_text(yaml.read_text().replace("table.csv", new.name))
    assert runner.invoke(app, ["encode", str(yaml), "-o", store, "--append", "-q"]).exit_code == 0
    yaml.write_text(yaml.read_text().replace("image-patches", "image-patches, options: {grid: 3}"))
    done = runner.invoke(app, ["encode", str(yaml), "-o", store, "--append", "-q"])
    assert "another encoder" in str(done.exception)
    done = runner.invoke(app, ["encode", "shapes", "--data", "rows=30", "-o", str(tmp_path / "shapes"), "-q"])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["encode", str(new), "-o", str(tmp_path / "shapes"), "--append"])
    assert "made of a table" in str(done.exception)
