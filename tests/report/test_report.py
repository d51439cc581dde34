"""Report files exist, parse, need nothing else, and say what the comparison says."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.compare.cases import QUICK, quick, small
from weft.compare import Comparison, compare
from weft.compare.verdict import Verdict
from weft.report import render_terminal, write_report
from weft.report.figures import _log_axis, _methods, main_rows
from weft.store import MemoryFeatures
from weft.tasks.plots import canvas, roc, short, shorts

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Checks nesting; collects text, addresses and the first table."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "action")]
        self.tables += tag == "table"
        if tag == "tr" and self.tables == 1:
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] == "td" and self.tables == 1:
            self.rows[-1].append(data)


@pytest.fixture(scope="module", params=["classification", "regression"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    features = small(request.param, rows=150)
    options = {
        "fusions": ["concat", "tfn"],
        "options": {"tfn": {"wrong": 1}},
        "decisions": ["late"],
        "show": ["a", "concat"],
    }
    config = quick(train={**QUICK, "epochs": 6}, **options)
    return compare(features, config, tmp_path_factory.mktemp("report"), progress=False)


def test_the_html_file_stands_alone(found: Comparison, tmp_path: Path) -> None:
    path = write_report(found, tmp_path)
    page = Page()
    content = path.read_text(encoding="utf-8")
    page.feed(content)
    assert page.open == []
    assert found.sentence in page.text
    assert all(note in page.text for note in found.notes)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert len(page.addresses) == len(list((tmp_path / "figures").glob("*.png"))) >= 7
    methods = [row[0] for row in page.rows if row]
    assert methods == [row.method for row in main_rows(found)]
    folded = [row.method for row in found.rows if row.test is not None and row not in main_rows(found)]
    assert not folded or f"{len(folded)} more methods" in page.text
    assert all(name in page.text for name in folded)
    error = next(row.error for row in found.rows if row.method == "tfn")
    assert error is not None
    assert error in "".join(page.text)


TASK_FIGURES = {
    "classification": {"confusion", "roc", "reliability", "roc-methods"},
    "regression": {"predicted", "residuals", "predicted-methods"},
}


def test_figures_are_pictures(found: Comparison, tmp_path: Path) -> None:
    page = write_report(found, tmp_path).read_text(encoding="utf-8")
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"methods", "seeds", "contributions", "missing", "cost"} <= names
    wanted = TASK_FIGURES[found.task.config()["name"]]
    assert wanted <= names
    assert all(f"<b>{name.replace('-', ' ').capitalize()}.</b>" in page for name in wanted)
    for path in (tmp_path / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_json_csv_and_markdown_agree(found: Comparison, tmp_path: Path) -> None:
    write_report(found, tmp_path)
    value = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert value["sentence"] == found.sentence
    rows = list(csv.DictReader(StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    assert [row["method"] for row in rows] == [row["method"] for row in value["table"]]
    assert float(rows[0]["test"]) == value["table"][0]["test"]
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert markdown.replace("\\", "").startswith(f"**{found.sentence}**")


def test_the_terminal_shows_sentence_and_table_within_80_columns(found: Comparison) -> None:
    out = StringIO()
    render_terminal(found, Console(file=out, width=80, color_system=None))
    text = out.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    assert " ".join(lines) == found.sentence
    table = text[text.index("best first;") :]
    assert all(row.method in table for row in main_rows(found))


def test_a_narrow_terminal_keeps_the_names_of_the_methods(found: Comparison) -> None:
    """Long names of a metric, roles and counts take the place of other columns."""
    wide = [replace(row, role="ensemble of singles", parameters=190_597_000) for row in found.rows]
    out = StringIO()
    render_terminal(
        replace(found, primary="kappa_quadratic", rows=wide), Console(file=out, width=80, color_system=None)
    )
    table = out.getvalue()[out.getvalue().index("best first;") :]
    assert "kappa_quadratic" in table
    assert "parameters" not in table
    assert all(f" {row.method} " in table for row in main_rows(found) if len(row.method) <= 24)


ODD = "<b>[red]|c/d $x_1$ \\ `quoted` 'it' \"is\" 🐟"


def test_names_are_data(tmp_path: Path) -> None:
    """A modality and a class may be called anything: no page, table, figure or terminal takes it for a command."""
    features = small()
    pooled = features.pooled(np.arange(len(features)))
    target = np.where(features.targets["y"] > 0, "cost $_x$ [/b]", "_a|b*c*")
    odd = MemoryFeatures(features.ids, {ODD: pooled["a"], "concat": pooled["b"]}, {"y": target})
    config = quick(train={**QUICK, "epochs": 2}, seeds=1, fusions=["concat"], subsets=False)
    found = compare(odd, config, tmp_path, progress=False)
    write_report(found, tmp_path)
    page = Page()
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page.feed(content)
    assert page.open == []
    assert f"{ODD} (linear)" in page.text
    assert "<b>[red]" not in content
    out = StringIO()
    render_terminal(found, Console(file=out, width=200, color_system=None))
    assert f"{ODD} (linear)" in out.getvalue()
    lines = [line for line in found.to_markdown().splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert json.loads(found.to_json())["modalities"] == [ODD, "concat"]
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} >= {"methods", "confusion", "roc"}


def test_no_two_lines_of_a_figure_have_one_name(
    found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables with long names that differ in the middle."""
    from matplotlib.axes import Axes

    rows = [row for row in main_rows(found) if row.low is not None]
    named = [replace(row, method=f"measurements of ward {k} at the admission") for k, row in enumerate(rows)]
    ticks: list[list[str]] = []
    original = Axes.set_yticks
    monkeypatch.setattr(
        Axes, "set_yticks", lambda self, at, *a, **k: (ticks.append(*a), original(self, at, *a, **k))[1]
    )
    _methods(found, named, tmp_path)
    (labels,) = ticks
    assert len({*labels}) == len(named) > 3


def test_labels_are_as_long_as_tells_them_apart() -> None:
    names = ["a table of ward A at the admission", "a table of ward B at the admission", "short"]
    assert shorts(names)[2] == "short"
    assert len({*shorts(names)}) == 3
    assert shorts(["a" * 40], 10) == [short("a" * 40, 10)]
    assert shorts(["a b", "a  b"]) == ["a b", "a b"]
    assert shorts([]) == []


def test_many_methods_are_folded(found: Comparison) -> None:
    """Of forty methods a dozen are shown, and with them what is kept and the best of each role."""
    row = next(row for row in found.rows if row.method == "concat")
    many = [replace(row, method=f"fusion{k}", test=0.9 - k / 100) for k in range(40)]
    rest = [r for r in found.rows if r.test is not None]
    sign = 1 if found.higher_is_better else -1
    rows = sorted([*many, *rest], key=lambda r: -sign * (r.test or 0))
    shown = main_rows(replace(found, rows=rows))
    assert 12 <= len(shown) <= 20
    assert {row.role for row in shown} == {row.role for row in rows}
    assert found.verdict.winner in {row.method for row in shown}


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_curves_are_few_enough_to_tell_apart(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, 400)
    p = np.exp(rng.normal(size=(400, classes)) + 2 * np.eye(classes)[y])
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: (drawn.append(len(np.ravel(a[0]))), plot(self, *a, **k))[1])
    roc(np.eye(classes)[y], p, [f"class {k}" for k in range(classes)], tmp_path)
    curves = [length for length in drawn if length > classes + 1]
    assert len(curves) <= 4


def test_a_comparison_without_results_still_reports(tmp_path: Path) -> None:
    found = compare(small(), quick(budget=0), tmp_path, progress=False)
    rows = [replace(row, test=None, status="not run") for row in found.rows]
    found = replace(found, rows=rows, verdict=Verdict("no result"), kept=None, contributions=None)
    content = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert "No method finished" in content
    render_terminal(found, Console(file=StringIO()))


def test_ticks_of_weights_do_not_cover_one_another(tmp_path: Path) -> None:
    """From the smallest network to an ensemble of a thousand times its weights."""
    with canvas(tmp_path, "ticks", columns=2, size=(5.7, 4.4)) as panels:
        axes = panels[0]
        axes.plot([6_000, 3_600_000], [0, 1], "o")
        axes.margins(x=0.22)
        _log_axis(axes, "trainable weights")
        axes.figure.canvas.draw()
        low, high = axes.get_xlim()
        labels = [text for x, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if low <= x <= high]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) > 5
        assert all(a.x1 + 8 < b.x0 for a, b in pairwise(boxes)), [label.get_text() for label in labels]
