"""``weft saliency``: fit, predict and evaluate from files to figures."""

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

from tests.data.saliency_files import write_set
from tests.systems.tiny import RESNET
from weft.cli import app
from weft.errors import UserError

TRAINING = ["--set", "epochs=1", "--set", "batch_size=4", "--size", "32", "--width", "8", "--option", "heads=2"]


def weft(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["saliency", *map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def test_from_files_to_figures(tmp_path: Path) -> None:
    data, backbone, model, maps = (tmp_path / name for name in ("data", "backbone", "model", "maps"))
    write_set(data / "NLPR", rows=8)
    write_set(data / "SIP", rows=2)
    (data / "NLPR/train.txt").write_text("s0\ns1\ns2\ns3\ns4\n")
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).save_pretrained(backbone)
    fitted = weft("fit", data, "--backbone", backbone, "-o", model, "--near", "SIP=dark", *TRAINING)
    assert (sum(fitted["rows"]), fitted["rows"][2]) == (10, 5)
    assert weft("predict", model, data, "-o", maps) == {"folder": str(maps), "maps": 5}
    written = sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.png"))
    assert written == ["NLPR/s5.png", "NLPR/s6.png", "NLPR/s7.png", "SIP/s0.png", "SIP/s1.png"]
    assert Image.open(maps / "SIP/s0.png").size == (52, 40)
    figures = weft("evaluate", maps, data)
    assert figures["rows"] == 5
    assert all(0 <= figures[name] <= 1.01 for name in ("S", "max F", "max E", "MAE"))
    with pytest.raises(UserError, match="NLPR/s0"):
        weft("evaluate", maps, data, "--split", "all")


def test_evaluate_judges_anybodys_maps(tmp_path: Path) -> None:
    write_set(tmp_path, rows=3)
    (tmp_path / "maps").mkdir()
    for row in range(3):
        mask = Image.open(tmp_path / f"GT/s{row}.png")
        mask.save(tmp_path / f"maps/s{row}.png")
    perfect = weft("evaluate", tmp_path / "maps", tmp_path, "--split", "all")
    assert perfect["MAE"] == 0
    assert perfect["S"] == pytest.approx(1, abs=1e-6)
    Image.fromarray(np.zeros((7, 9), dtype=np.uint8)).save(tmp_path / "maps/s0.png")
    assert weft("evaluate", tmp_path / "maps", tmp_path, "--split", "all")["S"] < 0.9
    weft("evaluate", tmp_path / "maps", tmp_path, "--split", "all", "--figure", tmp_path / "figures/three.png")
    assert Image.open(tmp_path / "figures/three.png").width == 1320
    with pytest.raises(UserError, match="did you mean 'test'"):
        weft("evaluate", tmp_path / "maps", tmp_path, "--split", "tests")


def test_compare_resumes_and_prints_its_table(tmp_path: Path) -> None:
    data, backbone, out = (tmp_path / name for name in ("data", "backbone", "out"))
    write_set(data, rows=8)
    scenes = tmp_path / "scenes.txt"
    scenes.write_text("s0 s1\ns2 s3\n")
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).save_pretrained(backbone)
    arguments = ["compare", data, "--backbone", backbone, "-o", out, "--freeze", *TRAINING[:-2], "--scenes", scenes]
    arguments += ["--folds", 2, "--seeds", 2, "--fusion", "concat", "--fusion", "depth"]
    found = weft(*arguments)
    assert (list(found["metrics"]), len(found["rows"])) == (["concat", "depth"], 8)
    assert set(found["gains"]["depth"]["S"]) == {"gain", "low", "high", "p", "p_holm"}
    assert json.loads((out / "comparison.json").read_text()) == found
    assert len(list((out / "maps").rglob("*.png"))) == 2 * 2 * 8
    assert weft(*arguments) == found
    printed = CliRunner().invoke(app, ["saliency", *map(str, arguments), "--quiet"]).stdout
    assert "8 images, 2 folds" in printed


def test_help_does_not_import_torch() -> None:
    code = """
import sys
from typer.testing import CliRunner
from weft.cli import app
for verb in ("fit", "predict", "evaluate", "compare"):
    result = CliRunner().invoke(app, ["saliency", verb, "--help"])
    if result.exit_code or "Example" not in result.output:
        raise SystemExit(f"{verb}: {result.output}")
raise SystemExit("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
