"""Work that takes long says how far it is, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from weft import progress
from weft.progress import Lines, progress_bar


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress_bar() as bar:
        assert isinstance(bar, Lines)
        task = bar.add_task("image [x]", total=10)
        for second in range(0, 100, 10):
            clock[0] = float(second)
            bar.advance(task)
        bar.update(task, completed=10, description="text")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["image [x]  4/10", "image [x]  7/10", "image [x]  10/10"]


def test_nothing_is_said_unless_wanted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress_bar(False) as bar:
        bar.advance(bar.add_task("image", total=10))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True))
    with progress_bar() as bar:
        bar.advance(bar.add_task("image", total=10), 3)
    assert "3/10" in screen.getvalue()
