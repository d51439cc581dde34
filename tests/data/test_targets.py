"""Targets as people have them: numbers with words for missing or other words among them, dates, infinite values."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import weft
from tests.cli.test_verbs import weft as weft_verb
from tests.compare.test_frames import QUICK
from weft import WeftClassifier, WeftRegressor
from weft.data import propose_table, read_table
from weft.errors import UserError

ROWS = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=ROWS).round(3)
PRICE = (20 + 3 * X + RNG.normal(size=ROWS)).round(2)
DAYS = [datetime.datetime(2020, 1, 1) + datetime.timedelta(days=day) for day in range(ROWS)]
FEW = np.where(X > 0, "1", "0").tolist()


def frame(y: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": X, "z": RNG.normal(size=ROWS), "y": y})


def some_are(y: Any, word: Any) -> list[Any]:
    return [word if row % 9 == 0 else str(cell) for row, cell in enumerate(y)]


@pytest.mark.parametrize("word", ["N/A", "?", "missing"])
@pytest.mark.parametrize(("y", "task"), [(PRICE, "regression"), (FEW, "classification")], ids=["price", "0 and 1"])
def test_words_for_missing_among_numbers_are_a_missing_target(y: Any, task: str, word: str) -> None:
    table = frame(some_are(y, word))
    config = propose_table(table, target="y").config
    assert config.task == task
    data = read_table(table, config)
    assert len(data) == ROWS - 7
    assert data.targets["y"].dtype.kind == ("f" if task == "regression" else "i")
    assert f"left out: 7 of 60 rows whose target 'y' is missing ({word!r}): '0', '9'" in data.notes[0]


def test_among_words_they_are_a_class_that_is_asked_about() -> None:
    table = frame(some_are(np.where(X > 0, "mild", "severe"), "none"))
    assert set(read_table(table, propose_table(table, target="y").config).targets["y"]) == {"mild", "severe", "none"}


def test_numbers_with_words_among_them_are_refused_with_both_ways_out(tmp_path: Path) -> None:
    table = frame(some_are(PRICE, "on request"))
    with pytest.raises(UserError, match=r"numbers with words(.|\n)*7 of 60 cells: '0: on request'") as at:
        weft.compare(table, target="y", folder=tmp_path)
    assert "empty" in at.value.remedy
    with pytest.raises(UserError, match="numbers with words"):
        weft.fit(table, target="y", folder=tmp_path)
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match="numbers with words"):
        weft_verb("init", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "t.yaml")
    asked = propose_table(table, target="y", task="classification").config
    assert len(read_table(table, asked)) == ROWS
    few = frame(some_are(RNG.integers(1, 4, ROWS), "4+"))
    assert propose_table(few, target="y").config.task == "classification"


def test_a_number_target_with_other_cells_says_how_to_mend_them() -> None:
    infinite = frame(np.where(np.arange(ROWS) == 5, np.inf, PRICE))
    words = frame(some_are(PRICE, "on request"))
    for table, cell in ((infinite, "5: inf"), (words, "0: on request")):
        config = propose_table(table, target="y", task="regression").config
        with pytest.raises(UserError, match="no finite numbers") as at:
            read_table(table, config)
        assert cell in at.value.found
        assert "empty" in at.value.remedy
        assert "classification" not in at.value.remedy


@pytest.mark.parametrize("y", [DAYS, [f"{day:%Y-%m-%d}" for day in DAYS]], ids=["datetime", "ISO"])
def test_a_target_of_dates_is_refused_with_the_ways_out(y: Any, tmp_path: Path) -> None:
    table = frame(y)
    table.to_csv(tmp_path / "t.csv", index=False)
    doors = [
        lambda: weft.compare(table, target="y", folder=tmp_path),
        lambda: weft.fit(table, target="y", folder=tmp_path),
        lambda: propose_table(tmp_path / "t.csv", target="y"),
        lambda: WeftRegressor().fit(table[["x"]], table["y"]),
        lambda: WeftClassifier().fit(table[["x"]], table["y"]),
        lambda: read_table(table, propose_table(table, target="y", task="regression").config),
        lambda: read_table(table, propose_table(table, target="y", task="classification").config),
    ]
    for door in doors:
        with pytest.raises(UserError, match="dates, which are neither") as at:
            door()
        assert "days since" in at.value.remedy
        assert "survival" in at.value.remedy


def test_many_classes_are_said_once_and_not_by_every_fit(tmp_path: Path) -> None:
    names = np.array([f"{price}x" for price in PRICE])
    names[::6] = "a"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        weft.compare(frame(names), target="y", folder=tmp_path, **QUICK)
    assert sum("different values" in str(text.message) for text in said) == 1
    assert not any("unique classes" in str(text.message) for text in said)


def test_a_boolean_target_is_answered_in_booleans(tmp_path: Path) -> None:
    table = frame(X > 0)
    table.loc[3, "y"] = True
    best = weft.compare(table, target="y", folder=tmp_path, **QUICK).best
    model = weft.load_model(best)
    answers = model.predict(table.drop(columns="y"), progress=False)["prediction"]
    assert (answers == table["y"]).mean() > 0.8
    assert model.predict_frame(table, progress=False)["prediction"].dtype == bool
    table.to_csv(tmp_path / "t.csv", index=False)
    assert weft_verb("evaluate", best, tmp_path / "t.csv", "--json")
    loaded = read_table(tmp_path / "t.csv", propose_table(tmp_path / "t.csv", target="y").config)
    assert model.task.encode(loaded.targets["y"]).tolist() == table["y"].astype(int).tolist()


SCALE = ["low", "middle", "zz high"]
STEPS = [SCALE[k] for k in np.digitize(X, [-0.5, 0.5])]


def test_words_of_a_scale_are_written_for_a_person_to_order(tmp_path: Path) -> None:
    steps = ["high" if step == "zz high" else step for step in STEPS]
    frame(steps).to_csv(tmp_path / "t.csv", index=False)
    said = weft_verb("init", tmp_path / "t.csv", "--target", "y", "--task", "ordinal", "-o", tmp_path / "t.yaml")
    assert "the labels of 'y' are in order by the alphabet: put the lowest first: 'high', 'low', 'middle'" in said
    text = (tmp_path / "t.yaml").read_text()
    assert "labels: [high, low, middle]" in text
    (tmp_path / "t.yaml").write_text(text.replace("labels: [high", "# labels: [high"))
    assert "need their order" in weft_verb("check", tmp_path / "t.yaml")
    with pytest.raises(UserError, match=r"need their order(.|\n)*labels=\[(.|\n)*Categorical"):
        weft.compare(frame(steps), target="y", task="ordinal", folder=tmp_path)


def test_python_takes_the_order_of_a_categorical_or_labels_also_of_steps_that_no_row_takes(tmp_path: Path) -> None:
    scale = ["none", *SCALE]
    ordered = frame(pd.Categorical(STEPS, categories=scale, ordered=True))
    best = weft.compare(ordered, target="y", task="ordinal", folder=tmp_path / "a", **QUICK).best
    model = weft.load_model(best)
    assert model.task.labels == scale
    assert np.isfinite(model.predict(ordered, progress=False)["probability"]).all()
    given = weft.compare(frame(STEPS), target="y", task="ordinal", labels=scale, folder=tmp_path / "b", **QUICK).best
    assert weft.load_model(given).task.labels == scale
    assert any("none < low < middle < zz high" in text for text in propose_table(ordered, target="y").warnings)
    with pytest.raises(UserError, match="labels are of a target of classes"):
        weft.fit(frame(PRICE), target="y", labels=scale, folder=tmp_path / "c")


def test_a_class_too_rare_for_the_metric_is_named_without_nan(tmp_path: Path) -> None:
    rare = frame(["b"] * 2 + ["a"] * (ROWS - 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        said = weft.compare(rare, target="y", folder=tmp_path, **QUICK).sentence
    assert "do not define auc" in said
    assert "no test row has the class 'b' (of 2 rows in all)" in said
    assert "another metric" in said
    assert "nan" not in said


def test_what_is_said_in_python_has_the_ways_out_of_python_too() -> None:
    spelt = frame(np.where(X > 0, np.where(np.arange(ROWS) % 2, "Yes", "yes  it is"), "yes IT is"))
    (text,) = [t for t in propose_table(spelt, target="y").warnings if "spelling" in t]
    assert "'yes  it is', 'yes IT is'" in text
    told = propose_table(frame(X > 0), target="y").warnings
    assert any("--drop 'x'" in text and "drop=['x']" in text for text in told)
    grades = propose_table(frame(RNG.integers(1, 6, ROWS)), target="y").warnings
    assert any("--task ordinal" in text and 'task="ordinal"' in text for text in grades)


def test_a_yaml_says_what_was_asked_for_and_what_was_guessed(tmp_path: Path) -> None:
    frame(PRICE).to_csv(tmp_path / "t.csv", index=False)
    weft_verb("init", tmp_path / "t.csv", "--target", "y", "--group", "none", "-o", tmp_path / "t.yaml")
    lines = (tmp_path / "t.yaml").read_text().splitlines()
    assert any(line.startswith("group: null  # as asked for. ") for line in lines)
    assert any(line.startswith("task: regression  # guessed: numbers. ") for line in lines)


@pytest.mark.parametrize("make", [lambda day: day, lambda day: f"{day:%Y-%m-%d}"], ids=["datetime", "ISO"])
def test_a_few_dates_asked_for_as_classes_are_said_with_the_way_out(make: Any) -> None:
    table = frame([make(DAYS[row % 12]) for row in range(ROWS)])
    for task in ("classification", "ordinal"):
        proposal = propose_table(table, target="y", task=task)
        data = read_table(table, proposal.config)
        (said,) = [note for note in data.notes if "holds dates" in note]
        assert said in proposal.unread
        assert "each of the 12 is a class" in said
        assert "days since a fixed day" in said
        again = read_table(table, type(proposal.config)(**data.table))  # its classes are said by now
        assert not any("holds dates" in note for note in again.notes)
    with pytest.raises(UserError, match="dates, which are neither"):
        read_table(frame([make(day) for day in DAYS]), proposal.config)


def test_words_and_numbers_asked_for_as_classes_are_no_dates() -> None:
    for y in (FEW, [f"v{row % 5}" for row in range(ROWS)], [2018 + row % 5 for row in range(ROWS)]):
        table = frame(y)
        assert not read_table(table, propose_table(table, target="y", task="classification").config).notes
