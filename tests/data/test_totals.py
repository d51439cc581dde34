"""Rows of sums under a table are no samples; lists of words are texts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from weft.data import TableConfig, propose_table, read_table
from weft.data.more_rows import read_more
from weft.serve.rows import Reader

N = 60
SHOP = pd.DataFrame(
    {
        "store": [f"Store {k}" for k in range(N)],
        "qty": [1 + k * 7 % 40 for k in range(N)],
        "price": [round(1 + k * 37 % 100 / 13, 2) for k in range(N)],
        "region": [("N", "S")[k % 2] for k in range(N)],
        "revenue": [round(k * 3.17 % 50, 2) for k in range(N)],
    }
)
SUMS = ["Total", SHOP.qty.sum(), SHOP.price.mean(), None, SHOP.revenue.sum()]
MEANS = ["Average:", round(SHOP.qty.mean(), 2), round(SHOP.price.mean(), 2), None, round(SHOP.revenue.mean(), 1)]


def under(*rows: list[Any]) -> pd.DataFrame:
    return pd.DataFrame([*SHOP.to_numpy().tolist(), *rows], columns=SHOP.columns)


def read(source: Any, **chosen: Any) -> Any:
    proposal = propose_table(source, target="revenue", **chosen)
    return proposal, read_table(source, proposal.config)


@pytest.mark.parametrize(
    "rows",
    [[SUMS], [MEANS], [SUMS, MEANS], [["GRAND TOTAL", None, None, None, f"{SHOP.revenue.sum():.2f}"]]],
    ids=["sums", "means", "both", "text"],
)
def test_rows_of_sums_are_left_out_and_said(rows: list[list[Any]], tmp_path: Path) -> None:
    proposal, data = read(under(*rows))
    assert len(data) == N
    (said,) = data.notes
    assert f"{N}: {rows[0][0]}".rstrip(":") in said
    assert "sums or means" in said
    assert proposal.unread == [said]
    under(*rows).to_csv(tmp_path / "shop.csv", index=False)
    _, of_file = read(tmp_path / "shop.csv")
    assert (len(of_file), of_file.notes) == (N, data.notes)
    assert of_file.targets["revenue"].tolist() == SHOP.revenue.tolist()


def test_so_are_they_with_decimal_commas_and_among_rows_that_come_later() -> None:
    def comma(frame: pd.DataFrame) -> Any:
        return pl.DataFrame({name: [str(cell).replace(".", ",") for cell in frame[name]] for name in frame})

    _, data = read(comma(under(SUMS)))
    assert len(data) == N
    assert len(read_more(under(SUMS), data.table)) == N


@pytest.mark.parametrize(
    "row",
    [
        ["Total", 7, 2.5, "N", 40.0],
        ["Store 60", SHOP.qty.sum(), SHOP.price.mean(), None, SHOP.revenue.sum()],
        ["total loss", SHOP.qty.sum(), SHOP.price.mean(), "N", SHOP.revenue.sum()],
    ],
    ids=["a brand", "no word", "another word"],
)
def test_rows_that_are_no_sums_stay(row: list[Any]) -> None:
    _, data = read(under(row))
    assert len(data) == N + 1
    assert not data.notes


def test_a_word_that_comes_in_other_rows_is_a_category() -> None:
    frame = SHOP.assign(kind=[("good", "average")[k % 2] for k in range(N)], flag=[k % 3 // 2 for k in range(N)])
    frame.loc[N - 1, "revenue"] = round(frame.revenue[: N - 1].mean(), 2)
    assert len(read(frame)[1]) == N


def test_new_rows_keep_theirs_which_is_not_judged() -> None:
    _, data = read(SHOP)
    found = read_table(under(SUMS), TableConfig(**data.table), require_target=False)
    assert len(found) == N + 1
    assert np.isnan(found.targets["revenue"]).tolist() == [False] * N + [True]
    assert any("not judged" in note and f"{N}: Total" in note for note in found.notes)


def grouped(say: Any, sizes: tuple[int, ...] = (20, 25, 15), mean: bool = False) -> pd.DataFrame:
    """The shop's rows by group, each with its sums, or its means, beneath."""
    rows, first = [], 0
    for group, size in zip(("North", "South", "Isles"), sizes, strict=True):
        part = SHOP[first : first + size]
        numbers = part[["qty", "price", "revenue"]].agg("mean" if mean else "sum").round(2)
        rows += [[group, *row] for row in part.drop(columns=["region"]).to_numpy().tolist()]
        rows.append([say(group), None, *numbers])
        first += size
    return pd.DataFrame(rows, columns=["region", "store", "qty", "price", "revenue"])


SUBTOTALS = {
    "a word": grouped(lambda group: "Subtotal"),
    "a word after": grouped("{} Total".format),
    "a word before": grouped("Total {}:".format),
    "means": grouped(lambda group: "Average", mean=True),
    "a grand total": pd.concat(
        [grouped("{} Total".format), pd.DataFrame([{"region": "Grand Total", **SHOP[["qty", "revenue"]].sum()}])]
    ),
}


@pytest.mark.parametrize("frame", SUBTOTALS.values(), ids=SUBTOTALS)
def test_rows_of_sums_within_a_table_are_warned_of(frame: pd.DataFrame) -> None:
    proposal, data = read(frame)
    (said,) = data.notes
    assert proposal.unread == [said]
    rows = [20, 46, 62, *range(63, len(frame))]
    assert f"{len(rows)} rows within the table with sums or means of those above" in said
    assert all(f"{row}: {frame.region.iloc[row].rstrip(':')}" in said for row in rows)
    assert len(data) == len(frame)


def test_rows_that_are_no_sums_of_their_group_are_not() -> None:
    wrong = grouped("{} Total".format)
    wrong.loc[wrong.store.isna(), ["qty", "price", "revenue"]] += 1.0
    unknown = grouped("{} Total".format).replace({"region": {"North Total": "West Total", "South Total": "East Total"}})
    other = grouped("{} overview".format)
    kinds = SHOP.assign(kind=[("good", "mean", "total")[k % 3] for k in range(N)])
    for frame in (wrong, unknown, other, kinds):
        assert not read(frame)[1].notes


TAGS = [[w for k, w in enumerate(("red", "sweet", "ripe")) if row >> k & 1] for row in range(N)]


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda words: str(words).replace("'", '"')])
def test_lists_of_words_are_texts(make: Any) -> None:
    frame = pd.DataFrame({"tags": [make(words) for words in TAGS], "size": range(N), "revenue": SHOP.revenue})
    proposal, data = read(frame)
    assert data.modalities["tags"].kind == "text"
    words = [None, "red", "sweet", "red, sweet", "ripe", "red, ripe", "sweet, ripe", "red, sweet, ripe"]
    assert data.modalities["tags"].values[:8] == words
    assert "lists of words" in proposal.reasons["column 'tags'"]
    assert proposal.config.group is None
    model = SimpleNamespace(names=["tags"], encoders={"tags": {"kind": "text"}}, table=data.table)
    served = Reader(model)
    assert served.rows([{"tags": ["red", "ripe"]}, {"tags": []}]) == [{"tags": "red, ripe"}, {}]


@pytest.mark.parametrize("make", [list, tuple, np.array])
def test_lists_of_numbers_are_none(make: Any) -> None:
    for cells, kind in (([[k, 1.5] for k in range(N)], "vector"), ([[k] * (1 + k % 3) for k in range(N)], "series")):
        proposal, _ = read({"x": [make(cell) for cell in cells], "revenue": SHOP.revenue})
        assert [modality.kind for modality in proposal.config.modalities.values()] == [kind]
