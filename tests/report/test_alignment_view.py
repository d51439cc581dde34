"""The numbers of the alignment view against brute force, and the view of a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.fusion.test_araf import marked
from weft.cli import app
from weft.data import Dataset, Modality
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models import FusedModel
from weft.report.alignment_view import (
    alignment_stages,
    linear_cka,
    linear_separability,
    measure_stages,
    modality_gap,
)
from weft.store import MemoryFeatures, encode
from weft.tasks.base import create_task
from weft.tokens import Tokens, mean_pool
from weft.training import fit


def points(shift: float = 0.0, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(rows, 4))
    return a, a @ rng.normal(size=(4, 4)) + rng.normal(size=(rows, 4)) + shift


def test_the_gap_equals_loops() -> None:
    a, b = points(0.7)
    means = []
    for x in (a, b):
        total = np.zeros(4)
        for row in x:
            total += row / np.sqrt(sum(v * v for v in row))
        means.append(total / len(x))
    assert modality_gap(a, b) == pytest.approx(np.sqrt(((means[0] - means[1]) ** 2).sum()))
    assert modality_gap(a, -a) == pytest.approx(2 * np.linalg.norm(means[0]))
    assert modality_gap(a, 3 * a) == pytest.approx(0, abs=1e-12)


def test_cka_equals_the_centred_grams() -> None:
    a, b = points()
    centre = np.eye(60) - 1 / 60
    grams = [centre @ x @ x.T @ centre for x in (a, b[:, :3])]
    hsic = [[float((p * q).sum()) for q in grams] for p in grams]
    assert linear_cka(a, b[:, :3]) == pytest.approx(hsic[0][1] / np.sqrt(hsic[0][0] * hsic[1][1]))
    turned = a @ np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    assert linear_cka(a, 5 * turned + 2) == pytest.approx(1)
    assert np.isnan(linear_cka(a, np.ones((60, 2))))


def test_separability_of_known_clouds() -> None:
    a, b = points(50.0)
    assert linear_separability(a, b) == 1.0
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    assert abs(linear_separability(a, b) - 0.5) < 0.06


def model_and_features(**options: object) -> tuple[FusedModel, MemoryFeatures]:
    import torch

    inputs, label = marked(60, torch.Generator().manual_seed(0))
    values = {name: [v[m].numpy() for v, m in zip(t.values, t.mask, strict=True)] for name, t in inputs.items()}
    features = MemoryFeatures([f"r{i}" for i in range(60)], values, {"y": label.numpy()}, task="classification")
    task = create_task("classification", features.targets["y"])
    model = FusedModel.build(dims=features.dims, task=task, fusion="araf", fusion_options=options, dim=16)
    return model, features


def test_stages_are_the_means_of_what_the_model_makes() -> None:
    model, features = model_and_features(symmetric=True, tokens=4, columns=8, mfe=True)
    rows = np.arange(5, 45)
    found = alignment_stages(model, features, rows, batch_size=7)
    assert list(found) == ["raw", "encoded", "aligned", "enhanced"]
    assert {v.shape for stage in found.values() for v in stage.values()} == {(40, 6), (40, 16), (40, 8)}
    row = model.standardise(features.gather(rows[:1]))
    assert found["raw"]["a"][0] == pytest.approx(mean_pool(row["a"])[0].numpy(), abs=1e-5)
    fusion = model.fusion
    assert fusion is not None
    tokens = Tokens(fusion.project[1](row["b"].values), row["b"].mask)
    encoded = fusion.extract[1](tokens)[0][tokens.mask[0]].mean(dim=0)
    assert found["encoded"]["b"][0] == pytest.approx(encoded.detach().numpy(), abs=1e-5)
    whole = fusion.eval()(row)
    terms = [found["enhanced"][name][0] for name in ("a", "b")]
    assert whole.tokens is not None
    assert sum(terms) == pytest.approx(whole.tokens.values[0].mean(dim=0).detach().numpy(), abs=1e-5)
    measured = measure_stages(found)
    assert [row["stage"] for row in measured] == list(found)
    assert measured[3]["gap"] == modality_gap(found["enhanced"]["a"], found["enhanced"]["b"])


@pytest.mark.parametrize(
    ("options", "rows", "words"),
    [
        ({}, 60, "every modality asks"),
        ({"variant": "official"}, 60, "every modality asks"),
        ({"symmetric": True}, 9, "10 rows"),
    ],
)
def test_bad_input(options: dict[str, object], rows: int, words: str) -> None:
    model, features = model_and_features(**options)
    with pytest.raises(UserError, match=words):
        alignment_stages(model, features, np.arange(rows))


def test_rows_without_a_partner_are_left_out() -> None:
    model, features = model_and_features(symmetric=True)
    values = {
        name: [None if i % 2 else t for i, t in enumerate(_list(features, name))]
        if name == "b"
        else _list(features, name)
        for name in features.dims
    }
    halved = MemoryFeatures(features.ids, values, features.targets, task="classification")
    found = alignment_stages(model, halved, np.arange(60))
    assert len(found["raw"]["a"]) == 30


def _list(features: MemoryFeatures, name: str) -> list[np.ndarray]:
    tokens = features.gather(np.arange(len(features)))[name]
    return [v[m].numpy() for v, m in zip(tokens.values, tokens.mask, strict=True)]


def test_the_verb_draws_and_counts(tmp_path: Path) -> None:
    model, features = model_and_features(symmetric=True, tokens=4, columns=8)
    modalities = {name: Modality("tokens", _list(features, name)) for name in features.dims}
    data = Dataset("marked", features.ids, modalities, features.targets, None, None, "classification")
    encoders = {name: create_encoder("precomputed", "tokens") for name in modalities}
    store = encode(data, encoders, tmp_path / "store", dtype="fp32", progress=False)
    from weft.data import make_splits
    from weft.models import Seen

    split = make_splits(store, fractions=(0.5, 0.2, 0.3))
    fit(model, store, split, {"epochs": 1}, progress=False)
    model.seen = Seen.of(store, split)
    model.save_pretrained(tmp_path / "model")
    arguments = ["evaluate", str(tmp_path / "model"), str(tmp_path / "store"), "--protocol", "araf-stages"]
    arguments += ["--figures", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--split", "train", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["stage"] for row in rows] == ["raw", "encoded", "aligned", "enhanced"]
    assert json.loads((tmp_path / "out" / "alignment.json").read_text()) == rows
    with Image.open(tmp_path / "out" / "alignment.png") as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    wrong = CliRunner().invoke(app, [*arguments, "--split", "tst"])
    assert isinstance(wrong.exception, UserError)
