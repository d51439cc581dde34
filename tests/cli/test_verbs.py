"""The verbs on a table of one's own, from `weft init` to `weft predict`, and what they say to bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from weft.cli import app
from weft.errors import UserError
from weft.models import load_model

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def weft(*arguments: object) -> Any:
    """Run a verb; its JSON if it printed one, else its text. A user's mistake is raised as in the library."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return json.loads(result.stdout) if "--json" in arguments else result.output


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_rows(folder: Path, count: int = 60) -> list[dict[str, object]]:
    """Photo and note; the class is whether both name the same colour."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        seen, said = (list(COLOURS)[j] for j in random.integers(2, size=2))
        photo = folder / f"{i}.png"
        Image.fromarray(np.full((32, 32, 3), COLOURS[seen], np.uint8)).save(photo)
        rows.append(
            {
                "id": f"r{i}",
                "photo": photo.name,
                "note": f"it is {said} says witness {i}",
                "size": i % 7,
                "same": said == seen,
            }
        )
    return rows


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv", make_rows(tmp_path))


@pytest.fixture
def config(table: Path) -> Path:
    weft("init", table, "--out", table.with_name("weft.yaml"))
    return table.with_name("weft.yaml")


def test_the_whole_path(config: Path, tmp_path: Path) -> None:
    found = weft("check", config, "--json")
    assert found["rows"] == 60
    assert found["split train"] + found["split dev"] + found["split test"] == 60
    store = tmp_path / "store"
    made = weft("encode", config, "--out", store, "--json", "--quiet")
    assert made["rows"] == 60
    assert set(made["dims"]) == {"photo", "note", "tabular"}
    inspected = weft("inspect", store, "--target", "same", "--json")
    assert inspected["rows"] == 60
    assert {(pair["first"], pair["second"]) for pair in inspected["target"]["pairs"]} == {
        ("photo", "note"), ("photo", "tabular"), ("note", "tabular")
    }  # fmt: skip
    fast = ("--set", "epochs=3", "--quiet")
    asked = ("--metric", "auc", "--class-weights", "balanced")
    fitted = weft("fit", store, "--fusion", "gated", "--out", tmp_path / "model", "--json", *asked, *fast)
    evaluated = weft("evaluate", tmp_path / "model", store, "--json", "--figures", tmp_path / "figures", "--explain")
    assert {"perceptual score of photo", "perceptual score of note"} <= set(evaluated)
    assert evaluated["accuracy"] == pytest.approx(fitted["test"]["accuracy"])
    assert list((tmp_path / "figures").glob("*.png"))
    rows = make_rows(tmp_path, 5)
    new = write(tmp_path / "new.csv", [{k: v for k, v in row.items() if k != "same"} for row in rows])
    out = tmp_path / "predictions.csv"
    weft("predict", tmp_path / "model", new, "--out", out, "--explain")
    with out.open() as file:
        predictions = list(csv.DictReader(file))
    assert [row["id"] for row in predictions] == [f"r{i}" for i in range(5)]
    assert {row["prediction"] for row in predictions} <= {"True", "False", "true", "false"}
    assert {"probability_False", "probability_True"} <= set(predictions[0])
    parts = [float(predictions[0][f"shapley_{name}"]) for name in ("photo", "note", "tabular")]
    confidence = float(predictions[0]["confidence"])
    assert (
        confidence * 0.3 < np.exp(sum(parts)) * 0.5 < confidence * 1.7
    )  # from a share of about a half to the confidence


def test_compare_leaves_a_winner_that_predicts(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "result"
    settings = ["--seeds", 1, "--set", "trials=1", "--set", "train={epochs: 3}", "--set", "resamples=99"]
    result = weft(
        "compare", config, "--fusions", "concat", "--out", out, "--store", tmp_path / "s", "--json", *settings
    )
    assert result["sentence"].endswith(".")
    assert {"concat", "late", "hybrid", "linear", "boosting", "chance"} <= {row["method"] for row in result["table"]}
    for name in ("report.html", "table.csv", "table.md", "comparison.json", "winner/config.json"):
        assert (out / name).stat().st_size > 0, name
    again = weft("compare", config, "--fusions", "concat", "--out", out, "--store", tmp_path / "s", "--json", *settings)
    assert again["table"] == result["table"]
    answers = weft("predict", out / "winner", config, "--json", "--sets", 0.8)
    assert len(answers["prediction"]) == len(answers["set"]) == 60


def test_missing_modalities(config: Path, tmp_path: Path) -> None:
    """A comparison asked about them, and its model judged by pattern, for a program and for people."""
    out, store = tmp_path / "result", tmp_path / "s"
    settings = ["--seeds", 1, "--set", "trials=1", "--set", "train={epochs: 2}", "--set", "resamples=99"]
    only = ["--only", "concat", "--only", "linear"]
    result = weft("compare", config, "--missing", *only, "--out", out, "--store", store, "--json", *settings)
    concat = next(row for row in result["table"] if row["method"] == "concat")
    assert set(concat["missing"]) == {"photo", "note", "tabular"}
    assert any("modalities are missing" in note for note in result["notes"])
    fit = ["fit", config, "--fusion", "concat", "--dropout", "0", "--set", "epochs=2", "--store", store]
    weft(*fit, "--out", tmp_path / "m")
    assert load_model(tmp_path / "m").config()["dropout"] == 0
    judged = weft("evaluate", tmp_path / "m", store, "--missing", "--json")
    assert judged["missing"]["as they come"][""]["rows"] == judged["rows"]
    assert judged["missing"]["as they come"][""]["accuracy"] == judged["accuracy"]
    assert judged["missing"]["hidden"]["photo"]["full"] == judged["accuracy"]
    text = weft("evaluate", out / "winner", store, "--missing")  # it may see one modality alone
    assert "rows as they come" in text
    assert "modalities hidden" in weft("evaluate", tmp_path / "m", store, "--missing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "shapse"], "did you mean 'shapes'"),
        (["compare", "nowhere.yaml", "--fusions", "conct"], "did you mean 'concat'"),
        (["compare", "nowhere.yaml", "--budget", "soon"], "90s, 20m, 2h"),
        (["compare", "nowhere.yaml", "--set", "sede=1"], "did you mean 'seeds'"),
        (["encode", "shapes", "--data", "row=3"], "did you mean 'rows'"),
        (["encode", "shapes", "--data", "rows"], "KEY=VALUE"),
        (["encode", "shapes", "--encoder", "imgae=log-mel"], "did you mean 'image'"),
        (["encode", "shapes", "--encoder", "image=image-patch"], "did you mean 'image-patches'"),
        (["encode", "shapes", "--encoder", "image=hf:nobody/nothing"], "image-patches"),
        (["fit", "shapes", "--fusion", "gatde", "--data", "rows=100"], "did you mean 'gated'"),
        (["fit", "shapes", "--decision", "late", "--rule", "prodct", "--data", "rows=100"], "did you mean 'product'"),
        (["list", "--kind", "fusoin"], "did you mean 'fusion'"),
        (["list", "nothing*"], "no fusion matches"),
        (["evaluate", "nowhere", "shapes"], "nowhere"),
        (["inspect", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_with_the_way_out(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        weft(*arguments)
    assert message in str(error.value)


def test_methods_are_checked_before_the_table_is_read(config: Path, table: Path) -> None:
    """With the table gone: a wrong word is what is said, a right one is only found to lack the table."""
    table.unlink()
    for words, message in (
        (["--without", "boostin"], "did you mean 'boosting'"),
        (["--only", "phot (linear)"], "did you mean 'photo (linear)'"),
        (["--without", "boosting", "--without", "late", "--only", "photo (linear)"], "table.csv"),
    ):
        with pytest.raises(UserError) as error:
            weft("compare", config, *words)
        assert message in str(error.value)


def test_a_mistake_ends_in_status_2_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from weft.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["weft", "compare", "shapse"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "did you mean 'shapes'" in capsys.readouterr().err


def test_init_does_not_overwrite(config: Path, table: Path) -> None:
    config.write_text("mine")
    with pytest.raises(UserError, match="--force"):
        weft("init", table, "--out", config)
    assert config.read_text() == "mine"


def test_check_names_the_damaged_image(config: Path, tmp_path: Path) -> None:
    photo = tmp_path / "7.png"
    photo.write_bytes(photo.read_bytes()[:40])
    with pytest.raises(UserError, match="r7"):
        weft("check", config)


def test_list_tells_who_to_cite() -> None:
    rows = {row["name"]: row for row in weft("list", "--json")}
    assert all(row["paper"] for row in rows.values())
    assert rows["concat"]["options"] == {"dropout": 0.0}
    assert "ACL 2018" in weft("list", "lmf")
    assert "rank=4" in weft("list", "lmf")


@pytest.mark.parametrize("kind", ["fusion", "aligner", "objective", "encoder", "dataset", "task"])
def test_list_knows_every_kind(kind: str) -> None:
    assert weft("list", "--kind", kind, "--json")
    assert kind in weft("list", "--kind", kind)


def verbs() -> dict[str, Any]:
    """``{"saliency fit": command}`` of every verb, those of groups too."""
    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        for word, each in (inner or {}).items():
            walk(each, f"{name} {word}".strip())

    walk(get_command(app), "")
    return found


def test_every_verb_shows_an_example() -> None:
    found = verbs()
    assert {"init", "encode", "inspect", "fit", "compare", "evaluate", "predict", "list", "check"} <= set(found)
    for name, command in found.items():
        if command.hidden:
            continue
        assert "Example" in command.help, name
        assert f"weft {name} " in command.help.partition("Example")[2] + " ", name


@pytest.mark.parametrize("name", ["encode", "inspect", "fit", "compare", "evaluate", "predict", "list", "check"])
def test_what_a_program_may_read_has_json(name: str) -> None:
    assert any("--json" in option.opts for option in verbs()[name].params)
