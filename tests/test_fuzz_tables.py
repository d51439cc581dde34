"""Any table: any names, any cells, anything missing, one row or none. Every step answers, or says what the user can do.

And a row's prediction is its own: alone it is what it is in its table.
"""

from __future__ import annotations

import csv
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from weft.data import TableConfig, load_config, make_splits, propose_table, read_table, to_commented_yaml
from weft.data.findings import look_over
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError
from weft.models import load_model
from weft.store import encode
from weft.training import train_model

LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
NAMES = st.one_of(
    st.text(LETTERS, max_size=8),
    st.sampled_from(["id", "label", "target", "split", "concat", "a/b", "..", "$_x$", "[red]", "x" * 200, "a|b", ""]),
)
ODD = (
    *("NA", "?", "inf", "1e300", "12E5", "10_20", "00501", "1,5", "$5", "5%", "2024-01-31", "31/1/2024", "[1, 2]"),
    *("[1, [2]]", "a.png", "x.npy", "train", "yes", " Yes", "a|b", "=1+1", '{"a": 1}', "a long text of words"),
    *("13:05", "7 kg", "9 g", "unknown", "#N/A", "Total", "1,265", '["a", "b c"]', "26:00:01"),
)
NUMBERS = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=True, allow_infinity=True))
TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=6).map(" ".join)
CELLS = st.one_of(
    *(st.none(), st.text(LETTERS, max_size=12), NUMBERS, st.booleans(), st.sampled_from(ODD), TEXTS),
    st.lists(st.floats(-5, 5), max_size=3),
    st.lists(st.sampled_from(["a", "b c"]), max_size=3),
)
COLUMNS = st.one_of(
    st.just(NUMBERS),
    st.just(TEXTS),
    st.just(st.dates().map(str)),
    st.just(st.times().map(str)),
    st.just(st.integers(0, 50).map("{} kg".format)),
    st.just(st.one_of(NUMBERS, st.none())),
    st.lists(CELLS, min_size=1, max_size=3).map(st.sampled_from),
    st.just(CELLS),
)


@st.composite
def tables(draw: Any) -> tuple[list[str], list[list[Any]]]:
    """Names, and rows; columns are of one mind, or not; most tables have something to predict."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=draw(st.integers(0, 9)) > 0))
    count = draw(st.one_of(st.integers(0, 3), *[st.integers(8, 16)] * 4))
    columns = [draw(st.lists(draw(COLUMNS), min_size=count, max_size=count)) for _ in names]
    if draw(st.integers(0, 4)):
        target = draw(st.sampled_from([["a", "b"], ["a", "b", "c"], [0, 1], ["a|b", "c"], [0.5, 1.25, 7.0]]))
        names, columns = [*names, "outcome"], [*columns, [target[i % len(target)] for i in range(count)]]
    return names, [list(row) for row in zip(*columns, strict=True)]


def write(path: Path, names: list[str], rows: list[list[Any]]) -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(
            [["" if c is None else json.dumps(c) if isinstance(c, list) else c for c in row] for row in rows]
        )
    return path


def walk(folder: Path, path: Path, **chosen: Any) -> Any:
    """init, check, encode, fit, predict; the model."""
    proposal = propose_table(path, **chosen)
    (folder / "weft.yaml").write_text(to_commented_yaml(proposal.config, folder, proposal), encoding="utf-8")
    config = load_config(folder / "weft.yaml")
    data = read_table(config.table, config)
    look_over(data, make_splits(data))
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    store = encode(data, encoders, folder / "store", progress=False)
    name = "two-tower" if data.task == "retrieval" else "concat"
    settings = {"epochs": 1, "batch_size": 8}
    train_model(store, name, folder / "model", dim=4, config=settings, progress=False)
    return load_model(folder / "model")


def predict(model: Any, path: Path) -> dict[str, np.ndarray]:
    data = read_table(path, TableConfig(**{**model.table, "table": str(path)}), require_target=False)
    found: dict[str, np.ndarray] = model.predict(data, progress=False)
    return found


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(table=tables(), suffix=st.sampled_from(["csv", "jsonl"]))
@example(table=(["a"], []), suffix="csv")
@example(table=(["", "label"], [[0, "x"]]), suffix="csv")
@example(table=(["a", "label"], [[float("inf"), 0], ["1e300", 1]] * 6), suffix="csv")
def test_every_step_answers_or_says_what_to_do(table: tuple[list[str], list[list[Any]]], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = write(folder / f"t.{suffix}", *table)
        with suppress(UserError):  # which says what to do
            model = walk(folder, path)
            if hasattr(model, "task"):
                predict(model, path)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(table=tables(), more=st.lists(CELLS, min_size=6, max_size=6))
def test_a_row_is_predicted_by_itself(table: tuple[list[str], list[list[Any]]], more: list[Any]) -> None:
    names = [f"c{i}" for i in range(len(table[0]))]
    rows = [(table[1][i % len(table[1])] if table[1] else [None] * len(names)) for i in range(18)]
    full = [[*row, i, f"a word {i % 3} or two", "ab"[i % 2]] for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = write(folder / "t.csv", [*names, "size", "note", "label"], full)
        with suppress(UserError):
            model = walk(folder, path, target="label", group="none", id="none")
            new = [[cell, *full[i][1:-1]] for i, cell in enumerate(more)]
            columns = [*names, "size", "note"]
            whole = predict(model, write(folder / "new.csv", columns, new))
            for i, row in enumerate(new):
                alone = predict(model, write(folder / f"{i}.csv", columns, [row]))
                np.testing.assert_allclose(alone["probability"][0], whole["probability"][i], atol=1e-5)
