"""Every verb on an operator, a task, a kind and a system that were registered from outside the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from fastapi.testclient import TestClient

from tests.cli.test_verbs import weft, write
from weft.serve.app import create_app
from weft.serve.engine import Engine

QUICK = ("--set", "epochs=2", "--quiet")


def every_verb() -> None:
    """After docs/architecture.md has run, in its folder."""
    table = colours(Path("colours"))
    operator_task_and_kind(table)
    in_other_hands(table.parent)
    aligned(table.parent)
    system(table)


def colours(folder: Path, rows: int = 90) -> Path:
    """A table with a colour, a note, its name, and a count that grows with its red."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (rows, 3))
    cells: list[dict[str, object]] = [
        {
            "id": f"r{i}",
            "shade": "#" + bytes(pixel.tolist()).hex(),
            "note": f"seen {i % 5} times in the {'dark' if pixel.sum() < 380 else 'light'} room with {i % 11} people",
            "name": ("red", "green", "blue")[int(pixel.argmax())],
            "visits": int(rng.poisson(0.5 + pixel[0] / 32)),
        }
        for i, pixel in enumerate(pixels)
    ]
    return write(folder / "table.csv", cells)


def configure(table: Path, target: str, task: str, *kinds: str) -> Path:
    """A YAML of the table as ``weft init`` writes it, about another target."""
    path = table.with_name(f"{target}.yaml")
    weft("init", table, "--out", path)
    config = yaml.safe_load(path.read_text())
    found = {name: m for name, m in config["modalities"].items() if name in kinds}
    config |= {"target": target, "task": task, "modalities": found, "group": None, "splits": {"method": "random"}}
    path.write_text(yaml.safe_dump(config))
    return path


def operator_task_and_kind(table: Path) -> None:
    """All verbs of a table on the kind ``colour``, the operator ``loudest`` and the task ``count``."""
    config, root = configure(table, "visits", "count", "shade", "note"), table.parent
    assert weft("check", config, "--json")["rows"] == 90
    store = root / "store"
    assert weft("encode", config, "--out", store, "--json", "--quiet")["dims"]["shade"] == 6
    assert weft("inspect", store, "--json")["rows"] == 90
    fitted = weft("fit", config, "--fusion", "loudest", "--out", root / "model", "--store", store, "--json", *QUICK)
    assert weft("evaluate", root / "model", config, "--json")["mae"] == fitted["test"]["mae"]
    answers = weft("predict", root / "model", table, "--json")
    assert min(answers["prediction"]) > 0
    settings = ["--jobs", 1, "--seeds", 1]
    for setting in ("trials=1", "ensembles=false", "train={epochs: 2}", "resamples=99"):
        settings += ["--set", setting]
    compared = ["compare", config, "--fusions", "loudest", "--out", root / "result", "--store", store, "--json"]
    rows = {row["method"]: row for row in weft(*compared, *settings)["table"]}
    assert rows["loudest"]["test"] is not None
    assert len(weft("predict", root / "result" / "winner", table, "--json")["prediction"]) == 90
    for kind, name in (
        ("fusion", "loudest"),
        ("task", "count"),
        ("encoder", "colour"),
        ("system", "colour-name"),
        ("column", "colour"),
    ):
        assert weft("list", name, "--kind", kind, "--json")[0]["name"] == name
    names = [row["name"] for row in weft("list", "l*", "--exclude", "lmf*", "--exclude", "linear*", "--json")]
    assert names == ["loudest"]


def in_other_hands(root: Path) -> None:
    """The same model exported, pushed and served; and what its encoders are worth."""
    exported = weft("export", root / "model", "--to", "torch-export", "--out", root / "exported", "--json")
    assert "outputs" in exported
    weft("push", root / "model", f"file://{root.resolve()}/shelf")
    row = {"shade": "#ff0000", "note": "seen 1 times"}
    with TestClient(create_app(Engine(root / "shelf"))) as client:
        (answer,) = client.post("/predict", json={"rows": [row]}).json()["answers"]
        assert answer["prediction"] > 0
        refused = client.post("/predict", json={"rows": [{"shade": "#red"}, row]})
        assert refused.status_code == 422
        assert "'shade' (colour)" in refused.text
    tried = weft("encoders", root / "visits.yaml", "--json")["candidates"]
    assert {"modality": "shade", "encoder": "colour", "width": 6}.items() <= next(
        one for one in tried if one["modality"] == "shade"
    ).items()


def aligned(root: Path) -> None:
    """Colours and notes in one space: the verbs of aligners."""
    config = yaml.safe_load((root / "visits.yaml").read_text()) | {"target": None, "task": "retrieval"}
    (root / "pairs.yaml").write_text(yaml.safe_dump(config))
    compared = weft(
        "align", root / "pairs.yaml", "--aligners", "procrustes", "--out", root / "aligned", "--json", "--quiet"
    )
    assert compared["table"][0]["aligner"] == "procrustes"
    asked = ("--query", "seen 1 times in the dark room", "--find", "shade", "--by", "note", "--json")
    assert len(weft("search", root / "aligned" / "winner", root / "pairs.yaml", *asked)) == 5


def system(table: Path) -> None:
    """Fit, evaluate, predict and compare on the system ``colour-name``."""
    config, root = configure(table, "name", "classification", "shade"), table.parent
    training = ("--system", "colour-name", "--set", "epochs=30", "--set", "lr=0.03", "--json", "--quiet")
    fitted = weft("fit", config, *training, "--option", "width=16", "--out", root / "system")
    assert fitted["rows"]["train"] == 63
    assert weft("evaluate", root / "system", config, "--json")["accuracy"] > 0.5
    assert set(weft("predict", root / "system", config, "--json")["prediction"]) <= {"red", "green", "blue"}
    narrow = ("--variant", "width=1", "--seeds", 1, "--out", root / "variants")
    assert "width=1" in weft("compare", config, *training, *narrow)["metrics"]
