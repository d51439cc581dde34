"""Tables: three formats give the same samples, configurations go through YAML, and every mistake names its row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from weft.data import Dataset, TableConfig, guess_table, load_config, make_splits, read_table, to_commented_yaml
from weft.errors import UserError

FORMATS = ("csv", "tsv", "parquet", "jsonl")
Rows = list[dict[str, Any]]


def cell(value: Any) -> str:
    """A value as people write it into CSV."""
    return "" if value is None else json.dumps(value) if isinstance(value, list) else str(value)


def write(rows: Rows, path: Path) -> Path:
    names = list(rows[0])
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table({n: [row[n] for row in rows] for n in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([names, *([cell(row[n]) for n in names] for row in rows)])
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Twelve rows with every kind; each modality is absent in one of them."""
    random = np.random.default_rng(0)
    made: Rows = []
    for i in range(12):
        Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(tmp_path / f"photo {i}.png")
        (tmp_path / f"{i}.wav").write_bytes(b"not opened when the table is read")
        np.save(tmp_path / f"{i}.npy", random.normal(size=(4 + i, 3)).astype(np.float32))
        made.append(
            {
                "key": f"row-{i}",
                "part": ["train", "val", "test"][i % 3],
                "patient": 100 + i % 3,
                "photo": f"photo {i}.png",
                "note": f'a "quoted", long note\nnumber {i} — ü',
                "voice": f"{i}.wav",
                "track": f"{i}.npy",
                "embedding": random.normal(size=5).round(6).tolist(),
                "steps": random.normal(size=(3 + i % 2, 2)).round(6).tolist(),
                "t0": i / 2,
                "t1": i / 4,
                "age": 20 + i,
                "city": ["Oslo", "Rome"][i % 2],
                "sick": i % 2 == 0,
                "stage": i % 4,
                "cost": 1.5 * i,
                "tags": [["a"], ["a", "b"], ["c"]][i % 3],
            }
        )
    for i, name in enumerate(["photo", "note", "voice", "track", "embedding", "steps"]):
        made[i + 1][name] = None
    made[8]["age"] = None
    made[9]["age"] = made[9]["city"] = None
    return made


def config(**changes: Any) -> TableConfig:
    return TableConfig(
        **{
            "table": "t.csv",
            "id": "key",
            "split": "part",
            "group": "patient",
            "target": ["stage", "city"],
            "task": "classification",
            "modalities": {
                "photo": {"kind": "image", "column": "photo"},
                "note": {"kind": "text", "column": "note"},
            },
            **changes,
        }
    )


ALL = {
    "photo": {"kind": "image", "column": "photo"},
    "note": {"kind": "text", "column": "note"},
    "voice": {"kind": "audio", "column": "voice"},
    "track": {"kind": "series", "column": "track"},
    "embedding": {"kind": "vector", "column": "embedding"},
    "steps": {"kind": "tokens", "column": "steps"},
    "slow": {"kind": "series", "columns": ["t0", "t1"]},
    "facts": {"kind": "tabular", "columns": ["age", "city", "sick"]},
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def test_formats_agree(rows: Rows, tmp_path: Path) -> None:
    chosen = config(modalities=ALL, target=["stage", "sick"])
    first, *others = [read_table(write(rows, tmp_path / f"t.{suffix}"), chosen) for suffix in FORMATS]
    for other in others:
        assert other.ids == first.ids
        for name, modality in first.modalities.items():
            pairs = zip(modality.values, other.modalities[name].values, strict=True)
            assert all(same(a, b) for a, b in pairs), name
        for name, target in first.targets.items():
            assert same(target, other.targets[name]), name
        assert same(first.split, other.split)
        assert same(first.group, other.group)


@pytest.mark.parametrize("suffix", FORMATS)
def test_values(rows: Rows, tmp_path: Path, suffix: str) -> None:
    data = read_table(write(rows, tmp_path / f"t.{suffix}"), config(modalities=ALL, target="stage"))
    assert data.name == "t"
    assert data.ids == [f"row-{i}" for i in range(12)]
    values = {name: m.values for name, m in data.modalities.items()}
    assert values["photo"][:2] == [tmp_path / "photo 0.png", None]
    assert values["note"][1:4:2] == [rows[1]["note"], rows[3]["note"]]
    assert values["note"][2] is None
    assert values["voice"][0] == tmp_path / "0.wav"
    np.testing.assert_array_equal(values["track"][7], np.load(tmp_path / "7.npy"))
    np.testing.assert_allclose(values["embedding"][0], rows[0]["embedding"], rtol=1e-6)
    assert values["embedding"][5] is None
    np.testing.assert_allclose(values["steps"][3], rows[3]["steps"], rtol=1e-6)
    np.testing.assert_array_equal(values["slow"][3], np.float32([[1.5], [0.75]]))
    assert data.modalities["facts"].fields == ("age", "city", "sick")
    assert values["facts"][0] == (20.0, "Oslo", "True")
    assert values["facts"][8] == (None, "Oslo", "True")
    assert values["facts"][9] == (None, None, "False")


def test_roles(rows: Rows, tmp_path: Path) -> None:
    rows[9]["city"] = "Rome"
    data = read_table(write(rows, tmp_path / "t.csv"), config())
    assert list(data.targets) == ["stage", "city"]
    assert data.targets["stage"].tolist() == [0, 1, 2, 3] * 3
    assert data.targets["stage"].dtype == np.int64
    assert data.targets["city"].tolist() == ["Oslo", "Rome"] * 6
    assert data.split is not None
    assert data.split.tolist() == ["train", "dev", "test"] * 4
    assert data.group is not None
    assert data.group.tolist() == ["100", "101", "102"] * 4
    numbered = read_table(tmp_path / "t.csv", config(id=None))
    assert numbered.ids == [str(i) for i in range(12)]
    cost = read_table(tmp_path / "t.csv", config(target="cost", task="regression")).targets["cost"]
    np.testing.assert_array_equal(cost, 1.5 * np.arange(12))


def test_series_of_several_channels(tmp_path: Path) -> None:
    table = [{"x": [1, 2, 3], "y": [4, 5, 6], "label": i} for i in range(3)]
    chosen = config(
        id=None, split=None, group=None, target="label", modalities={"m": {"kind": "series", "columns": ["x", "y"]}}
    )
    for suffix in FORMATS:
        data = read_table(write(table, tmp_path / f"t.{suffix}"), chosen)
        np.testing.assert_array_equal(data.modalities["m"].values[0], [[1, 4], [2, 5], [3, 6]])


@pytest.mark.parametrize("suffix", FORMATS)
def test_multilabel(rows: Rows, tmp_path: Path, suffix: str) -> None:
    rows[5]["tags"] = None
    path = write(rows, tmp_path / f"t.{suffix}")
    data = read_table(path, config(target="tags", task="multilabel"))
    assert data.labels == {"tags": ("a", "b", "c")}
    assert data.targets["tags"][:6].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    ordered = read_table(path, config(target="tags", task="multilabel", labels=["c", "b", "a", "z"]))
    assert ordered.targets["tags"][1].tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match="row-2: c"):
        read_table(path, config(target="tags", task="multilabel", labels=["a", "b"]))


def test_multilabel_words_in_one_cell(tmp_path: Path) -> None:
    table = [{"note": "x", "tags": "a|b"}, {"note": "y", "tags": "b; c"}]
    chosen = {"id": None, "split": None, "group": None, "target": "tags", "task": "multilabel"}
    data = read_table(
        write(table, tmp_path / "t.csv"), config(**chosen, modalities={"note": {"kind": "text", "column": "note"}})
    )
    assert data.targets["tags"].tolist() == [[1, 1, 0], [0, 1, 1]]


def test_images_embedded_as_hugging_face_writes_them(tmp_path: Path) -> None:
    def png(level: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (5, 5), level).save(buffer, "png")
        return buffer.getvalue()

    table = [{"photo": {"bytes": png(i), "path": None}, "label": i % 2} for i in range(4)]
    write(table, tmp_path / "t.parquet")
    guessed = guess_table(tmp_path / "t.parquet")
    assert guessed.modalities["photo"].kind == "image"
    data = read_table(tmp_path / "t.parquet", guessed.model_copy(update={"splits": None}))
    data.verify("photo")
    assert [np.asarray(image)[0, 0] for image in data.modalities["photo"].values] == [0, 1, 2, 3]


def change(name: str, row: int, value: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[row].__setitem__(name, value)


def every(name: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: [row.__setitem__(name, value) for row in rows] and None


def only(name: str) -> dict[str, Any]:
    return {"target": "stage", "modalities": {name: ALL[name], "note2": {"kind": "text", "column": "key"}}}


MISTAKES: list[tuple[Callable[[Rows], None], dict[str, Any], str]] = [
    (change("key", 3, "row-1"), {}, "more than once: 'row-1'"),
    (change("key", 3, None), {}, r"empty ids(.|\n)*rows 3"),
    (change("part", 3, "holdout"), {}, "row-3: holdout"),
    (change("part", 3, None), {}, "row-3: none"),
    (change("patient", 3, None), {}, r"group column(.|\n)*'row-3'"),
    (every("stage", None), {"target": "stage"}, r"missing in every row(.|\n)*retrieval"),
    (change("photo", 3, "gone.png"), {"target": "stage"}, r"'row-3'(.|\n)*gone\.png"),
    (every("note", " "), {"target": "stage"}, "'note' is empty in every row"),
    (change("embedding", 3, [1.0, 2.0]), only("embedding"), "mostly 5, but 'row-3: 2'"),
    (change("embedding", 3, [1.0, None, 2.0, 3.0, 4.0]), only("embedding"), r"'row-3'(.|\n)*1 of 5, at 1"),
    (change("steps", 3, [[1.0, 2.0], [3.0]]), only("steps"), "'row-3'(.|\n)*equal lengths"),
    (change("track", 4, "gone.npy"), only("track"), r"'row-4'(.|\n)*gone\.npy"),
    (change("t1", 4, None), only("slow"), "'row-4'(.|\n)*1 of 2"),
    (every("city", "x"), {"target": "city", "task": "regression"}, "no finite numbers(.|\n)*12 rows: 'row-0: x'"),
]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("spoil", "changes", "message"), MISTAKES)
def test_mistakes_name_their_rows(
    rows: Rows, tmp_path: Path, suffix: str, spoil: Callable[[Rows], None], changes: dict[str, Any], message: str
) -> None:
    spoil(rows)
    rows[9]["city"] = rows[9]["city"] or "Rome"
    with pytest.raises(UserError, match=message):
        read_table(write(rows, tmp_path / f"t.{suffix}"), config(**changes))


def test_infinite_and_textual_arrays(rows: Rows, tmp_path: Path) -> None:
    rows[2]["embedding"] = "[1, 2, Infinity, 4, NaN]"
    with pytest.raises(UserError, match=r"'row-2'(.|\n)*2 of 5, at 2, 4"):
        read_table(write(rows, tmp_path / "t.csv"), config(**only("embedding")))
    rows[2]["embedding"] = "one two"
    with pytest.raises(UserError, match=r"'row-2': a vector is a list of numbers(.|\n)*one two"):
        read_table(write(rows, tmp_path / "t.csv"), config(**only("embedding")))
    np.save(tmp_path / "gap.npy", np.array([[1.0, np.nan]]))
    rows[2]["embedding"] = None
    rows[3]["track"] = "gap.npy"
    with pytest.raises(UserError, match=r"'row-3'(.|\n)*at \(0, 1\)"):
        read_table(write(rows, tmp_path / "t.csv"), config(**only("track")))


def test_truncated_images_are_found_when_read(rows: Rows, tmp_path: Path) -> None:
    photo = tmp_path / "photo 4.png"
    photo.write_bytes(photo.read_bytes()[:60])
    data = read_table(write(rows, tmp_path / "t.csv"), config(target="stage"))
    with pytest.raises(UserError, match=r"'photo', row 'row-4'(.|\n)*photo 4\.png"):
        data.verify("photo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "stag"}, r"no column 'stag' \(target\)(.|\n)*did you mean 'stage'"),
        ({"id": "keys"}, r"\(id\)(.|\n)*did you mean 'key'"),
        ({"modalities": {"m": {"kind": "image", "column": "foto"}}}, r"modality 'm'(.|\n)*did you mean 'photo'"),
        ({"split": "prat"}, "did you mean 'part'"),
    ],
)
def test_missing_columns(rows: Rows, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(write(rows, tmp_path / "t.csv"), config(**{"target": "stage", **changes}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "cannot be read"),
        ("t.csv", b"key,note\n", "no rows"),
        ("t.csv", b"key,note\n1,2,3\n", "cannot be read"),
        ("t.parquet", b"PAR1 broken", "cannot be read"),
        ("t.jsonl", b'{"key": 1}\n{"key": ', "cannot be read"),
        ("t.jsonl", b"[1]\n", "one JSON object"),
        ("t.xlsx", b"", "CSV, Parquet or JSONL"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / name, config())
    with pytest.raises(UserError, match="does not exist"):
        read_table(tmp_path / "nowhere.csv", config())


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("﻿key,note,stage\r\na,eins,0\r\nb,zwei,1\r\n".encode())
    data = read_table(
        tmp_path / "t.csv", config(split=None, group=None, target="stage", modalities={"note": ALL["note"]})
    )
    assert data.ids == ["a", "b"]
    assert data.modalities["note"].values == ["eins", "zwei"]


def test_prediction_needs_neither_target_nor_roles(rows: Rows, tmp_path: Path) -> None:
    new = [{"key": row["key"], "photo": row["photo"], "note": None} for row in rows if row["photo"]]
    path = write(new, tmp_path / "new.jsonl")
    data = read_table(path, config(splits={"method": "given"}), require_target=False)
    assert (data.targets, data.split, data.group) == ({}, None, None)
    assert not data.modalities["note"].presence.any()
    with pytest.raises(UserError, match=r"no column 'photo'"):
        read_table(write([{"key": "a"}], tmp_path / "bad.jsonl"), config(), require_target=False)
    labelled = [{**row, "stage": 1} for row in new]
    known = read_table(write(labelled, tmp_path / "one.csv"), config(target="stage"), require_target=False)
    assert set(known.targets["stage"]) == {1}


def test_splits_of_the_configuration_are_made(rows: Rows, tmp_path: Path) -> None:
    path = write(rows, tmp_path / "t.csv")
    chosen = {"target": "stage", "split": None, "group": None}
    plain = read_table(path, config(**chosen))
    assert plain.split is None
    made = read_table(path, config(**chosen, splits={"method": "random", "fractions": [0.5, 0.25, 0.25], "seed": 7}))
    for a, b in zip(make_splits(made), make_splits(plain, "random", (0.5, 0.25, 0.25), 7), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="3 groups"):
        read_table(path, config(target="stage", splits={"method": "random"}))


# --- guessing and YAML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_guess(rows: Rows, tmp_path: Path, suffix: str) -> None:
    path = write(rows, tmp_path / f"t.{suffix}")
    guessed = guess_table(path)
    assert guessed.id == "key"
    assert guessed.split == "part"
    assert guessed.group == "patient"
    assert guessed.target == "tags"
    assert guessed.task == "multilabel"
    assert guessed.labels == ["a", "b", "c"]
    kinds = {name: m.kind for name, m in guessed.modalities.items()}
    assert kinds["photo"] == "image"
    assert kinds["note"] == "text"
    assert kinds["voice"] == "audio"
    assert kinds["track"] == "series"
    assert kinds["embedding"] == "vector"
    assert kinds["steps"] == "series"
    assert guessed.modalities["tabular"].columns == ["t0", "t1", "age", "city", "sick", "stage", "cost"]
    read_table(path, guessed)


@pytest.mark.parametrize(
    ("table", "target", "task"),
    [
        ([{"text": f"a long text of {i}", "label": "yn"[i % 2]} for i in range(30)], "label", "classification"),
        ([{"text": f"a long text of {i}", "stars": i % 5} for i in range(30)], "stars", "classification"),
        ([{"text": f"a long text of {i}", "price": i / 7} for i in range(30)], "price", "regression"),
        ([{"text": f"a long text of {i}", "price": 1000 + i} for i in range(30)], "price", "regression"),
        ([{"text": f"a long text of {i}", "other": f"and one more {i}"} for i in range(30)], None, "retrieval"),
    ],
)
def test_guessed_targets(tmp_path: Path, table: Rows, target: str | None, task: str) -> None:
    guessed = guess_table(write(table, tmp_path / "t.csv"))
    assert guessed.target == target
    assert guessed.task == task
    assert "text" in guessed.modalities
    assert isinstance(read_table(tmp_path / "t.csv", guessed), Dataset)


def test_guess_takes_a_split_column_only_if_it_is_one(rows: Rows, tmp_path: Path) -> None:
    table = [{"id": i, "split": part, "text": f"t {i}", "y": i % 2} for i, part in enumerate(["train", "test"] * 20)]
    guessed = guess_table(write(table, tmp_path / "a.csv"))
    assert guessed.split == "split"
    assert guessed.splits is not None
    assert guessed.splits.method == "given"
    other = guess_table(write([{**row, "split": i} for i, row in enumerate(table)], tmp_path / "b.csv"))
    assert other.split is None
    repeated = guess_table(write([{**row, "id": i % 9} for i, row in enumerate(table)], tmp_path / "c.csv"))
    assert repeated.id is None


def test_nothing_to_guess(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column can be a modality"):
        guess_table(write([{"id": "a", "y": 1}, {"id": "b", "y": 2}], tmp_path / "t.csv"))


def test_yaml_round_trip(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    path = write(rows, tmp_path / "my table.csv")
    guessed = guess_table(path)
    text = to_commented_yaml(guessed, tmp_path / "conf")
    (tmp_path / "conf" / "weft.yaml").write_text(text)
    assert "table: ../my table.csv" in text
    for model in ("sentence-transformers/all-MiniLM-L6-v2", "facebook/dinov2-small", "facebook/wav2vec2-base"):
        assert f"    # encoder: hf:{model}" in text
    read = load_config(tmp_path / "conf" / "weft.yaml")
    built_in = {"image": "image-patches", "text": "tfidf", "audio": "log-mel", "series": "random-kernels"}
    built_in |= {"tabular": "columns", "vector": "precomputed"}
    assert {m.kind: m.encoder for m in read.modalities.values()} == built_in
    bare = read.model_copy(
        update={"modalities": {n: m.model_copy(update={"encoder": None}) for n, m in read.modalities.items()}}
    )
    assert bare == guessed
    assert read_table(read.table, read).ids == [row["key"] for row in rows]


def test_yaml_keeps_what_a_person_wrote(tmp_path: Path) -> None:
    chosen = config(
        table=str(tmp_path / "t.csv"),
        modalities={
            "yes: no": {"kind": "text", "column": "#1", "encoder": "hf:some/model", "options": {"layers": [1, 2]}},
            "x": {"kind": "tabular", "columns": ["null", "true", "1e3"]},
        },
        splits={"method": "grouped", "fractions": [0.8, 0.1, 0.1], "seed": 3},
    )
    (tmp_path / "weft.yaml").write_text(to_commented_yaml(chosen, tmp_path))
    read = load_config(tmp_path / "weft.yaml")
    assert read.modalities["yes: no"] == chosen.modalities["yes: no"]
    assert read.modalities["x"].columns == ["null", "true", "1e3"]
    assert read.splits == chosen.splits
    assert read.target == ["stage", "city"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tabel: t.csv", "tabel(.|\n)*did you mean 'table'"),
        ("table: [", "not YAML"),
        ("- 1", "not a configuration"),
        ("modalities: {}", "modalities"),
        ("task: clasification", "did you mean 'classification'"),
        ("modalities: {m: {kind: imgae, column: a}}", "did you mean 'image'"),
        ("modalities: {m: {kind: image}}", "'column' or 'columns'"),
        ("modalities: {m: {kind: image, columns: [a, b]}}", "one column"),
        ("modalities: {m: {kind: image, colum: a}}", "did you mean 'column'"),
        ("target: null", "needs a target"),
        ("splits: {method: best}", "splits.method"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    base = yaml.safe_load(to_commented_yaml(config(), tmp_path))
    changes = yaml.safe_load(text) if text != "table: [" else None
    path = tmp_path / "weft.yaml"
    path.write_text(yaml.safe_dump(base | changes) if isinstance(changes, dict) else text)
    with pytest.raises(UserError, match=message):
        load_config(path)
    with pytest.raises(UserError, match="weft init"):
        load_config(tmp_path / "nowhere.yaml")
