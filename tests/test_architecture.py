"""What docs/architecture.md shows is run as it stands, and what it adds from outside serves every verb."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_runs_and_its_additions_serve_every_verb(tmp_path: Path) -> None:
    """In a process of its own: what the page registers is nobody else's business."""
    blocks = BLOCK.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len(blocks) >= 12
    (tmp_path / "page.py").write_text("\n".join(blocks))
    program = "import page; from tests.additions import every_verb; every_verb()"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) == 24
    assert not [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()]
