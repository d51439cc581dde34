"""Groups are entities that new rows bring new ones of, not categories; rows that happened in time are split by time."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from weft.data import propose_table, read_table
from weft.data.entities import is_entity, names_people, words_of
from weft.data.findings import look_over

ROWS = 300
RNG = np.random.default_rng(0)
BASE = {"size": RNG.normal(size=ROWS).round(3).tolist(), "sold": RNG.choice(["yes", "no"], ROWS).tolist()}


def proposal(**columns: Any) -> Any:
    return propose_table({**columns, **BASE}, target="sold")


def skewed(values: int) -> np.ndarray:
    """As products are sold: a few often, many seldom."""
    share = 1 / np.arange(1, values + 1)
    return RNG.choice(values, ROWS, p=share / share.sum())


GROUPS = {
    "hashes of few rows each": ("RescuerID", [f"{i:032x}" for i in RNG.integers(10**12, 10**12 + 180, ROWS)]),
    "a patient of ten rows": ("patient_id", np.repeat(np.arange(30), 10).tolist()),
    "words that name people": ("Customer Name", np.repeat([f"n{i}" for i in range(20)], 15).tolist()),
    "five by design": ("item_id", np.repeat(np.arange(60), 5).tolist()),
    "two visits": ("visit_key", [f"v{i // 2:05d}" for i in range(ROWS)]),
    "speaker of few": ("speaker", RNG.choice(["ann", "bob", "eve"], ROWS).tolist()),
}
CATEGORIES = {
    "a product": ("Clothing ID", (skewed(60) + 800).tolist()),
    "a shop of many days": ("shop_id", np.tile(np.arange(10), 30).tolist()),
    "hashed categories": ("site_key", [f"{i:08x}" for i in skewed(12) + 10**9]),
    "a breed": ("Breed1", skewed(20).tolist()),
    "a rating by users": ("user rating", RNG.integers(1, 6, ROWS).tolist()),
    "two arms": ("group", RNG.choice(["treated", "control"], ROWS).tolist()),
    "an age group": ("age group", RNG.choice(["young", "old", "none"], ROWS).tolist()),
}


@pytest.mark.parametrize(("name", "cells"), GROUPS.values(), ids=GROUPS)
def test_entities_are_groups(name: str, cells: list[Any]) -> None:
    found = proposal(**{name: cells})
    assert found.config.group == name
    assert found.reasons["group"]
    assert found.config.splits.method == "grouped"
    assert all(name not in modality.names for modality in found.config.modalities.values())


@pytest.mark.parametrize(("name", "cells"), CATEGORIES.values(), ids=CATEGORIES)
def test_categories_are_none(name: str, cells: list[Any]) -> None:
    found = proposal(**{name: cells})
    assert found.config.group is None
    assert found.config.splits.method == "stratified"
    if name == "Clothing ID":
        assert "a category, not a group" in found.reasons["column 'Clothing ID'"]
        assert found.config.modalities["tabular"].types[name] == "category"
        assert propose_table({name: cells, **BASE}, target="sold", group=name).config.group == name


def test_what_the_rule_looks_at() -> None:
    assert is_entity({"a": 1, "b": 1, "c": 4})
    assert is_entity({"a": 5, "b": 5, "c": 6})
    assert not is_entity({"a": 11, "b": 11, "c": 11})
    assert not is_entity({"a": 1, "b": 1, "c": 12})
    assert words_of("RescuerID") == ["rescuer", "id"]
    assert [names_people(n) for n in ("PatientID", "user", "User Name", "user rating", "id user")] == [1, 1, 1, 0, 0]


def days(step: int = 1, start: str = "2024-01-01") -> list[str]:
    first = datetime.date.fromisoformat(start)
    return [str(first + datetime.timedelta(days=step * i)) for i in range(ROWS)]


def shuffled(cells: list[str]) -> list[str]:
    return [cells[i] for i in np.random.default_rng(1).permutation(ROWS)]


IN_TIME = {
    "a log, whatever its name": ("x", days()),
    "newest first": ("x", days()[::-1]),
    "its name says so": ("posted at", shuffled(days())),
    "day first": ("Order date", [f"{d[8:]}.{d[5:7]}.{d[:4]}" for d in shuffled(days())]),
}
NOT_IN_TIME = {
    "birthdays": ("birth date", shuffled(days(40, "1950-01-01"))),
    "no word for it": ("x", shuffled(days())),
    "gaps": ("date", ["", *shuffled(days())[1:]]),
    "few moments": ("date", RNG.choice(days()[:5], ROWS).tolist()),
}


@pytest.mark.parametrize(("name", "cells"), IN_TIME.values(), ids=IN_TIME)
def test_rows_in_time_are_split_by_time(name: str, cells: list[str]) -> None:
    found = proposal(**{name: cells})
    assert (found.config.time, found.config.splits.method) == (name, "temporal")
    assert "the earliest train" in found.reasons["time"]
    data = read_table({name: cells, **BASE}, found.config)
    assert data.time[data.split == "train"].max() < data.time[data.split == "test"].min()
    assert propose_table({name: cells, **BASE}, target="sold", time="none").config.splits.method == "stratified"


@pytest.mark.parametrize(("name", "cells"), NOT_IN_TIME.values(), ids=NOT_IN_TIME)
def test_other_dates_do_not_split(name: str, cells: list[str]) -> None:
    config = proposal(**{name: cells}).config
    assert (config.time, config.splits.method) == (None, "stratified")
    asked = propose_table({name: shuffled(days()), **BASE}, target="sold", time=name).config
    assert (asked.time, asked.splits.method) == (name, "temporal")


def test_no_split_by_time_where_it_cannot_be_learned() -> None:
    late = ["new" if i > 280 else cell for i, cell in enumerate(BASE["sold"])]
    found = propose_table({"day": days(), **BASE, "sold": late}, target="sold")
    assert (found.config.time, found.config.splits.method) == (None, "stratified")
    assert "classes that no earlier row has, such as 'new'" in found.reasons["time"]
    piled = [*days()[:20], *["2024-12-01"] * (ROWS - 20)]
    assert "one moment" in proposal(day=piled).reasons["time"]
    grouped = proposal(day=days(), person=np.tile(np.arange(30), 10).tolist())
    assert grouped.config.group == "person"
    assert grouped.config.splits.method in ("temporal", "grouped")
    read_table({"day": days(), "person": np.tile(np.arange(30), 10).tolist(), **BASE}, grouped.config)


def test_a_split_column_and_retrieval_come_first() -> None:
    given = ["train"] * 200 + ["test"] * 100
    assert proposal(day=days(), part=given).config.splits.method == "given"
    assert (
        propose_table({"day": days(), "words": ["a few words here"] * 299 + ["b"]}, target="none").config.time is None
    )


@pytest.mark.parametrize("cells", [[f"S{i}" for i in range(ROWS)], [f"{i}-b" for i in range(ROWS)]], ids=["S7", "7-b"])
def test_short_codes_of_rows_are_no_text(cells: list[str]) -> None:
    found = proposal(sku=cells)
    assert "sku" not in found.config.modalities
    assert "another code in every row" in found.left_out["sku"]


LABELS = [f"fuel {k}, as the law of that year wants it to be described" for k in range(5)]


@pytest.mark.parametrize("longest", [1, 3], ids=["a line", "a paragraph"])
def test_a_few_long_labels_are_a_category_and_no_group(longest: int) -> None:
    fuels = RNG.choice([label * longest for label in LABELS], ROWS, p=[0.5, 0.3, 0.15, 0.04, 0.01]).tolist()
    found = proposal(fuel=fuels)
    assert found.config.group is None
    assert found.config.modalities["tabular"].names == ["fuel", "size"]


def test_a_group_of_few_values_is_warned_of() -> None:
    few = {"speaker": RNG.choice(["ann", "bob", "eve"], ROWS).tolist(), **BASE}
    said = "group 'speaker' has 3 values in 300 rows"
    found = propose_table(few, target="sold")
    assert any(said in text for text in found.warnings)
    assert any(said in text for text in look_over(read_table(few, found.config), None).warnings)
    many = {"speaker": np.tile(np.arange(30), 10).tolist(), **BASE}
    assert not propose_table(many, target="sold").warnings
