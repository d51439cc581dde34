"""Tables in memory: pandas, polars, pyarrow and dictionaries alike, compared, fitted and predicted."""

import datetime
import inspect
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

import weft
from tests.cli.test_verbs import weft as weft_verb
from weft.data.columns import Columns
from weft.errors import UserError

QUICK = {"only": ["linear", "chance"], "seeds": 1, "resamples": 99, "budget": 60, "progress": False}


def cells(rows: int = 120) -> dict[str, list]:
    rng = np.random.default_rng(0)
    size, colour = rng.normal(size=rows), rng.choice(["red", "blue"], rows)
    kind = np.where(size + (colour == "red") > 0.5, "big", "small")
    size = [None if i == 7 else float(s) for i, s in enumerate(size)]
    days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(days=i) for i in range(rows)]
    return {"size": size, "colour": colour.tolist(), "day": days, "kind": kind.tolist()}


FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table, "dictionary": dict}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_every_frame_gives_the_same_cells(make):
    found = Columns(make(cells()))
    assert found.names == ["size", "colour", "day", "kind"]
    assert found.rows == 120
    assert found.cells("size", "test")[7] is None
    assert found.cells("colour", "test") == cells()["colour"]
    assert found.cells("day", "test")[3] == datetime.datetime(2024, 1, 4)


def test_pandas_keeps_whole_numbers_and_knows_what_is_missing():
    frame = pd.DataFrame(
        {"n": pd.array([1, None, 3], dtype="Int64"), "c": pd.Categorical(["x", None, "y"]), 5: [1, 2, 3]}
    )
    found = Columns(frame)
    assert found.names == ["n", "c", "5"]
    assert found.cells("n", "test") == [1, None, 3]
    assert found.cells("c", "test") == ["x", None, "y"]
    assert found.cells("5", "test") == [1, 2, 3]


def test_a_comparison_of_a_frame_keeps_a_model_that_reads_frames(tmp_path: Path):
    frame = pd.DataFrame(cells())
    found = weft.compare(frame, target="kind", folder=tmp_path, **QUICK)
    assert found.best is not None
    assert "kind" not in found.modalities
    model = weft.load_model(found.best)
    answers = model.predict(frame.drop(columns="kind").sample(frac=1, random_state=1), progress=False)["prediction"]
    truth = frame.sample(frac=1, random_state=1)["kind"].to_numpy()
    assert (answers == truth).mean() > 0.8
    alone = model.predict({name: column[:1] for name, column in cells().items()}, progress=False)
    assert alone["prediction"][0] == model.predict(frame, progress=False)["prediction"][0]
    assert found._repr_markdown_().startswith("**")
    turned = frame.drop(columns="kind").set_index(frame.index[::-1] + 1000)
    table = model.predict_frame(turned, progress=False)
    assert table.index.equals(turned.index)
    assert list(table.columns) == ["prediction", *(f"probability_{c}" for c in model.task.labels), "confidence"]
    together = model.predict(turned, progress=False)["probability"]
    np.testing.assert_array_equal(table[[f"probability_{c}" for c in model.task.labels]], together)
    assert isinstance(model.predict_frame(pl.DataFrame(cells()), progress=False), pl.DataFrame)
    assert list(model.predict_frame(cells(), progress=False)) == list(table.columns)
    with pytest.raises(UserError, match="use predict"):
        model.predict_frame(tmp_path / "new.csv")
    frame.to_csv(tmp_path / "new.csv", index=False)
    written = model.predict(tmp_path / "new.csv", progress=False)["prediction"]
    assert list(written) == list(model.predict(frame, progress=False)["prediction"])
    with pytest.raises(UserError, match="list of cells"):
        model.predict(dict(frame.iloc[0]), progress=False)
    with pytest.raises(UserError, match="Series"):
        model.predict(frame.iloc[0], progress=False)


def test_the_sentence_says_when_one_column_alone_tells_the_target(tmp_path: Path):
    told = {**cells(), "parcel": [f"a {kind} one" for kind in cells()["kind"]]}
    found = weft.compare(told, target="kind", folder=tmp_path / "told", **QUICK)
    assert "Beware: column 'parcel' alone tells 'kind' (AUC 1.000" in found.sentence
    assert "--drop 'parcel'" in found.sentence
    fair = weft.compare(told, target="kind", drop=["parcel"], folder=tmp_path / "fair", **QUICK)
    assert "Beware" not in fair.sentence


def doubtful() -> pd.DataFrame:
    stars = [k % 5 + (k % 7 == 0) for k in range(120)]
    both = [f"{1 + k % 12}/{1 + k % 11}/2024" for k in range(120)]
    told = [f"so {star}" for star in stars]
    odd = {"row_id": range(120), "same": ["x"] * 120, "when": both, "told": told, "stars": stars}
    return pd.DataFrame({**cells(), **odd})


CALLS = {
    "compare": lambda frame, folder: weft.compare(frame, "stars", folder=folder, **{**QUICK, "only": ["chance"]}),
    "fit": lambda frame, folder: weft.fit(
        frame, "stars", "concat", folder=folder, dim=8, config={"epochs": 1}, progress=False
    ),
    "estimator": lambda frame, folder: weft.WeftClassifier(("chance",)).fit(
        frame.drop(columns="stars"), frame["stars"]
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_init_says_of_columns_in_doubt_is_warned_of(tmp_path: Path, call: str):
    """Once each, in the words of the terminal, pointing at the line that called."""
    doubtful().to_csv(tmp_path / "t.csv", index=False)
    printed = weft_verb("init", tmp_path / "t.csv", "--target", "stars", "-o", tmp_path / "t.yaml")
    frame = doubtful()
    with pytest.warns(UserWarning, match="row_id") as caught:
        CALLS[call](frame, tmp_path / "out")
    said = [str(one.message) for one in caught if one.filename == __file__]
    texts = ["id: row_id (named", "left out: same (the same", "day first", "'told' alone tells", "steps of a scale"]
    for text in texts[: 4 if call == "estimator" else 5]:
        assert [text in line for line in said].count(True) == 1
        assert text in printed


def test_steps_of_a_scale_are_asked_for_in_one_word(tmp_path: Path):
    steps = {**cells(), "kind": [k % 3 for k in range(120)]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = weft.compare(steps, target="kind", task="ordinal", drop=["day"], folder=tmp_path, **QUICK)
    assert "kappa_quadratic" in found.sentence


def test_a_handful_of_rows_is_compared_without_a_figure_that_they_do_not_define(tmp_path: Path):
    found = weft.compare({"a": [0, 1, 2, 3, 4], "y": [0, 1, 0, 1, 0]}, target="y", folder=tmp_path, **QUICK)
    assert "nan" not in found.sentence
    assert "on 1 test row," in found.sentence
    assert "the test rows do not define auc" in found.sentence


def test_arguments_have_their_names_and_others_are_refused():
    known = inspect.signature(weft.compare).parameters
    assert {"frame", "target", "folder", "drop", "budget", "metric", "seeds"} <= set(known)
    assert known["seeds"].default == 5
    assert "settings" not in known
    assert {"frame", "fusion", "folder", "dim", "config", "dropout"} <= set(inspect.signature(weft.fit).parameters)
    for verb, name in ((weft.compare, "foldr"), (weft.fit, "foldr"), (weft.compare, "out")):
        with pytest.raises(UserError, match=f"no argument '{name}'(.|\n)*folder"):
            verb(cells(), target="kind", **{name: "x"})


@pytest.mark.parametrize("verb", [weft.compare, weft.fit])
def test_a_folder_that_cannot_be_is_refused_before_the_work(verb, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in ("/proc/x", tmp_path / "file" / "x"):
        with pytest.raises(UserError, match="cannot be written"):
            verb(cells(), target="kind", folder=folder)


def test_photos_by_path_and_one_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = {"photo": [], "note": [], "label": []}
    for i in range(96):
        label = ["dark", "light"][i % 2]
        pixels = rng.integers(0, 60, (16, 16, 3)) + 180 * (label == "light")
        Image.fromarray(pixels.astype(np.uint8)).save(f"{i}.png")
        frame["photo"].append(f"{i}.png")
        frame["note"].append(f"seen on day {i % 5}, rather late")
        frame["label"].append(label)
    model = weft.fit(frame, "label", "concat", folder="out", dim=8, config={"epochs": 40, "lr": 0.01}, progress=False)
    assert "photo" in model.names
    assert (model.predict(pl.DataFrame(frame), progress=False)["prediction"] == np.array(frame["label"])).mean() > 0.9


@pytest.mark.parametrize(("verb", "name"), [(weft.compare, "weft.compare"), (weft.fit, "weft.fit")])
def test_without_a_target_the_verb_and_the_columns_are_named(verb, name: str):
    with pytest.raises(
        UserError, match=rf"{name} needs(.|\n)*'size', 'colour', 'day', 'kind'(.|\n)*{name}\(frame, target="
    ):
        verb(cells())


def test_a_table_that_was_changed_is_compared_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cell of a notebook that runs again: other values, a column more, one less; the first model stays."""
    monkeypatch.chdir(tmp_path)
    first = weft.compare(cells(), target="kind", **QUICK)
    again = weft.compare(cells(), target="kind", **QUICK)
    assert first.best == again.best
    changed = {**cells(), "size": [0.5] * 60 + [1.5] * 60}
    for table in (changed, {**cells(), "more": cells()["size"]}, {n: c for n, c in cells().items() if n != "day"}):
        other = weft.compare(table, target="kind", **QUICK)
        assert other.best != first.best
        weft.load_model(other.best).predict(table, progress=False)
    weft.load_model(first.best).predict(cells(), progress=False)
    weft.compare(cells(), target="kind", folder="mine", **QUICK)
    assert weft.load_model(weft.compare(changed, target="kind", folder="mine", **QUICK).best).names


def test_mistakes_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="one cell per row"):
        Columns({"a": [1, 2], "b": [1]})
    with pytest.raises(UserError, match="a table in memory is"):
        Columns(3)
    with pytest.raises(UserError, match="no column 'knd'"):
        weft.compare(cells(), target="knd", folder=tmp_path, **QUICK)
