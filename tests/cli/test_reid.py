"""``weft reid``: fit and evaluate on the generated set, on files and on a table of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from typer.testing import CliRunner

from tests.systems.tiny import VIT
from weft.cli import app
from weft.errors import UserError

TINY = [f"--config={key}={value}" for key, value in VIT.items() if key != "model_type"]
TRAINING = ["--set", "epochs=1", "--set", "batch_size=16", "--option", "heads=2", "--size", "16", "16"]
SMALL = ["--data", "share=1", "--data", "size=16"]


def weft(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["reid", *map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_from_the_generated_set_to_metrics(tmp_path: Path) -> None:
    fitted = weft("fit", "spectra", "-o", tmp_path, *TINY, *TRAINING, *SMALL)
    assert fitted["identities"] == 16
    found = weft("evaluate", tmp_path, "spectra", *SMALL)
    assert (found["queries"], found["gallery"], found["left out"]) == (80, 80, 0)
    assert 0 < found["mAP"] < 1
    assert found["CMC-1"] <= found["CMC-5"] <= found["CMC-10"]
    printed = CliRunner().invoke(app, ["reid", "evaluate", str(tmp_path), "spectra", *SMALL]).stdout
    assert all(name in printed for name in ("mAP", "CMC-1", "CMC-5", "CMC-10", "left out"))


def test_a_folder_an_encoder_of_files_and_one_spectrum(tmp_path: Path) -> None:
    root, vit = tmp_path / "set", tmp_path / "vit"
    rng = np.random.default_rng(0)
    for part, identities in (("bounding_box_train", range(1, 9)), ("query", (9, 10)), ("bounding_box_test", (9, 10))):
        (root / part).mkdir(parents=True)
        for identity in identities:
            for camera in (1, 2):
                pixels = rng.integers(0, 255, (128, 512, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / f"{identity:04d}_c{camera}_0.png")
    (root / "bounding_box_test/0010_c1_0.png").unlink()
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**VIT)).save_pretrained(vit)
    given = ["rgbn300", "--root", root]
    weft(
        "fit", *given, "-o", tmp_path / "nir", "--encoder", vit, "--fusion", "nir", *TRAINING[:2], "--set=batch_size=8"
    )
    found = weft("evaluate", tmp_path / "nir", *given)
    assert (found["queries"], found["gallery"], found["left out"]) == (4, 3, 1), "nobody else shows 10 to camera 2"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="come from a ViT"):
        weft("fit", "spectra", "-o", tmp_path)
    with pytest.raises(UserError, match="identity, camera and part"):
        weft("fit", "shapes", "-o", tmp_path, *TINY)
    with pytest.raises(UserError, match="did you mean 'nir'"):
        weft("fit", "spectra", "-o", tmp_path, *TINY, *SMALL, "--fusion", "nirr")
    with pytest.raises(UserError, match="P identities"):
        weft("fit", "spectra", "-o", tmp_path, *TINY, *SMALL, "--option", "heads=2", "--per-identity", "7")


def test_help_does_not_import_torch() -> None:
    code = """
import sys
from typer.testing import CliRunner
from weft.cli import app
for verb in ("fit", "evaluate"):
    result = CliRunner().invoke(app, ["reid", verb, "--help"])
    if result.exit_code or "Example" not in result.output:
        raise SystemExit(f"{verb}: {result.output}")
raise SystemExit("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
