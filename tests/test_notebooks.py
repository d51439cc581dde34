"""The notebooks run from the first cell to the last, draw their figures, and are committed with them."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import DATA, MODELS

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a committed notebook, figures included."""


def figures(notebook: nbformat.NotebookNode) -> list[int]:
    """Cells whose output has a picture."""
    cells = enumerate(notebook.cells)
    return [i for i, cell in cells if any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_with_small_figures_and_without_paths(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert figures(notebook)
    assert path.stat().st_size < LARGEST
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from a fresh kernel, in order"
    shown = [o for cell in code for o in cell.outputs]
    assert not [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"]
    for private in (tempfile.gettempdir(), Path.home(), Path(__file__).parents[1]):
        assert str(private) not in str(shown)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_draws_what_is_committed(
    path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.stem.startswith("lightcrl"):
        request.getfixturevalue("data_root")
        request.getfixturevalue("mobilenet")
    monkeypatch.setenv("WEFT_DATA", str(DATA))
    monkeypatch.setenv("WEFT_MODELS", str(MODELS))
    committed = nbformat.read(path, as_version=4)
    fresh = copy.deepcopy(committed)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert figures(fresh) == figures(committed)


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["lightcrl_text_image", "lightcrl_text_text", "table_to_model"]
