"""Three trainings give the figures they gave when each system had verbs, a loop and a model class of its own.

They were equal to the last digit on the machine where both were run. On another processor sums round otherwise, which
two epochs of a pretrained network carry to nearly a percent (an AMD for an Intel).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.systems.verbs import weft

pytestmark = pytest.mark.slow


def close(found: dict[str, Any], expected: dict[str, float], rel: float = 1e-4) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize(
    ("freeze", "fitted", "figures"),
    [
        (
            "true",
            {"loss": 3.1991317749023436, "dev_loss": 3.1908039152622223, "dev_score": 0.3596668280661106},
            {"S": 0.4000005212022975, "max F": 0.04988845349592596, "max E": 0.4266568598760788},
        ),
        (
            "false",
            {"loss": 3.1759875297546385, "dev_loss": 3.3235441744327545, "dev_score": 0.3619256019592285},
            {"S": 0.3997306393064054, "max F": 0.04894310408884904, "MAE": 0.37571941817434207},
        ),
    ],
)
def test_saliency(
    data_root: Path, mobilenet: Path, tmp_path: Path, freeze: str, fitted: dict[str, float], figures: dict[str, float]
) -> None:
    source = [data_root / "rgbd_potholes", "--data", "near=dark"]
    shape = ["--option", f"backbone={mobilenet}", "--option", "size=64", "--option", "width=16"]
    settings = ["--option", f"freeze={freeze}", "--set", "epochs=2", "--set", "batch_size=8"]
    close(weft("fit", *source, "--system", "rgbd-saliency", *shape, *settings, "-o", tmp_path), fitted, 0.02)
    close(weft("evaluate", tmp_path, *source), figures, 0.02)


def test_re_identification(tmp_path: Path) -> None:
    vit = "{model_type: vit, hidden_size: 32, num_attention_heads: 2, intermediate_size: 64, patch_size: 8, "
    vit += "num_hidden_layers: 2, image_size: 32}"
    source = ["spectra", "--data", "share=1"]
    shape = ["--option", f"encoder={vit}", "--option", "size=[32, 32]", "--option", "block={heads: 2}"]
    settings = ["--set", "epochs=3", "--set", "batch_size=32", "--set", "lr=0.001"]
    found = weft("fit", *source, "--system", "cross-spectral-reid", *shape, *settings, "-o", tmp_path)
    close(found, {"loss": 3.8029953837394714, "dev_loss": 0.8375387787818909, "dev_score": 0.5471253411939213})
    figures = {"mAP": 0.17503000002785976, "CMC-1": 0.1125, "CMC-5": 0.45, "CMC-10": 0.6125, "left out": 0.0}
    close(weft("evaluate", tmp_path, *source), figures)


def test_text_to_image(tmp_path: Path) -> None:
    source = ["shapes", "--data", "complete=true", "--data", "rows=200"]
    shape = ["--option", "size=32", "--option", "base=4", "--option", "average=0.9"]
    settings = ["--set", "epochs=3", "--set", "batch_size=16"]
    found = weft("fit", *source, "--system", "text-to-image", *shape, *settings, "-o", tmp_path)
    close(found, {"discriminator": 1.6789928525686264, "generator": 0.5768131176009774})
    figures = {
        "distance frechet": 0.11962830579286306,
        "distance kernel": 0.008920218908717636,
        "real distance frechet": 0.003606926894966611,
        "agreement colour": 0.3333333432674408,
        "agreement position": 0.1666666716337204,
        "real agreement all": 1.0,
    }
    close(weft("evaluate", tmp_path, *source, "--judge", "attributes=[colour, position]"), figures)
