"""The verbs on re-identification: the generated set, files, a table that groups otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.systems.tiny import VIT
from tests.systems.verbs import weft
from weft.errors import UserError

TINY = ["--option", f"encoder={VIT}", "--option", "block={heads: 2}", "--option", "size=[16, 16]"]
SYSTEM = ["--system", "cross-spectral-reid"]
SMALL = ["--data", "share=1", "--data", "size=16"]
SHORT = ["--set", "epochs=1", "--set", "batch_size=16"]


def test_from_the_generated_set_to_metrics(tmp_path: Path) -> None:
    fitted = weft("fit", "spectra", *SYSTEM, "-o", tmp_path / "model", *TINY, *SHORT, *SMALL)
    assert fitted["rows"] == {"train": 128, "dev": 32, "test": 160}
    found = weft("evaluate", tmp_path / "model", "spectra", *SMALL)
    assert (found["queries"], found["gallery"], found["left out"]) == (80, 80, 0)
    assert 0 < found["mAP"] < 1
    assert found["CMC-1"] <= found["CMC-5"] <= found["CMC-10"]
    kept = tmp_path / "embeddings.parquet"
    predicted = weft("predict", tmp_path / "model", "spectra", *SMALL, "--split", "test", "-o", kept)
    assert np.array(predicted["prediction"]).shape == (160, 16)


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
    nir = ["--option", f"encoder={vit}", "--option", "fusion=nir", "--set", "epochs=1", "--set", "batch_size=8"]
    weft("fit", *given, *SYSTEM, "-o", tmp_path / "nir", *nir)
    found = weft("evaluate", tmp_path / "nir", *given)
    assert (found["queries"], found["gallery"], found["left out"]) == (4, 3, 1), "nobody else shows 10 to camera 2"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder"):
        weft("fit", "spectra", *SYSTEM, "-o", tmp_path, *SMALL)
    with pytest.raises(UserError, match="identity, camera and part"):
        weft("fit", "shapes", *SYSTEM, "-o", tmp_path, *TINY)
    with pytest.raises(UserError, match="did you mean 'nir'"):
        weft("fit", "spectra", *SYSTEM, "-o", tmp_path, *TINY, *SMALL, "--option", "fusion=nirr")
    with pytest.raises(UserError, match="P identities"):
        weft("fit", "spectra", *SYSTEM, "-o", tmp_path, *TINY, *SMALL, "--option", "per_identity=7")
