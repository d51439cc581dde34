"""``weft generate``: fit, sample and evaluate, from a named set to a grid and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.data.test_cub import add, write
from weft.cli import app
from weft.errors import UserError

DATA = ["--data", "complete=true", "--data", "rows=120", "--data", "size=16"]


def weft(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_birds_are_trained_on_with_ten_captions_an_image(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    small = ["--size", 16, "--base", 2, "--set", "epochs=1", "--set", "batch_size=2", "--set", "augment=true"]
    more = [f"001.Auk/Auk_{number}" for number in range(10, 22)]
    add(tmp_path / "birds", more)
    fitted = weft("generate", "fit", "cub", "--root", tmp_path / "birds", "-o", tmp_path / "model", *small)
    assert fitted["epochs"] == 1
    assert 20 <= fitted["rows"] <= 26
    found = weft("generate", "evaluate", tmp_path / "model", "cub", "--root", tmp_path / "birds")
    assert found["rows"] == 2


def test_from_pairs_to_figures(tmp_path: Path) -> None:
    model, aligner = tmp_path / "model", tmp_path / "aligner"
    small = ["--size", 16, "--base", 2, "--option", "noise=4", "--option", "align_width=8"]
    settings = ["--set", "epochs=2", "--set", "batch_size=16"]
    fitted = weft("generate", "fit", "shapes", *DATA, "-o", model, *small, *settings)
    assert fitted["epochs"] == 2
    again = weft("generate", "fit", "shapes", *DATA, "-o", model, *small, *settings)
    assert again == fitted
    captions = ["a large red circle in the top left", "a small blue square in the top right"]
    drawn = weft("generate", "sample", model, *captions, "-o", tmp_path / "grid.png", "--rows", 3)
    assert drawn["captions"] == captions
    assert Image.open(tmp_path / "grid.png").width > 200
    pictures = sorted(path.name for path in (tmp_path / "grid").iterdir())
    assert pictures == ["0-0.png", "0-1.png", "0-2.png", "1-0.png", "1-1.png", "1-2.png"]
    weft("fit", "shapes", *DATA, "--fusion", "two-tower", "--dim", 8, "--set", "epochs=2", "-o", aligner)
    asked = ["--attribute", "colour", "--attribute", "position", "--aligner", aligner, "--candidates", 10]
    found = weft("generate", "evaluate", model, "shapes", *DATA, *asked)
    assert found["space"] == {"encoder": "image-patches", "output": "mean over tokens"}
    for kind in ("drawn", "real"):
        assert set(found[kind]) == {"distance", "agreement", "r_precision"}
        assert set(found[kind]["agreement"]) == {"colour", "position", "all"}
    assert found["real"]["distance"]["frechet"] < found["drawn"]["distance"]["frechet"]
    assert found["real"]["agreement"]["colour"] > 0.8
    with pytest.raises(UserError, match="colours"):
        weft("generate", "evaluate", model, "shapes", *DATA, "--attribute", "colours")
    with pytest.raises(UserError, match="at most 64 tokens"):
        weft("generate", "sample", model, "red " * 80, "-o", tmp_path / "long.png")
