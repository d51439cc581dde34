"""From raw rows to a trained model and back to raw rows, with real encoders and a store."""

from __future__ import annotations

import numpy as np
import pytest

from weft.data import Dataset, Modality, make_splits
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models import FusedModel
from weft.store import encode
from weft.training import train_model


@pytest.fixture(scope="module")
def animals():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 120)
    texts = [("a cat sat" if y else "a dog ran") + f" {rng.integers(9)}" for y in label]
    rows = [(float(rng.normal(2 * y)), "red" if rng.random() < 0.5 else None) for y in label]
    texts[3] = None
    modalities = {
        "text": Modality("text", texts),
        "table": Modality("tabular", rows, fields=("size", "colour")),
    }
    targets = {"animal": np.where(label, "cat", "dog"), "other": label}
    return Dataset("animals", [f"r{i}" for i in range(120)], modalities, targets, None, None, "classification")


@pytest.fixture(scope="module")
def trained(animals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    encoders = {
        "text": create_encoder("hashed-text", "text"),
        "table": create_encoder("columns", "tabular"),
    }
    store = encode(animals, encoders, folder / "store", progress=False)
    settings = {"epochs": 15, "batch_size": 32}
    metrics = train_model(store, "concat", folder / "model", dim=16, config=settings, progress=False)
    return store, folder / "model", metrics


def test_one_call_trains_and_measures(trained):
    store, folder, metrics = trained
    assert set(metrics) == {"dev", "test"}
    assert metrics["test"]["accuracy"] > 0.9
    model = FusedModel.from_pretrained(folder)
    assert model.evaluate(store, make_splits(store).test) == metrics["test"]
    assert model.target == "animal"


def test_raw_rows_get_the_answers_of_their_stored_features(trained, animals):
    store, folder, _ = trained
    model = FusedModel.from_pretrained(folder)
    raw, stored = model.predict(animals, progress=False), model.predict(store)
    assert list(raw["id"]) == list(stored["id"]) == animals.ids
    assert list(raw["prediction"]) == list(stored["prediction"])
    assert np.array_equal(raw["probability"], stored["probability"])
    some = model.predict(store, np.array([5, 2]))
    assert list(some["id"]) == ["r5", "r2"]


def test_rows_of_other_modalities_are_refused(trained, animals):
    model = FusedModel.from_pretrained(trained[1])
    base = {"ids": ["x"], "targets": {}, "split": None, "group": None, "task": "classification", "name": "new"}
    with pytest.raises(UserError, match="lack modality 'table'"):
        model.predict(Dataset(modalities={"text": Modality("text", ["a cat"])}, **base), progress=False)
    wrong = {"text": Modality("text", ["a cat"]), "table": Modality("vector", [np.zeros(2)])}
    with pytest.raises(UserError, match="'table' is of another kind"):
        model.predict(Dataset(modalities=wrong, **base), progress=False)
