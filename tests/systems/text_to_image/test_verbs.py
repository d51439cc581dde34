"""The verbs on text to image: from a named set to drawings, a figure and what they are worth."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.systems.text_to_image.test_cub import add, write
from tests.systems.verbs import weft
from weft.errors import UserError

DATA = ["--data", "complete=true", "--data", "rows=120", "--data", "size=16"]
SYSTEM = ["--system", "text-to-image"]
SMALL = ["--option", "size=16", "--option", "base=2"]


def test_birds_are_trained_on_with_ten_captions_an_image(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    add(tmp_path / "birds", [f"001.Auk/Auk_{number}" for number in range(10, 22)])
    short = ["--set", "epochs=1", "--set", "batch_size=2", "--option", "augment=true"]
    given = ["cub", "--root", tmp_path / "birds"]
    fitted = weft("fit", *given, *SYSTEM, "-o", tmp_path / "model", *SMALL, *short)
    assert 20 <= fitted["rows"]["train"] <= 26
    assert weft("evaluate", tmp_path / "model", *given)["rows"] == 2


def test_from_pairs_to_figures(tmp_path: Path) -> None:
    model, aligner = tmp_path / "model", tmp_path / "aligner"
    more = ["--option", "noise=4", "--option", "align_width=8", "--set", "epochs=2", "--set", "batch_size=16"]
    fitted = weft("fit", "shapes", *DATA, *SYSTEM, "-o", model, *SMALL, *more)
    assert fitted["epoch"] == 1
    again = weft("fit", "shapes", *DATA, *SYSTEM, "-o", model, *SMALL, *more)
    assert again == fitted
    captions = ["--row", "text: a large red circle in the top left", "--row", "text: a small blue square"]
    assert weft("predict", model, *captions, "-o", tmp_path / "drawn", "--seed", 1)["written"] == 2
    assert Image.open(tmp_path / "drawn/row1.png").size == (16, 16)
    weft("fit", "shapes", *DATA, "--fusion", "two-tower", "--dim", 8, "--set", "epochs=2", "-o", aligner)
    asked = ["--judge", "attributes=[colour, position]", "--judge", f"aligner={aligner}", "--judge", "candidates=10"]
    asked += ["--judge", "blurs=[1, 2.5]"]
    found = weft("evaluate", model, "shapes", *DATA, *asked, "--figures", tmp_path / "figures")
    names = [
        "distance frechet",
        "distance frechet blur 1",
        "distance frechet blur 2.5",
        "distance kernel",
        "r_precision",
    ]
    names += ["agreement colour", "agreement position", "agreement all"]
    assert {"split", "rows", *names, *(f"real {name}" for name in names)} == set(found)
    assert found["real distance frechet"] < found["distance frechet"]
    assert found["real agreement colour"] > 0.8
    assert Image.open(tmp_path / "figures/drawn.png").width > 200
    with pytest.raises(UserError, match="blurs"):
        weft("evaluate", model, "shapes", *DATA, "--judge", "blurs=[0]")
    with pytest.raises(UserError, match="colours"):
        weft("evaluate", model, "shapes", *DATA, "--judge", "attributes=[colours]")
    with pytest.raises(UserError, match="at most 64 tokens"):
        weft("predict", model, "--row", "text: " + "red " * 80, "-o", tmp_path / "long")
