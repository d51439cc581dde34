"""The verbs on saliency: from files to maps, metrics and figures; anybody's maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.systems.rgbd_saliency.files import write_set
from tests.systems.tiny import RESNET
from tests.systems.verbs import weft
from weft.errors import UserError

TINY = ["--option", "size=32", "--option", "width=8", "--option", "block={heads: 2}", "--set", "batch_size=4"]
SYSTEM = ["--system", "rgbd-saliency"]


def backbone(folder: Path) -> str:
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).save_pretrained(folder)
    return f"backbone={folder}"


def test_from_files_to_figures(tmp_path: Path) -> None:
    data, model, maps = (tmp_path / name for name in ("data", "model", "maps"))
    write_set(data / "NLPR", rows=8)
    write_set(data / "SIP", rows=2)
    (data / "NLPR/train.txt").write_text("s0\ns1\ns2\ns3\ns4\n")
    near = ["--data", "near={SIP: dark}"]
    given = ["--option", backbone(tmp_path / "backbone"), *TINY, "--set", "epochs=1"]
    fitted = weft("fit", data, *SYSTEM, "-o", model, *near, *given)
    assert (sum(fitted["rows"].values()), fitted["rows"]["test"]) == (10, 5)
    assert weft("predict", model, data, "-o", maps, *near, "--split", "test")["written"] == 5
    written = sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.png"))
    assert written == ["NLPR/s5.png", "NLPR/s6.png", "NLPR/s7.png", "SIP/s0.png", "SIP/s1.png"]
    assert Image.open(maps / "SIP/s0.png").size == (52, 40)
    figures = weft("evaluate", model, data, *near, "--figures", tmp_path / "figures")
    assert figures["rows"] == 5
    assert all(0 <= figures[name] <= 1.01 for name in ("S", "max F", "max E", "MAE"))
    assert Image.open(tmp_path / "figures/maps.png").width == 1320
    assert weft("evaluate", maps, data, *SYSTEM, *near) == figures, "what is judged is what is kept"
    with pytest.raises(UserError, match="NLPR/s0"):
        weft("evaluate", maps, data, *SYSTEM, "--split", "all")
    with pytest.raises(UserError, match="--option size=64"):
        weft("fit", data, *SYSTEM, *given, "--set", "size=64")


def test_evaluate_judges_anybodys_maps(tmp_path: Path) -> None:
    write_set(tmp_path, rows=3)
    (tmp_path / "maps").mkdir()
    for row in range(3):
        Image.open(tmp_path / f"GT/s{row}.png").save(tmp_path / f"maps/s{row}.png")
    given = ["evaluate", tmp_path / "maps", tmp_path, *SYSTEM]
    perfect = weft(*given, "--split", "all")
    assert perfect["MAE"] == 0
    assert perfect["S"] == pytest.approx(1, abs=1e-6)
    Image.fromarray(np.zeros((7, 9), dtype=np.uint8)).save(tmp_path / "maps/s0.png")
    assert weft(*given, "--split", "all")["S"] < 0.9
    with pytest.raises(UserError, match="did you mean 'test'"):
        weft(*given, "--split", "tests")


def test_compare_resumes_and_prints_its_table(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_set(data, rows=8)
    scenes = tmp_path / "scenes.txt"
    scenes.write_text("s0 s1\ns2 s3\n")
    shape = ["--option", backbone(tmp_path / "backbone"), "--option", "freeze=true", *TINY, "--set", "epochs=1"]
    given = ["compare", data, *SYSTEM, "-o", out, *shape, "--data", f"scenes={scenes}", "--folds", 2, "--seeds", 2]
    given += ["--variant", "fusion=concat", "--variant", "fusion=depth"]
    found = weft(*given)
    assert (list(found["metrics"]), found["counts"]["test"]) == (["fusion=concat", "fusion=depth"], 8)
    assert set(found["gains"]["fusion=depth"]) == {"S", "MAE"}
    assert set(found["gains"]["fusion=depth"]["S"]) == {"gain", "low", "high", "p", "p_holm"}
    assert len(list((out / "jobs").glob("*.json"))) == 2 * 2 * 2
    assert weft(*given) == found
    assert weft("predict", out / "winner", data, "-o", tmp_path / "maps")["written"] == 8
