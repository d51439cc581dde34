"""The door: what init says, what check warns of, and that outputs are asked for before the work begins."""

from __future__ import annotations

import csv
import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.test_verbs import weft, write
from weft.cli import INTERRUPTED, main
from weft.data import load_config, to_commented_yaml
from weft.errors import UserError
from weft.files import write_bytes
from weft.models import load_model

WORDS = ["warp", "weft", "yarn", "loom", "silk", "wool", "linen", "cotton", "thread", "cloth"]


def rows(count: int = 60) -> list[dict[str, object]]:
    random = np.random.default_rng(0)
    made: list[dict[str, object]] = []
    for i in range(count):
        label = ["Yes", "no"][i % 2]
        label = "yes" if i in (4, 6) else "NA" if i in (7, 9, 11) else label
        made.append(
            {
                "": i,
                "PetID": f"p{i:04d}x",
                "note": " ".join([*random.choice(WORDS, 5), f"number{i // 2}"]),
                "given": f"{label} indeed",
                "size": i % 7 + random.integers(3),
                "constant": 5,
                "day": f"2024-03-{1 + i % 28:02d}",
                "adopted": label,
            }
        )
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "t.csv", rows())


@pytest.fixture
def config(table: Path) -> Path:
    weft("init", table, "--out", table.with_name("weft.yaml"), "--group", "none")
    return table.with_name("weft.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("door")
    path = write(folder / "t.csv", rows())
    weft("init", path, "--out", folder / "weft.yaml", "--group", "none")
    arguments = ["--store", folder / "store", "--out", folder / "model", "--set", "epochs=1", "--quiet"]
    weft("fit", folder / "weft.yaml", "--fusion", "gated", *arguments)
    return folder / "model"


def test_init_tells_every_role_and_changes_it_in_one_line(table: Path, tmp_path: Path) -> None:
    said = weft("init", table, "--out", tmp_path / "a.yaml")
    for part in (
        "target: adopted (",
        "id: PetID (",
        "left out: (a column without a name)",
        "left out: constant (the same",
    ):
        assert part in said
    kinds = {name: m.kind for name, m in load_config(tmp_path / "a.yaml").modalities.items()}
    assert kinds == {"note": "text", "day": "date", "tabular": "tabular"}
    chosen = ["--target", "size", "--id", "none", "--group", "note", "--drop", "day", "--drop", "given"]
    weft("init", table, "--out", tmp_path / "b.yaml", *chosen)
    other = load_config(tmp_path / "b.yaml")
    assert (other.target, other.id, other.group) == ("size", None, "note")
    assert "day" not in other.modalities


def test_check_says_what_would_spoil_a_verdict(config: Path) -> None:
    found = weft("check", config, "--json")
    assert found["target adopted"].startswith("4 classes: 'Yes' 28, 'no' 27")
    assert found["column given"] == "category, 4 different"
    warnings = "\n".join(found["warnings"])
    for part in (
        "differ in spelling alone: 'Yes', 'yes'",
        "'NA' is a class of 'adopted' in 3 rows",
        "'yes' 2",
        "column 'given' alone tells 'adopted'",
    ):
        assert part in warnings
    assert "warning" in weft("check", config)


@pytest.mark.parametrize("name", ["new.tsv", "NEW.CSV", "new.csv.gz"])
def test_new_rows_come_as_they_are(model: Path, tmp_path: Path, name: str) -> None:
    import gzip

    lines = ["note,given,size,day", ",yes indeed,3,2024-03-05", "warp and weft,,,"]
    text = "\n".join(lines).replace(",", "\t" if name.endswith("tsv") else ",")
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = weft("predict", model, tmp_path / name, "--json")
    assert found["id"] == ["0", "1"]
    assert len(found["prediction"]) == 2


def test_rows_are_chosen_by_what_they_were_to_the_model(model: Path, table: Path) -> None:
    parts = {part: weft("predict", model, table, "--split", part, "--json")["id"] for part in ("all", "train", "test")}
    assert set(parts["test"]) < set(parts["all"])
    assert len(parts["all"]) == 60
    assert not set(parts["test"]) & set(parts["train"])


@pytest.mark.parametrize(("option", "words"), [("--find", "are for aligners"), ("--row", "is for systems")])
def test_options_of_other_models_are_refused(model: Path, table: Path, option: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        weft("predict", model, table, option, "note")


def test_a_modality_may_be_empty_in_every_new_row(model: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both.csv", [{"note": n, "given": "x", "size": 2, "day": ""} for n in ("", "warp yarn")])
    alone = write(tmp_path / "alone.csv", [{"note": "", "given": "x", "size": 2, "day": ""}])
    together, single = (weft("predict", model, path, "--json") for path in (both, alone))
    np.testing.assert_allclose(together["probability"][0], single["probability"][0], atol=1e-5)


def test_a_modality_whose_columns_are_not_there_is_absent_and_that_is_said(model: Path, tmp_path: Path) -> None:
    new = [{"given": "x", "size": 2}, {"given": "yes indeed", "size": 5}]
    empty = write(tmp_path / "empty.csv", [{"note": "", "day": "", **row} for row in new])
    gone = write(tmp_path / "gone.csv", new)
    np.testing.assert_allclose(*(weft("predict", model, t, "--json")["probability"] for t in (empty, gone)))
    said = weft("predict", model, gone, "--out", tmp_path / "p.csv")
    assert "modality 'note' is absent in every row: there is no column 'note'" in said
    with pytest.raises(UserError, match="no column 'size'"):
        weft("predict", model, write(tmp_path / "part.csv", [{"note": "warp", "given": "x"}]), "--json")
    with pytest.raises(UserError, match="no column 'day', nor any other"):
        weft("predict", model, write(tmp_path / "other.csv", [{"colour": "red"}]), "--json")


def test_an_empty_row_refuses_no_other(model: Path, tmp_path: Path) -> None:
    full = {"note": "warp yarn", "given": "yes indeed", "size": 3, "day": "2024-03-05"}
    new = write(tmp_path / "new.csv", [full, dict.fromkeys(full, ""), full])
    assert "1 empty row answered as one of which nothing is known: '1'" in weft(
        "predict", model, new, "--out", tmp_path / "p.csv", "--explain"
    )
    with (tmp_path / "p.csv").open() as file:
        first, empty, third = csv.DictReader(file)
    same = [name for name in first if name.startswith("probability_")]
    assert [float(first[name]) for name in same] == pytest.approx([float(third[name]) for name in same])
    shares = {name: float(cell) for name, cell in empty.items() if name.startswith("probability_")}
    prior = {"Yes": 28 / 60, "no": 27 / 60, "yes": 2 / 60, "NA": 3 / 60}
    assert shares == pytest.approx({f"probability_{name}": share for name, share in prior.items()}, abs=0.05)
    assert {float(empty[name]) for name in empty if name.startswith("shapley_")} == {0.0}


def test_outputs_are_asked_for_before_the_work(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    new = write(tmp_path / "new.csv", [{"note": "warp", "given": "x", "size": 2, "day": ""}])
    weft("predict", model, new, "--out", tmp_path / "deep" / "er" / "p.csv", "--quiet")
    with (tmp_path / "deep" / "er" / "p.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    (tmp_path / "file").write_text("")

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("weft.cli.source.read_new_rows", work)
    monkeypatch.setattr("weft.cli.source.open_store", work)
    monkeypatch.setattr("weft.data.propose_table", work)
    for arguments in (
        ["predict", model, new, "--out", tmp_path],
        ["predict", model, new, "--out", tmp_path / "file" / "p.csv"],
        ["fit", "shapes", "--out", tmp_path / "file" / "model"],
        ["compare", "shapes", "--out", tmp_path / "file"],
        ["init", new, "--out", tmp_path / "file" / "weft.yaml"],
    ):
        with pytest.raises(UserError, match=r"output"):
            weft(*arguments)


def test_a_full_disk_is_said(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    new = write(tmp_path / "new.csv", [{"note": "warp", "given": "x", "size": 2, "day": ""}])
    monkeypatch.setattr("weft.files.os.replace", full)
    with pytest.raises(UserError, match="cannot be written"):
        weft("predict", model, new, "--out", tmp_path / "p.csv", "--quiet")


def test_a_pipe_is_written_into_and_never_replaced(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"answers")
    reader.join()
    assert read == [b"answers"]
    assert pipe.is_fifo()


def test_words_of_options_stay_words() -> None:
    from weft.cli.source import settings

    assert settings(["answers=[yes, no]", "rows=900"], "data") == {"answers": ["yes", "no"], "rows": 900}


def test_a_class_with_one_row_is_named_before_anything_is_encoded(tmp_path: Path) -> None:
    rows = [{"size": i % 5, "note": f"warp {i}", "y": "z" if i == 3 else "ab"[i % 2]} for i in range(30)]
    table = write(tmp_path / "t.csv", rows)
    weft("init", table, "--out", tmp_path / "weft.yaml", "--target", "y")
    with pytest.raises(UserError, match=r"(?s)z: 1.*classes"):
        weft("compare", tmp_path / "weft.yaml", "--folds", 3, "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert not (tmp_path / "store").exists()
    assert any("'z' 1" in warning for warning in weft("check", tmp_path / "weft.yaml", "--json")["warnings"])


def test_new_rows_with_a_target_are_judged_without_a_yaml(model: Path, tmp_path: Path) -> None:
    later = [{**row, "adopted": "" if i < 3 else row["adopted"]} for i, row in enumerate(rows())]
    table = write(tmp_path / "later.csv", later)
    everything = ["evaluate", model, table, "--split", "all"]
    assert weft(*everything, "--json")["rows"] == 57
    assert "left out: 3 of 60 rows, which have no target" in weft(*everything)
    with pytest.raises(UserError, match="target"):
        weft("evaluate", model, write(tmp_path / "none.csv", later[:3]), "--split", "all")


def test_a_table_instead_of_its_yaml_is_told_what_to_do_first(table: Path) -> None:
    with pytest.raises(UserError) as error:
        weft("compare", table)
    assert error.value.remedy.startswith(f"say what its columns are: weft init {table}")
    with pytest.raises(UserError) as error:
        weft("check", "shpaes")
    assert error.value.remedy == "for a table of your own: weft init TABLE; else did you mean 'shapes'?"


def test_shapley_values_say_their_unit(model: Path, table: Path, tmp_path: Path) -> None:
    assert "shapley_*: nats: from the log-probability" in weft(
        "predict", model, table, "--explain", "-o", tmp_path / "p"
    )


def test_a_port_that_is_taken_is_said_with_another(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}") as error:
            weft("serve", model, "--port", port)
    assert "--port" in error.value.remedy


def test_what_reading_found_is_said(model: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", [{"note": "warp", "given": "x", "size": "inf", "day": ""}])
    said = weft("predict", model, new, "--out", tmp_path / "p.csv")
    assert "'size' (number): 1 cell not readable so" in said
    assert "'given': 1 cell with what no training row holds: '0: x'" in said
    with pytest.warns(UserWarning, match="cell") as found:
        load_model(model).predict(new, progress=False)
    assert sum("'size'" in str(w.message) or "'given'" in str(w.message) for w in found) == 2


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["fit", "shapes", "--system", "text-to-image", "--fusion", "gated"], "--fusion"),
        (["fit", "shapes", "--rule", "product"], "rule"),
        (["fit", "shapes", "--objective", "info-nce"], "objective"),
        (["fit", "shapes", "--fusion", "two-tower", "--dropout", "0.3"], "dropout"),
        (["compare", "shapes", "--variant", "fusion=gated"], "--variant"),
        (["compare", "shapes", "--system", "text-to-image", "--budget", "1m"], "--budget"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(command: list[str], option: str, tmp_path: Path) -> None:
    store = [] if "--system" in command else ["--store", tmp_path / "store"]
    with pytest.raises(UserError, match=option):
        weft(*command, "--data", "rows=40", "-o", tmp_path / "out", *store)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_file_in_the_place_of_a_store_is_said(config: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken"):
        weft("encode", config, "-o", tmp_path / "taken")


def test_ctrl_c_says_how_to_go_on(monkeypatch: Any, capsys: Any) -> None:
    def stopped() -> None:
        raise SystemExit(INTERRUPTED)

    monkeypatch.setattr("weft.cli.app", stopped)
    with pytest.raises(SystemExit):
        main()
    assert "same command" in capsys.readouterr().err


def test_a_handful_of_rows_is_judged_by_what_it_defines_whether_from_a_table_or_a_yaml(
    model: Path, config: Path, tmp_path: Path
) -> None:
    """No split is made of rows that a model has not seen, and their cells are read as in training."""
    full = {"note": "warp yarn", "given": "yes indeed", "size": 3, "day": "2024-03-05", "adopted": "Yes"}
    for count in (1, 2):
        new = write(tmp_path / "few.csv", [full, {**full, "size": ""}][:count])
        few = load_config(config).model_copy(update={"id": None, "table": str(new)})
        for modality in few.modalities.values():
            modality.types.clear()
        (tmp_path / "few.yaml").write_text(to_commented_yaml(few, tmp_path))
        by_table, by_yaml = (weft("evaluate", model, tmp_path / f"few.{end}", "--json") for end in ("csv", "yaml"))
        assert by_table == by_yaml
        assert by_table["rows"] == count
        assert by_table["auc"] is None
        assert by_table["log_loss"] > 0
        said = weft("evaluate", model, tmp_path / "few.yaml", "--explain")
        assert "not defined on these rows: auc" in said
        assert "nan" not in said
    own = weft("evaluate", model, config, "--json")
    assert own == weft("evaluate", model, config.with_name("t.csv"), "--json")
    assert own["rows"] == 8


def test_an_empty_row_is_judged_by_every_way_of_judging(model: Path, tmp_path: Path) -> None:
    full = {"note": "warp yarn", "given": "yes indeed", "size": 3, "day": "2024-03-05", "adopted": "Yes"}
    blank = {**dict.fromkeys(full, ""), "adopted": "no"}
    new = write(tmp_path / "new.csv", [full, blank, full, {**full, "adopted": "no"}])
    found = weft("evaluate", model, new, "--explain", "--missing", "--json")
    assert found["rows"] == 4
    assert any(name.startswith("perceptual") for name in found)


def test_rows_without_ids_are_not_taken_for_those_of_training_though_some_of_these_lacked_a_target(
    tmp_path: Path,
) -> None:
    trained = write(tmp_path / "t.csv", [{"size": i % 7, "kind": "ab"[i % 2] if i % 9 else ""} for i in range(60)])
    weft("init", trained, "-o", tmp_path / "w.yaml", "--target", "kind")
    place = ("--store", tmp_path / "store", "--out", tmp_path / "model", "--set", "epochs=1", "--quiet")
    weft("fit", tmp_path / "w.yaml", "--fusion", "concat", *place)
    new = write(tmp_path / "new.csv", [{"size": i % 5, "kind": "ab"[i % 3 % 2]} for i in range(40)])
    assert weft("evaluate", tmp_path / "model", new, "--json")["rows"] == 40
    assert weft("evaluate", tmp_path / "model", trained, "--json")["rows"] < 12
