"""Targets of two columns, time and event, at every door: the command line, a YAML, a table in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import weft
from tests.cli.test_verbs import weft as weft_verb
from tests.compare.test_frames import QUICK
from weft.data import load_config, propose_table, read_table
from weft.data.findings import look_over
from weft.errors import UserError

ROWS = 120


def frame(**columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS).round(3)
    days = (rng.exponential(np.exp(-2 * x)) + 0.1).round(2)
    return pd.DataFrame({"x": x, "days": days, "gone": (rng.random(ROWS) < 0.7).astype(int), **columns})


@pytest.mark.parametrize("asked", [["--target", "days,gone"], ["--target", "days", "--target", "gone"]])
def test_init_writes_both_targets(tmp_path: Path, asked: list[str]) -> None:
    frame().to_csv(tmp_path / "t.csv", index=False)
    printed = weft_verb("init", tmp_path / "t.csv", *asked, "--task", "survival", "-o", tmp_path / "t.yaml")
    assert "target: days, gone" in printed
    config = load_config(tmp_path / "t.yaml")
    assert config.target_names == ["days", "gone"]
    assert [modality.names for modality in config.modalities.values()] == [["x"]]


def test_a_column_whose_name_has_a_comma_is_one_target() -> None:
    assert propose_table(frame(**{"a,b": frame()["gone"]}), target="a,b").config.target == "a,b"


@pytest.mark.parametrize("target", [None, "days", ["days", "gone", "x"]])
def test_survival_of_another_number_of_columns_is_refused(target: Any) -> None:
    with pytest.raises(UserError, match=r"two columns(.|\n)*--target TIME,EVENT"):
        propose_table(frame(), target=target, task="survival")


def test_a_frame_is_compared_and_fitted(tmp_path: Path) -> None:
    both: dict[str, Any] = {"target": ["days", "gone"], "task": "survival"}
    found = weft.compare(frame(), **both, folder=tmp_path / "c", **QUICK)
    assert "concordance" in found.sentence
    quick: dict[str, Any] = {"dim": 4, "config": {"epochs": 1}, "progress": False}
    model = weft.fit(frame(), **both, fusion="concat", folder=tmp_path / "f", **quick)
    assert model.predict(frame().drop(columns=["days", "gone"]), progress=False)["prediction"].shape == (ROWS,)


def read(table: pd.DataFrame) -> Any:
    return read_table(table, propose_table(table, target=["days", "gone"], task="survival").config)


def test_rows_are_refused_by_their_own_number_before_anything_is_encoded(tmp_path: Path) -> None:
    table = frame()
    table.loc[3, "gone"] = np.nan
    table.loc[[105, 110], "days"] = [0.0, -1.0]
    with pytest.raises(UserError, match=r"times are above zero(.|\n)*2 rows, '105', '110'") as at:
        read(table)
    assert "empty" in at.value.remedy
    with pytest.raises(UserError, match="swap the two columns"):
        read(frame().assign(days=0.0))
    with pytest.raises(UserError, match="a survival target has events"):
        read(frame(gone=[0] * ROWS))


@pytest.mark.parametrize("words", [(True, False), ("True", "false")])
def test_events_may_be_true_and_false(words: tuple[Any, Any]) -> None:
    there = frame()["gone"] == 1
    data = read(frame(gone=[words[0] if event else words[1] for event in there]))
    np.testing.assert_array_equal(data.targets["days"][:, 1], there)


def test_words_are_not_to_be_emptied_where_all_are_words() -> None:
    with pytest.raises(UserError, match="no finite numbers") as at:
        read(frame(gone=["dead", "alive"] * (ROWS // 2)))
    assert "empty" not in at.value.remedy
    assert "0 and 1" in at.value.remedy


def test_check_counts_events_and_not_days() -> None:
    facts = look_over(read(frame()), None).facts
    assert facts["target gone"] == f"1 in {frame()['gone'].sum()} of {ROWS} rows, else 0"
    assert facts["target days"].startswith("numbers from 0.1")
