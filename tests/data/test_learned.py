"""New rows are read by what training learned, never by the rows beside them; faults of real tables, each with kin."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from weft.data import ModalityConfig, TableConfig, guess_table, make_splits, propose_table, read_table
from weft.data.cells import read_cell
from weft.data.columns import Columns
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models.seen import Seen

Rows = list[dict[str, Any]]


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def save(path: Path, rows: Rows) -> Path:
    names = list(rows[0])
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(names), *(",".join("" if row[n] is None else str(row[n]) for n in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def config(columns: list[str], **changes: Any) -> TableConfig:
    plain = {"table": "t.csv", "target": "y", "task": "classification"}
    return TableConfig(**{**plain, "modalities": {"facts": {"kind": "tabular", "columns": columns}}, **changes})


def learned(path: Path, columns: list[str], **changes: Any) -> TableConfig:
    """The configuration that a model would keep."""
    table = read_table(path, config(columns, **changes)).table
    assert table is not None
    return TableConfig(**table)


def rows(count: int = 30, **columns: Any) -> Rows:
    return [{**{name: make(i) for name, make in columns.items()}, "y": i % 2} for i in range(count)]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_category_is_one_in_a_table_of_numbers(tmp_path: Path, suffix: str, alone: bool) -> None:
    code = ["B", "1", "2"]
    kept = learned(save(tmp_path / "t.csv", rows(code=lambda i: code[i % 3])), ["code"])
    new = [{"code": 1}, {"code": 2}][: 1 if alone else 2]
    read = read_table(save(tmp_path / f"new.{suffix}", new), kept, require_target=False)
    assert read.modalities["facts"].values == [("1",), ("2",)][: len(new)]


def test_a_number_is_one_whatever_stands_beside_it(tmp_path: Path) -> None:
    kept = learned(save(tmp_path / "t.csv", rows(size=lambda i: i, other=lambda i: i)), ["size", "other"])
    new = [{"size": "7", "other": "1"}, {"size": "many", "other": "2"}]
    read = read_table(save(tmp_path / "new.csv", new), kept, require_target=False)
    assert read.modalities["facts"].values == [(7.0, 1.0), (None, 2.0)]
    assert any("'size'" in note and "1: many" in note for note in read.notes)


@pytest.mark.parametrize("target", [["1", "2", "x"], ["0", "1", "1+"], ["yes", "no", "2"]])
def test_classes_are_words_where_training_had_words(tmp_path: Path, target: list[str]) -> None:
    table = [{"size": i, "y": target[i % 3]} for i in range(30)]
    kept = learned(save(tmp_path / "t.csv", table), ["size"])
    assert kept.classes == {"y": sorted(target)}
    number = next(word for word in target if word.isdigit())
    new = read_table(save(tmp_path / "new.csv", [{"size": 1, "y": number}]), kept, require_target=False)
    assert new.targets["y"].tolist() == [number]


def test_dates_keep_the_order_that_training_showed(tmp_path: Path) -> None:
    dates = [f"{1 + i % 28}/{1 + i % 12}/2024" for i in range(30)]
    kept = learned(save(tmp_path / "t.csv", rows(born=lambda i: dates[i])), ["born"])
    assert kept.modalities["facts"].types == {"born": "date, day first"}
    new = read_table(save(tmp_path / "new.csv", [{"born": "2/1/2024"}]), kept, require_target=False)
    assert new.modalities["facts"].values[0][0].month == 1


@pytest.mark.parametrize("cells", [["1", "2", "3+"], ["3+", "1", "2"]])
def test_a_target_with_one_word_is_classes(tmp_path: Path, cells: list[str]) -> None:
    table = [{"note": f"a long note about {i}", "stars": cells[i % 3]} for i in range(30)]
    guessed = guess_table(save(tmp_path / "t.csv", table))
    assert (guessed.target, guessed.task) == ("stars", "classification")
    assert read_table(tmp_path / "t.csv", guessed).targets["stars"].tolist()[:3] == cells


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e300", "1e-5x"])
def test_what_is_no_number_is_missing_and_said(tmp_path: Path, cell: str) -> None:
    table = rows(size=lambda i: cell if i == 3 else i / 2, other=lambda i: i)
    chosen = config(["size", "other"])
    chosen.modalities["facts"].types["size"] = "number"
    data = read_table(save(tmp_path / "t.csv", table), chosen)
    assert data.modalities["facts"].values[3] == (None, 3.0)
    assert any("'size'" in note and f"3: {cell}" in note for note in data.notes)


def test_a_type_can_be_forced(tmp_path: Path) -> None:
    chosen = config(["zip"])
    chosen.modalities["facts"].types["zip"] = "category"
    data = read_table(save(tmp_path / "t.csv", rows(zip=lambda i: 10001 + i % 3)), chosen)
    assert data.modalities["facts"].values[0] == ("10001",)
    with pytest.raises(ValueError, match="types"):
        config(["zip"], modalities={"m": {"kind": "text", "column": "zip", "types": {"zip": "category"}}})


# --- new tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["", "NA", "?", "unheard of"])
def test_new_rows_need_no_target_split_or_id(tmp_path: Path, target: str) -> None:
    table = [{"id": f"r{i}", "part": ["train", "dev", "test"][i % 3], "size": i, "y": "ab"[i % 2]} for i in range(30)]
    kept = learned(save(tmp_path / "t.csv", table), ["size"], id="id", split="part")
    new = read_table(save(tmp_path / "a.csv", [{"part": "new", "size": 1, "y": target}]), kept, require_target=False)
    assert (new.ids, new.split) == (["0"], None)
    both = read_table(
        save(tmp_path / "b.csv", [{"size": 1, "y": "a"}, {"size": 2, "y": ""}]), kept, require_target=False
    )
    assert both.targets["y"].tolist() == ["a", None]


@pytest.mark.parametrize("name", ["t.tsv", "T.CSV", "t.csv.gz", "t.TSV.GZ", "t.jsonl.gz", "t.txt"])
def test_every_ending_is_read(tmp_path: Path, name: str) -> None:
    table = rows(size=lambda i: i)
    plain = save(tmp_path / ("p.jsonl" if "jsonl" in name else "p.csv"), table).read_text()
    plain = plain.replace(",", "\t") if "tsv" in name.lower() else plain
    content = plain.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert len(read_table(tmp_path / name, config(["size"]))) == 30


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"size,y\n1,0\n")[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "t.csv.gz", config(["size"]))


WORDS = "size\tnaïve word\ty\n" + "".join(f"{i}\tcafé {i}\t{i % 2}\n" for i in range(30))


def test_excels_unicode_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(WORDS.encode("utf-16"))
    assert len(read_table(tmp_path / "t.txt", config(["size", "naïve word"]))) == 30


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "Windows-1252"), ("utf-16-le", "UTF-16")])
def test_another_encoding_is_named_with_the_way_out(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / "t.csv").write_bytes(WORDS.encode(encoding))
    with pytest.raises(UserError, match=f"probably {name}") as error:
        propose_table(tmp_path / "t.csv")
    assert f"iconv -f {name}" in error.value.remedy


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    lines = ["name;size;y", *(f'"a; b, c | d {i}";{i}{",5" if delimiter == ";" else ""};{i % 2}' for i in range(20))]
    quoted = "\n".join(line if delimiter == ";" else _cut(line, delimiter) for line in lines)
    data = read_table(csv(tmp_path / "t.csv", quoted), config(["size"]))
    assert data.modalities["facts"].values[3] == (3.5 if delimiter == ";" else 3.0,)


def _cut(line: str, delimiter: str) -> str:
    """The same line with another delimiter between its fields."""
    head, quote, rest = line.rpartition('"')
    return head + quote + rest.replace(";", delimiter) if quote else line.replace(";", delimiter)


# --- rare classes, splits in time ---------------------------------------------------------------------------------


def test_classes_can_be_left_out(tmp_path: Path) -> None:
    table = [{"size": i, "y": "x" if i == 7 else "ab"[i % 2]} for i in range(30)]
    path = save(tmp_path / "t.csv", table)
    data = read_table(path, config(["size"], classes={"y": ["a", "b"]}, splits={"method": "stratified"}))
    assert len(data) == 29
    assert "7" not in data.ids
    assert any("'x' (1)" in note for note in data.notes)
    with pytest.raises(UserError, match="no row"):
        read_table(path, config(["size"], classes={"y": ["nothing"]}))


@pytest.mark.parametrize(
    ("target", "task"), [("ab", "classification"), ([1.5, 2.5], "regression"), ([3, 4], "ordinal")]
)
def test_rows_without_a_target_are_left_out_and_that_is_said(tmp_path: Path, target: Any, task: str) -> None:
    table = [{"size": i, "y": None if i in (0, 7) else target[i % 2]} for i in range(30)]
    path = save(tmp_path / "t.csv", table)
    data = read_table(path, config(["size"], task=task))
    assert (len(data), {"0", "7"} & set(data.ids)) == (28, set())
    assert data.targets["y"].tolist() == [target[i % 2] for i in range(30) if i not in (0, 7)]
    assert any("left out: 2 of 30 rows whose target 'y' is missing: '0', '7'" in note for note in data.notes)
    proposal = propose_table(path)
    assert proposal.config.target == "y"
    assert "missing in 2 rows, which are left out" in proposal.reasons["target"]


def test_a_split_in_time(tmp_path: Path) -> None:
    table = [{"day": f"2024-01-{1 + i // 2:02d}", "size": i, "y": i % 2} for i in range(40)][::-1]
    data = read_table(save(tmp_path / "t.csv", table), config(["size"], time="day", splits={"method": "temporal"}))
    assert data.split is not None
    assert data.time is not None
    latest = {part: data.time[data.split == part].max() for part in ("train", "dev", "test")}
    earliest = {part: data.time[data.split == part].min() for part in ("train", "dev", "test")}
    assert latest["train"] < earliest["dev"]
    assert latest["dev"] < earliest["test"]
    with pytest.raises(UserError, match="time of each row"):
        read_table(tmp_path / "t.csv", config(["size"], splits={"method": "temporal"}))
    broken = save(tmp_path / "b.csv", [{**row, "day": ""} if row["size"] == 3 else row for row in table])
    with pytest.raises(UserError, match=r"without a time(.|\n)*'36'"):
        read_table(broken, config(["size"], time="day", splits={"method": "temporal"}))


# --- what init proposes -------------------------------------------------------------------------------------------


def test_init_leaves_out_what_says_nothing_of_a_new_row(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = [
        {
            "": i,
            "RowID": f"P{1000 + i}",
            "hash": f"{random.integers(2**62):016x}",
            "country": "NO",
            "empty": None,
            "Feedback Count": int(random.integers(50)),
            "Recommended": i % 2,
            "owner hash": f"{(i // 2) * 7919:032x}",
            "since": f"2024-02-{1 + i % 28:02d}",
        }
        for i in range(40)
    ]
    found = propose_table(save(tmp_path / "t.csv", table))
    assert found.config.target == "Recommended"
    assert found.config.id == "RowID"
    assert found.config.group == "owner hash"
    assert set(found.left_out) == {"", "hash", "country", "empty"}
    assert {name: m.kind for name, m in found.config.modalities.items()} == {"since": "date", "tabular": "tabular"}
    assert found.config.modalities["tabular"].names == ["Feedback Count"]
    assert all(found.reasons[role] for role in ("target", "id", "group", "task"))
    other = propose_table(tmp_path / "t.csv", target="Feedback Count", id="none", group="none", drop=["since"])
    assert (other.config.target, other.config.id, other.config.group) == ("Feedback Count", None, None)
    assert "since" in other.left_out
    with pytest.raises(UserError, match="did you mean 'country'"):
        propose_table(tmp_path / "t.csv", target="cuntry")


CONTENTS = {
    "a photo": ("photo", "image", "{}.png"),
    "a sound": ("sound", "audio", "{}.wav"),
    "a story": ("story", "text", "a long story of thing number {}"),
}


@pytest.mark.parametrize("gone", [0, 1])
@pytest.mark.parametrize(("name", "kind", "cell"), CONTENTS.values(), ids=CONTENTS)
def test_what_comes_again_in_many_rows_is_the_group(tmp_path: Path, name: str, kind: str, cell: str, gone: int) -> None:
    """Five captions each; where a row lacks what the others are grouped by, it stands alone."""
    rows = [{name: cell.format(i // 5), "caption": f"words about number {i} here"} for i in range(50)]
    for row in rows[:gone]:
        row[name] = None
    for row in rows:
        if kind != "text" and row[name] is not None:
            (tmp_path / str(row[name])).write_bytes(b"")
    found = propose_table(save(tmp_path / "t.csv", rows))
    assert found.config.group == name
    assert f"{50 - gone} of 50 rows share their value" in found.reasons["group"]
    assert {n: m.kind for n, m in found.config.modalities.items()} == {name: kind, "caption": "text"}
    assert found.config.splits is not None
    assert found.config.splits.method == "grouped"
    data = read_table(tmp_path / "t.csv", found.config)
    parts: dict[Any, set[str]] = {}
    for group, part in zip(data.group.tolist(), data.split.tolist(), strict=True):
        parts.setdefault(group, set()).add(part)
    assert len(parts) == 10 + gone
    assert all(len(part) == 1 for part in parts.values())


# --- the encoder of columns -----------------------------------------------------------------------------------------


def test_a_constant_has_scale_one_and_far_values_are_cut() -> None:
    encoder = create_encoder("columns", "tabular")
    encoder.fit([(14.62,)] * 150)
    assert encoder.encode([(14.63,)])[0][0, 0] == pytest.approx(0.01, rel=1e-3)
    assert encoder.encode([(1e30,)])[0][0, 0] == 1000


def test_rare_categories_are_told_apart_by_spelling() -> None:
    encoder = create_encoder("columns", "tabular")
    encoder.fit([(f"Domestic Hair {i}",) for i in range(100)] + [("Poodle",)] * 5)
    alike, other, known = (encoder.encode([(c,)])[0][0] for c in ("Domestic Hair 200", "Siamese", "Poodle"))
    near = encoder.encode([("Domestic Hair 7",)])[0][0]
    assert near @ alike > near @ other
    assert known[0] == 1


def test_dates_become_calendar_entries() -> None:
    from datetime import datetime, timedelta

    encoder = create_encoder("columns", "date")
    start = datetime(2024, 1, 1)
    encoder.fit([(start + timedelta(days=i),) for i in range(366)])
    january, july = (encoder.encode([(datetime(2024, month, 1, 12),)])[0][0] for month in (1, 7))
    assert january.shape == (10,)
    np.testing.assert_allclose(january[2:4], [0, 1], atol=1e-6)
    np.testing.assert_allclose(july[2:4], [0, -1], atol=1e-6)
    assert july[0] > january[0]
    np.testing.assert_array_equal(encoder.encode([(None,)])[0][0], [0] * 9 + [1])
    again = create_encoder("columns", "date")
    again.load_state(json.loads(json.dumps(encoder.state())))
    np.testing.assert_array_equal(again.encode([(start,)])[0], encoder.encode([(start,)])[0])


def test_columns_of_one_name_are_told_apart_as_pandas_does(tmp_path: Path) -> None:
    """And those without a name, which a spreadsheet writes at the end of its lines, are left out."""
    (tmp_path / "t.csv").write_text(
        "value,value,value.1,unit,,\n" + "".join(f"{k % 5},{k % 3},{k % 2},m{k % 2},,\n" for k in range(30))
    )
    found, frame = Columns(tmp_path / "t.csv"), pd.read_csv(tmp_path / "t.csv")
    assert found.names[:4] == list(frame.columns)[:4]
    assert found.cells("value.2", "test") == [str(k % 3) for k in range(30)]
    proposal = propose_table(tmp_path / "t.csv")
    assert set(proposal.left_out.values()) == {"empty"}
    assert "'value'" in proposal.reasons["column 'value.2'"]
    with pytest.raises(UserError, match="names are unique"):
        Columns(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_table_whose_rows_with_a_target_are_all_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("size,unit,kind\n" + "".join(f"{k},m,\n,,{'ab'[k % 2]}\n" for k in range(12)))
    modality = ModalityConfig(kind="tabular", columns=["size", "unit"])
    with pytest.raises(UserError, match="no row has anything that can be read"):
        read_table(
            tmp_path / "t.csv",
            TableConfig(table="t.csv", target="kind", task="classification", modalities={"facts": modality}),
        )


@pytest.mark.parametrize("blank", [",,\n", ",,a\n"])
def test_an_empty_row_of_a_training_table_is_left_out_and_said(tmp_path: Path, blank: str) -> None:
    """Spreadsheets write such lines at their end; with a target or without, they hold nothing to learn from."""
    lines = [f"{k % 7},m{k % 3},{'ab'[k % 2]}\n" for k in range(30)]
    (tmp_path / "t.csv").write_text("size,unit,kind\n" + "".join([*lines[:9], blank, *lines[9:], blank]))
    proposal = propose_table(tmp_path / "t.csv", target="kind", id="none", group="none")
    data = read_table(tmp_path / "t.csv", proposal.config)
    assert len(data) == 30
    assert data.split is not None
    assert "9" not in data.ids
    assert any("2" in note and "'9', '31'" in note for note in data.notes)
    seen = Seen.of(data, make_splits(data))
    again = read_table(tmp_path / "t.csv", TableConfig(**data.table), require_target=False)
    assert (seen.part_of(again) == "").sum() == 2


def test_durations_and_periods_of_a_frame_are_numbers_and_dates() -> None:
    frame = pd.DataFrame(
        {
            "took": pd.to_timedelta(range(30), "h"),
            "month": pd.period_range("2020-01", periods=30, freq="M"),
            "kind": list("ab") * 15,
        }
    )
    frame.loc[3, "took"] = None
    proposal = propose_table(frame, target="kind")
    assert {c: t for m in proposal.config.modalities.values() for c, t in m.types.items()} == {
        "took": "number",
        "month": "date",
    }
    data = read_table(frame, proposal.config)
    assert data.cells()["took"][2:5] == (7200.0, None, 14400.0)
    assert pl.Series([timedelta(hours=1)]).to_list() == [timedelta(hours=1)]
    assert read_cell(timedelta(hours=1), "number") == 3600.0


ROWS = "".join(f"{k / 8},{'uvw'[k % 3]},{['yes', 'no'][k % 2]}\n" for k in range(40))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "Report of 2024,,\n,,\nsize,unit,ok\n" + ROWS, "columns without a name(.|\n)*title"),
        ("t.csv", "Report of 2024\nsize,unit,ok\n" + ROWS, "title"),
        ("t.csv", "size,unit,ok\n" + ROWS + "Source: the office\n", "remark(.|\n)*quotes"),
        ("t.xlsx", "PK", "read_excel"),
    ],
)
def test_what_spreadsheets_write_around_a_table_is_refused_in_their_words(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        propose_table(tmp_path / name)


def test_a_table_without_names_or_of_one_column_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(ROWS)
    assert "looks like a row" in propose_table(tmp_path / "t.csv").warnings[0]
    (tmp_path / "t.csv").write_text("size unit ok\n" + ROWS.replace(",", " "))
    assert "one column" in propose_table(tmp_path / "t.csv").warnings[0]
    (tmp_path / "t.csv").write_text("0,1,2\n" + ROWS)
    assert not propose_table(tmp_path / "t.csv", target="2").warnings
