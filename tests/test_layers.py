"""Data flows one way, and help is cheap: both are facts of the imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_room_imports_a_later_one() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_help_does_not_import_torch() -> None:
    code = """
import sys
from typer.testing import CliRunner
from weft.cli import app
for verb in ([], *([c.name] for c in app.registered_commands)):
    result = CliRunner().invoke(app, [*verb, "--help"])
    if result.exit_code or (verb and "Example" not in result.output):
        raise SystemExit(f"{verb}: {result.output}")
raise SystemExit("torch" in sys.modules or "numpy" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_import_weft_does_not_import_torch() -> None:
    code = "import sys, weft; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
