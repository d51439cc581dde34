"""Encoders compared: the probe is scikit-learn's, test rows choose nothing, and what cannot be tried is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from weft.cli import app
from weft.compare.encoders import candidates_of, compare_encoders
from weft.compare.signal import WIDE, even_folds, out_of_fold
from weft.data import Dataset, Modality, make_splits
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.ops.neighbours import mutual_knn
from weft.store import Store
from weft.tasks.base import create_task

WORDS = ["warp", "weft", "yarn", "loom", "silk", "wool", "linen", "cotton"]


def data(rows: int = 160) -> Dataset:
    """The number of the first word is the class; the picture's colour tells it too."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, rows)
    texts = [" ".join([WORDS[k], *rng.choice(WORDS[4:], 4)]) for k in first]
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [0, 0, 0]], np.uint8)
    shades = [np.tile(colours[k], (20, 20, 1)) for k in first]
    ids = [f"r{i}" for i in range(rows)]
    modalities = {"text": Modality("text", texts), "photo": Modality("image", shades)}
    return Dataset("d", ids, modalities, {"y": np.array(list("abcd"))[first]}, None, None, "classification")


def test_the_probe_is_that_of_scikit_learn() -> None:
    """By an array, and by what gives one to the rows of a fold."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, WIDE + 20)), np.array(["a", "b", "c"])[rng.integers(0, 3, 120)]
    x[:, 0] += 3 * (y == "a")
    task = create_task("classification", y)
    codes = task.response(y)
    place = even_folds(codes, None)
    most = min(WIDE, 120 - int(np.bincount(place).max()))
    model = make_pipeline(StandardScaler(), PCA(most, random_state=0), RidgeCV(np.logspace(0, 6, 7)))
    values = np.clip(cross_val_predict(model, x, np.eye(3)[codes], cv=PredefinedSplit(place)), 1e-3, 1 - 1e-3)
    expected = task.from_estimator(values / values.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(out_of_fold(task, x, y, None), expected, atol=1e-10)
    seen = []

    def features(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return x

    np.testing.assert_allclose(out_of_fold(task, features, y, None), expected, atol=1e-10)
    assert sorted(np.flatnonzero(~np.stack(seen)).tolist()) == sorted((np.arange(5)[:, None] * 120 + np.arange(120))[
        np.arange(5)[:, None] == place].tolist())  # fmt: skip


def test_encoders_are_compared(tmp_path: Path) -> None:
    rows = data()
    bad = [("image-patches", {"grid": 900}), ("hf:/nowhere", {})]
    tries = candidates_of(rows, {"photo": [("image-patches", {"grid": 1}), *bad]})
    report = compare_encoders(rows, tries, tmp_path, progress=False)
    assert report.metric == "accuracy"
    parts = make_splits(rows)
    assert report.rows == len(parts.train) + len(parts.dev)
    found = {(c.modality, c.encoder): c for c in report.candidates}
    assert found["photo", "image-patches grid=1"].score == 1.0
    assert found["text", "tfidf"].score > 0.9
    assert {c.encoder for c in report.candidates if c.error} == {"image-patches grid=900", "hf:/nowhere"}
    assert {c.modality for c in report.candidates if c.taken} == {"text", "photo"}
    assert report.sentence.startswith("Take ")
    assert "not told apart from image-patches" in report.sentence
    photo, text = (Store.open(tmp_path / place) for place in ("photo image-patches", "text tfidf"))
    assert set(photo.ids) == {rows.ids[row] for row in np.concatenate([parts.train, parts.dev])}  # no test row
    every = np.arange(len(photo))
    x, y = (torch.from_numpy(next(iter(s.pooled(every).values()))) for s in (photo, text))
    other = next(c.encoder for c in report.candidates if c.taken and c.modality == "photo")
    if other == "image-patches":
        assert found["text", "tfidf"].neighbours == {"photo": mutual_knn(x, y)}
    again = compare_encoders(rows, tries, tmp_path, progress=False)
    assert again == report


def test_an_encoder_that_learns_is_fitted_in_every_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []
    kind = type(create_encoder("tfidf", "text"))
    real = kind.fit
    monkeypatch.setattr(kind, "fit", lambda self, values: (fitted.append(len(values)), real(self, values))[1])
    rows = data()
    report = compare_encoders(rows, {"text": [("tfidf", {})]}, tmp_path, progress=False)
    assert fitted[0] == report.rows
    assert len(fitted) == 6
    assert sum(report.rows - size for size in fitted[1:]) == report.rows


def test_without_a_target_shared_neighbours_choose(tmp_path: Path) -> None:
    rows = replace(data(), task="retrieval", targets={})
    report = compare_encoders(rows, candidates_of(rows, {}), tmp_path, progress=False)
    assert report.metric is None
    assert all(c.score is None for c in report.candidates)
    texts = {c.encoder: c.neighbours["photo"] for c in report.candidates if c.modality == "text"}
    taken = next(c for c in report.candidates if c.taken and c.modality == "text")
    assert texts[taken.encoder] == max(texts.values())
    assert "by chance" in report.sentence


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    rows = data()
    with pytest.raises(UserError, match="did you mean 'photo'"):
        candidates_of(rows, {"phot": [("image-patches", {})]})
    with pytest.raises(UserError, match="no encoder of 'photo' could be tried"):
        compare_encoders(rows, {"photo": [("hf:/nowhere", {})]}, tmp_path, progress=False)
    with pytest.raises(UserError, match="50 rows or more"):
        compare_encoders(data(40), candidates_of(rows, {}), tmp_path, progress=False)


def test_the_verb(tmp_path: Path) -> None:
    command = ["encoders", "shapes", "--data", "rows=120", "-o", str(tmp_path), "--encoder", "sensor=raw-patches", "-q"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert {c["modality"] for c in said["candidates"] if c["taken"]} == {"image", "caption", "sensor"}
    assert len([c for c in said["candidates"] if c["encoder"] == "raw-patches"]) == 1
    shown = CliRunner().invoke(app, command)
    assert said["sentence"] in shown.output.replace("\n", " ")
