"""Names and cells are data: every verb over names that mean something to a shell, a path, TeX, Markdown, a terminal."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_verbs import weft
from weft.data import load_config

TEXTS = ["concat", "linear", "a/b | c \\ [red] $_x$ <b> \"q\" 'p'", "\U0001f600 " + "n" * 200]
PLAIN = ["chance", "../..", "[/b]", "late, hybrid: #1"]
CLASSES = ["[/b] $_x^", "a | <i>", "\U0001f600"]
WORDS = ["warp", "weft", "yarn", "loom", "silk", "wool", "linen", "cotton", "thread", "cloth"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for i in range(48):
        label = CLASSES[i % 3]
        rows.append(
            {
                "id": f"[red]{i}/..|",
                **{name: " ".join([*random.choice(WORDS, 4), WORDS[i % 3], "[/b]"]) for name in TEXTS},
                **{name: random.choice(["[b]", "$x_", "\\"]) for name in PLAIN},
                "y $": label,
            }
        )
    path = tmp_path / "t [x] $.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_verb_takes_any_name(table: Path, tmp_path: Path) -> None:
    config, store, model = tmp_path / "a [b].yaml", tmp_path / "store", tmp_path / "model [x]"
    weft("init", table, "--out", config, "--target", "y $", "--id", "id")
    assert set(load_config(config).modalities) == {*TEXTS, "likeness", "tabular"}
    assert weft("check", config, "--json")["rows"] == 48
    assert "[/b]" in weft("check", config)
    weft("encode", config, "--out", store, "--quiet")
    weft("inspect", store)
    fast = ("--set", "epochs=1", "--quiet")
    weft("fit", store, "--fusion", "concat", "--out", model, *fast)
    weft("evaluate", model, config, "--figures", tmp_path / "figures", "--quiet")
    weft("predict", model, table, "--out", tmp_path / "p.csv", "--quiet")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    assert {f"probability_{label}" for label in CLASSES} <= set(answers[0])
    assert answers[3]["id"] == "[red]3/..|"


@pytest.mark.slow
def test_a_comparison_takes_any_name(table: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "weft.yaml", tmp_path / "compare"
    weft("init", table, "--out", config, "--target", "y $", "--id", "id")
    settings = ["--seeds", 1, "--set", "trials=1", "--set", "train={epochs: 1}", "--set", "resamples=99"]
    weft("compare", config, "--fusions", "concat", "--store", tmp_path / "store", "--out", out, "--quiet", *settings)
    weft("predict", out / "winner", table, "--out", tmp_path / "p.csv", "--quiet")
    lines = (out / "table.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "[red] $_x$ <b>" not in page
    assert "[red]" in page
