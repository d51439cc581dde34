"""Every command and every line of Python in the README runs, in the order a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """``("shell", command)`` and ``("python", code)`` of the README, without the set-up commands of make."""
    found = []
    for language, content in BLOCK.findall((ROOT / "README.md").read_text()):
        if language == "python":
            found.append(("python", content))
            continue
        commands = (line.removeprefix("$ ") for line in content.splitlines() if line.startswith("$ "))
        found += [("shell", command) for command in commands if not command.startswith(("make ", "pip "))]
    return found


@pytest.mark.slow
def test_readme_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    commands = steps()
    assert len(commands) > 5
    for kind, text in commands:
        command = ["bash", "-c", text] if kind == "shell" else [sys.executable, "-c", text]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
    assert (tmp_path / "shop/result/report.html").stat().st_size > 10_000
    lines = (tmp_path / "shop/predictions.csv").read_text().splitlines()
    assert len(lines) == 21
    assert lines[0].startswith('"id","prediction","probability_')
