"""`weft predict` of rows with files that are missing or damaged: all are named at once, or left out and said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.store.test_failures import photos
from weft.cli import app
from weft.errors import UserError

BAD = {3: "missing", 5: "cut", 11: "text"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of photos and numbers, and new rows: three photos are bad, and row 5 has no number either."""
    root = tmp_path_factory.mktemp("predict")
    photos(root / "good", bad={})
    photos(root / "new", bad=BAD)
    for name in ("good", "new"):
        with (root / f"{name}.csv").open("w", newline="") as file:
            numbers = ["" if (name, i) == ("new", 5) else str(i) for i in range(12)]
            rows = [(f"{name}/{i}.png", numbers[i], "ab"[i % 2]) for i in range(12)]
            csv.writer(file).writerows([("photo", "n", "label"), *rows])
    columns = "  photo: {kind: image, column: photo}\n  facts: {kind: tabular, columns: [n], types: {n: number}}\n"
    (root / "weft.yaml").write_text(f"table: good.csv\ntarget: label\ntask: classification\nmodalities:\n{columns}")
    model = ["-o", str(root / "model"), "--store", str(root / "store")]
    fit = ["fit", str(root / "weft.yaml"), "--fusion", "concat", "--dim", "4", "--set", "epochs=1", "-q", *model]
    assert CliRunner().invoke(app, fit).exit_code == 0
    return root


def predict(world: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["predict", str(world / "model"), str(world / "new.csv"), *more])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout if "--json" in more else done.output


def test_all_rows_are_named_at_once(world: Path) -> None:
    with pytest.raises(UserError) as at:
        predict(world)
    assert "3 such cells: '3 (photo)', '5 (photo)', '11 (photo)'" in at.value.found
    assert "predict" in at.value.remedy


def test_what_fails_is_left_out_and_said(world: Path, tmp_path: Path) -> None:
    said = predict(world, "--on-error", "skip", "-o", str(tmp_path / "p.csv"), "-q")
    assert "3 cells could not be read" in said
    assert "1 row with nothing else: no prediction" in said
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [row["id"] for row in rows if not row["prediction"]] == ["5"]
    assert [row["probability_a"] for row in rows if not row["prediction"]] == [""]
    answers = json.loads(predict(world, "--on-error", "skip", "--json"))
    assert answers["prediction"][5] is None
    assert len(answers["id"]) == len(answers["probability"]) == 12
