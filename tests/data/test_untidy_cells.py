"""Cells as people and spreadsheets leave them: slips among numbers, error words, units, times of day, separators."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.compare.frames import encode_frame
from weft.data import TableConfig, load_config, propose_table, read_table, to_commented_yaml
from weft.data.cells import CELL_TYPES, learn_type, read_cell
from weft.encoders import create_encoder
from weft.errors import UserError

N = 200
NUMBERS = [f"{k * 37 % 1000 / 10}" for k in range(N)]
SIDES = [("left", "right")[k % 2] for k in range(N)]
Y = [k * 7 % 90 / 10 for k in range(N)]


def table(**columns: Any) -> dict[str, Any]:
    return {**columns, "side": SIDES, "y": Y}


def typed(frame: dict[str, Any], **chosen: Any) -> tuple[dict[str, str], Any, Any]:
    """The types of all columns, the proposal, and the data set that it reads."""
    proposal = propose_table(frame, target="y", **chosen)
    types = {name: t for m in proposal.config.modalities.values() for name, t in m.types.items()}
    return types, proposal, read_table(frame, proposal.config)


def some_of(words: Any, cells: list[str] = NUMBERS) -> list[str]:
    """Every ninth cell is one of the words, in turn."""
    return [words[k // 9 % len(words)] if k % 9 == 0 else cell for k, cell in enumerate(cells)]


ERRORS = ["#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!"]
NOTHING = ["unknown", "n.a.", "n/d", "—", "–", "not available", "TBD", "(blank)", "(null)", "nil", "<NA>", "[none]"]


@pytest.mark.parametrize("word", [*ERRORS, *NOTHING])
@pytest.mark.parametrize("cells", [["1", "2.5"], ["1,5", "2"], ["2024-01-31", "2023-01-31"], ["13:05", "7:00"]])
def test_words_for_missing_are_missing_among_numbers_dates_and_times(word: str, cells: list[str]) -> None:
    type_ = learn_type(cells)
    assert type_ != "category"
    assert learn_type([*cells, word.lower(), f" {word} "]) == type_
    assert read_cell(word, type_) is None


def test_they_are_words_among_words() -> None:
    assert learn_type(["red", "unknown", "n.a."]) == "category"
    assert read_cell("unknown", "category") == "unknown"


@pytest.mark.parametrize("few", [1, 10])
def test_a_few_words_among_many_numbers_are_missing_and_said(tmp_path: Path, few: int) -> None:
    cells = ["see note" if k < few else cell for k, cell in enumerate(NUMBERS)]
    types, proposal, data = typed(table(v=cells))
    assert types["v"] == "number"
    assert [row[0] for row in next(iter(data.modalities.values())).values][: few + 1] == [None] * few + [
        37 * few % 1000 / 10
    ]
    (said,) = data.notes
    assert "column 'v'" in said
    assert "0: see note" in said
    assert "types: {v: category}" in said
    assert proposal.unread == [said]
    assert f"# Warning: {said}" in to_commented_yaml(proposal.config, tmp_path, proposal)


def test_so_are_they_among_dates() -> None:
    days = [f"{1 + k % 28:02d}.{1 + k % 12:02d}.20{10 + k % 11}" for k in range(N)]
    days[3] = "in spring"
    types, _, data = typed(table(day=days), time="none")
    assert types["day"] == "date, day first"
    assert "3: in spring" in data.notes[0]


@pytest.mark.parametrize(
    "cells",
    [
        ["see note", *NUMBERS[:18]],
        ["see note" if k % 15 == 0 else cell for k, cell in enumerate(NUMBERS)],
        ["A" if k == 7 else str(k % 6) for k in range(N)],
        ["85123A" if k == 7 else str(80000 + k) for k in range(N)],
        ["00501" if k == 7 else str(10001 + k) for k in range(N)],
        ["C1234" if k % 30 == 0 else str(1000 + k) for k in range(N)],
    ],
    ids=["few rows", "too many words", "a category", "stock codes", "zip codes", "invoices"],
)
def test_few_numbers_codes_and_categories_are_no_numbers(cells: list[str]) -> None:
    assert learn_type(cells) == "category"
    assert learn_type(cells[::-1]) == "category"


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("13:05", time(13, 5)),
        ("7:05:09", time(7, 5, 9)),
        ("1:05 PM", time(13, 5)),
        ("12:30 a.m.", time(0, 30)),
        ("7pm", time(19)),
        (time(8, 15), time(8, 15)),
    ],
)
def test_times_of_day(cell: Any, value: time) -> None:
    assert learn_type([cell, None]) == "time of day"
    assert read_cell(cell, "time of day") == value


@pytest.mark.parametrize("cell", ["25:00", "13:60", "13:05 PM", "7", "2:1", "13 PM"])
def test_no_times_of_day(cell: str) -> None:
    assert learn_type([cell, "7:00"]) == "category"


def test_durations_are_seconds() -> None:
    assert learn_type(["26:05:30", "0:00:10", "1 day, 2:05:30"]) == "duration"
    assert [read_cell(c, "duration") for c in ("26:05:30", "-0:00:10", "1 days 00:00:01")] == [93930.0, -10.0, 86401.0]


def test_a_time_of_day_is_a_number_and_a_turn() -> None:
    encoder = create_encoder("columns", "tabular")
    encoder.fit([(time(6),), (time(18),)])
    (one,), (late,), (gone,) = encoder.encode([(time(6),), (time(23, 59, 59),), (None,)])
    np.testing.assert_allclose(one, [-1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(late[1:], [0, 1, 0], atol=1e-3)
    np.testing.assert_array_equal(gone, [0, 0, 0, 1])
    again = create_encoder("columns", "tabular")
    again.load_state(encoder.state())
    np.testing.assert_array_equal(again.encode([(time(6),)])[0], [one])


@pytest.mark.parametrize(
    ("cells", "type_", "values"),
    [
        (["12.5 kg", "3kg", "1,250 kg"], "number in kg, thousands", [12.5, 3, 1250]),
        (["120 km/h", "-5 km/h"], "number in km/h", [120, -5]),
        (["45 min", "n/a", "90 mins"], "number in min", [45, None, 90]),
        (["1 year", "3 years", "2 years"], "number in years", [1, 3, 2]),
        (["1,5 m²", "2,25 m²"], "number in m², decimal comma", [1.5, 2.25]),
        (["20 °C", "7.5 °C"], "number in °C", [20, 7.5]),
    ],
)
def test_numbers_with_one_unit(cells: list[str], type_: str, values: list[float | None]) -> None:
    assert learn_type(cells) == type_
    assert [read_cell(cell, type_) for cell in cells] == values
    with pytest.raises(ValueError, match="no number"):
        read_cell("12 parsec", type_)


@pytest.mark.parametrize("cells", [["12A", "7B"], ["1st", "2nd"], ["12E3", "13E3"], ["5 AM", "3 kg"], ["a 5", "b 6"]])
def test_codes_and_ranks_are_no_numbers_with_a_unit(cells: list[str]) -> None:
    assert learn_type(cells) == "category"


def test_several_units_are_warned_of() -> None:
    cells = [f"{k + 1} {('kg', 'g')[k % 2]}" for k in range(N)]
    _, proposal, _ = typed(table(weight=cells))
    (said,) = [text for text in proposal.warnings if "'weight'" in text]
    assert "'kg', 'g'" in said
    assert not typed(table(flat=[f"{k % 9} {'AB'[k % 2]}" for k in range(N)]))[1].warnings


def test_a_decimal_comma_is_one_whatever_most_cells_look_like(tmp_path: Path) -> None:
    cells = [f"{k * 37 % 20000 / 1000:.3f}".replace(".", ",") for k in range(1, N + 1)]
    types, proposal, data = typed(table(v=cells))
    assert types["v"] == "number, decimal comma"
    assert not [text for text in proposal.doubts() if "'v'" in text]
    assert not data.notes


@pytest.mark.parametrize(
    ("taught", "cell", "said"),
    [
        ([1.5, 2.25, 19.125], "1,265", "1265"),
        (["1,5", "2,25"], "1.265", "1265"),
        (["1,500", "12,250"], "1,265", None),
        (["1,5", "1.250,5"], "1.265", None),
        ([1.5, 2.25], "1265", None),
    ],
)
def test_a_separator_that_training_never_had_is_said(taught: list[Any], cell: str, said: str | None) -> None:
    columns = {"kind": "tabular", "columns": ["v"]}
    config = TableConfig(table="", target="y", task="regression", modalities={"facts": columns})
    learned = read_table({"v": taught * 10, "y": list(range(10 * len(taught)))}, config).table
    data = read_table({"v": [cell, None]}, TableConfig(**(learned or {})), require_target=False)
    assert data.modalities["facts"].values[0] == (1265.0,)
    found = [note for note in data.notes if "separator of thousands" in note]
    assert [f"0: {cell} as {said}" in note for note in found] == [True] * (said is not None)


def test_every_type_can_be_written_in_a_yaml(tmp_path: Path) -> None:
    for type_ in (*CELL_TYPES, "number in km/h, decimal comma, thousands"):
        facts = {"kind": "tabular", "columns": ["v"], "types": {"v": type_}}
        config = TableConfig(table="t.csv", target="y", task="regression", modalities={"facts": facts})
        (tmp_path / "t.yaml").write_text(to_commented_yaml(config, tmp_path))
        assert load_config(tmp_path / "t.yaml").modalities["facts"].types == {"v": type_}
    (tmp_path / "t.yaml").write_text((tmp_path / "t.yaml").read_text().replace("number in km/h", "nubmer"))
    with pytest.raises(UserError, match="no such type of cells; did you mean 'number, decimal comma'"):
        load_config(tmp_path / "t.yaml")


def test_types_are_asked_for_in_python() -> None:
    cells = ["see note" if k % 9 == 0 else cell for k, cell in enumerate(NUMBERS)]
    days = ["1/2/2024"] * 9 + ["3/4/2024"] * (N - 9)
    frame = table(v=cells, code=[f"A{k}" for k in range(N)], floor=[k % 5 for k in range(N)], w=NUMBERS, day=days)
    asked = {"v": "number", "code": "text", "floor": "category", "w": "text", "day": "date, day first"}
    types, proposal, data = typed(frame, types=asked, time="none")
    assert types == {"side": "category"} | {name: type_ for name, type_ in asked.items() if type_ != "text"}
    assert {data.modalities[name].kind for name in ("code", "w")} == {"text"}
    assert not [text for text in proposal.doubts() if "'v'" in text or "'w'" in text or "'day'" in text]
    assert "0: see note" in data.notes[0]


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"vv": "number"}, "did you mean 'v'"),
        ({"v": "nubmer"}, "did you mean 'number'"),
        ({"v": 3}, "no such type of the cells of column 'v'"),
        ({"y": "number"}, "'y' is the target"),
    ],
)
def test_mistakes_in_types_are_named(types: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        propose_table(table(v=NUMBERS), target="y", types=types)


def test_slips_are_said_once_in_python(tmp_path: Path) -> None:
    frame = table(v=["see note", *NUMBERS[1:]])
    with pytest.warns(UserWarning, match="column 'v' .*see note") as found:
        encode_frame(frame, "y", tmp_path, types={"side": "category"}, progress=False)
    assert len([one for one in found if "see note" in str(one.message)]) == 1
