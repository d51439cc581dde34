"""How a server reads rows: cells by their columns, what it could not read and what it had not met said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.serve.test_serve import talk
from weft.compare.frames import compare_frame
from weft.errors import UserError
from weft.serve.engine import Engine
from weft.serve.rows import Reader


def test_texts_that_are_compared_are_named_by_their_columns() -> None:
    modalities = {"likeness": {"kind": "texts", "columns": ["one", "two"]}}
    table = {"table": "t.csv", "task": "retrieval", "modalities": modalities}
    model = SimpleNamespace(names=("likeness",), encoders={"likeness": {"kind": "texts"}}, table=table)
    reader = Reader(model)
    assert reader.rows([{"likeness": {"two": "b", "one": "a"}}]) == [{"likeness": ("a", "b")}]
    with pytest.raises(UserError, match=r"give \{column: text\}"):
        reader.rows([{"likeness": "a"}])
    assert reader.rows([{"likeness": {"one": "a"}}]) == [{}]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A model of a table's number and category, which does without its texts."""
    place = tmp_path_factory.mktemp("facts")
    table = {
        "size": [i % 7 + 0.5 for i in range(60)],
        "colour": [("red", "blue")[i % 2] for i in range(60)],
        "note": [f"a short note about thing {i}" for i in range(60)],
        "title": [f"the title of thing number {i}" for i in range(60)],
        "y": [("a", "b")[i % 2] for i in range(60)],
    }
    only = {"only": ["tabular (linear)", "chance"], "seeds": 1, "resamples": 99}
    compare_frame(table, "y", folder=place, progress=False, **only)
    return Engine(place / "winner")


def test_cells_that_are_not_read_and_unknown_words_are_said(facts: Engine) -> None:
    nested = {"tabular": {"size": "many", "colour": "green"}}
    rows = [{"tabular": {"size": 2, "colour": "red"}}, nested]
    clean, odd, empty = talk(
        facts,
        ("POST", "/predict", {"json": {"rows": rows[0]}}),
        ("POST", "/predict", {"json": {"rows": rows}}),
        ("POST", "/predict", {"json": {"rows": {"tabular": {"size": "many"}}}}),
    )
    assert clean.json()["warnings"] == []
    assert len(odd.json()["answers"]) == 2
    unread, unknown = odd.json()["warnings"]
    assert "'size' (number): 1 cell not readable so, taken as missing: 'row 1: many'" in unread
    assert "'colour': 1 cell with what no training row holds: 'row 1: green'" in unknown
    unread, blank = empty.json()["warnings"]
    assert "row 0: many" in unread
    assert "1 empty row answered as one of which nothing is known: 'row 0'" in blank


def test_a_modality_of_one_column_of_its_name_takes_the_cell() -> None:
    modalities = {"day": {"kind": "date", "column": "day", "types": {"day": "date"}}}
    table = {"table": "t.csv", "task": "retrieval", "modalities": modalities}
    reader = Reader(SimpleNamespace(names=("day",), encoders={"day": {"kind": "date"}}, table=table))
    assert reader.rows([{"day": "2024-01-31"}]) == reader.rows([{"day": {"day": "2024-01-31"}}])
    assert reader.rows([{"day": None}]) == [{}]


def test_fields_of_a_struct_are_the_columns_that_training_made_of_them() -> None:
    types = {"loc.lat": "number", "loc.of.lon": "number"}
    modalities = {"place": {"kind": "tabular", "columns": [*types], "types": types}}
    table = {"table": "t.jsonl", "task": "retrieval", "modalities": modalities}
    reader = Reader(SimpleNamespace(names=("place",), encoders={"place": {"kind": "tabular"}}, table=table))
    found = reader.rows([{"loc": {"lat": 1, "of": {"lon": 2}}}])
    assert found == reader.rows([{"loc.lat": 1, "loc.of.lon": 2}]) == [{"place": (1.0, 2.0)}]


def test_cells_may_stand_in_the_row_itself_as_in_the_table(facts: Engine) -> None:
    flat = {"note": "a note", "title": "a title", "size": 2, "colour": "red"}
    one, two, wrong, schema = talk(
        facts,
        ("POST", "/predict", {"json": {"rows": {**flat, "y": "a"}}}),
        ("POST", "/predict", {"json": {"rows": {"tabular": {"size": 2, "colour": "red"}}}}),
        ("POST", "/predict", {"json": {"rows": {"sise": 2}}}),
        ("GET", "/openapi.json", {}),
    )
    assert one.json()["answers"] == two.json()["answers"]
    assert one.json()["warnings"] == ["this model does without 'note', 'title', 'y'"]
    assert "'size'" in wrong.json()["remedy"]
    assert "tabular (tabular, size, colour)" in schema.json()["info"]["description"]


def test_columns_that_training_left_out_are_passed_over_and_misspelt_ones_are_not(facts: Engine) -> None:
    """An id, an empty column without a name: they stand in the table, so a row that is sent as it stands has them."""
    row = {"Order No": 7, "": None, "size": 2, "colour": "red"}
    told, misspelt, nothing, many = talk(
        facts,
        ("POST", "/predict", {"json": {"rows": [row, row]}}),
        ("POST", "/predict", {"json": {"rows": [{"size": 2, "color": "red"}]}}),
        ("POST", "/predict", {"json": {"rows": [{"Order No": 7}]}}),
        ("POST", "/predict", {"json": {"rows": [{"size": 2, **{f"x{k}": k for k in range(200)}}]}}),
    )
    assert told.json()["warnings"] == ["this model does without 'Order No', ''"]
    assert "'colour'" in misspelt.json()["remedy"]
    assert [found.status_code for found in (told, misspelt, nothing, many)] == [200, 422, 422, 422]
