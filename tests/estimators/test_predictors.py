"""WeftClassifier and WeftRegressor behave as scikit-learn's estimators do, on arrays and on tables of modalities."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import weft
from weft import WeftClassifier, WeftRegressor

NOT_MEANT = {"check_array_api_input": "scikit-learn skips it unless SCIPY_ARRAY_API is set"}


@pytest.mark.parametrize("estimator", [WeftClassifier(), WeftRegressor()], ids=["classifier", "regressor"])
def test_every_check_of_scikit_learn_passes(estimator):
    results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks={})
    assert len(results) > 45
    left = {r["check_name"]: r["exception"] for r in results if r["status"] != "passed"}
    assert left.keys() <= NOT_MEANT.keys(), left


@pytest.fixture
def frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Text, a number with gaps, a category, a date and a photo by path; the kind is told by text, number and photo."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    light, size = rng.random(90) > 0.5, rng.normal(size=90)
    for i in range(90):
        pixels = rng.integers(0, 60, (12, 12, 3)) + 180 * light[i]
        Image.fromarray(pixels.astype(np.uint8)).save(f"{i}.png")
    notes = [f"{'bright' if w else 'dim'} thing, seen in room {i % 7} of the house" for i, w in enumerate(light)]
    return pd.DataFrame(
        {
            "photo": [f"{i}.png" for i in range(90)],
            "note": notes,
            "size": np.where(np.arange(90) % 11 == 0, np.nan, size),
            "colour": rng.choice(["red", "blue"], 90),
            "day": pd.date_range("2024-01-01", periods=90),
            "kind": np.where(light, "light", "dark"),
            "price": 3 * light + size,
        }
    )


def test_a_table_of_modalities_is_cross_validated(frame):
    X, model = frame.drop(columns=["kind", "price"]), WeftClassifier()
    assert cross_val_score(model, X, frame["kind"], cv=2).mean() > 0.9
    fitted = model.fit(X, frame["kind"])
    assert set(fitted.comparison_.modalities) == {"photo", "note", "tabular", "day"}
    assert list(fitted.feature_names_in_) == list(X.columns)
    assert fitted.comparison_.sentence.endswith(".")
    probability = fitted.predict_proba(X)
    assert np.array_equal(fitted.classes_[probability.argmax(axis=1)], fitted.predict(X))
    assert np.allclose(probability.sum(axis=1), 1)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(X), probability)
    one = fitted.predict_proba(X[:1])
    assert np.allclose(one, probability[:1], atol=1e-6)


def test_a_regressor_of_polars_equals_that_of_pandas(frame):
    X, y = frame.drop(columns=["kind", "price"]).fillna({"size": 0.0}), frame["price"].to_numpy()
    by_pandas = WeftRegressor().fit(X[:70], y[:70])
    by_polars = WeftRegressor().fit(pl.DataFrame(X[:70].to_dict("list")), y[:70])
    assert by_pandas.score(X[70:], y[70:]) > 0.5
    assert np.array_equal(by_pandas.predict(X[70:]), by_polars.predict(X[70:]))


def test_in_a_pipeline_and_a_search():
    X = np.random.default_rng(0).normal(size=(80, 4)) * [1, 100, 1, 1]
    y = X[:, 0] + X[:, 1] / 100 > 0
    X[3, 2] = np.nan
    assert cross_val_score(make_pipeline(StandardScaler(), WeftClassifier()), X, y, cv=3).mean() > 0.8
    search = GridSearchCV(WeftClassifier(), {"methods": [("chance",), ("linear",)]}, cv=2).fit(X, y)
    assert search.best_params_ == {"methods": ("linear",)}
    kept = make_pipeline(FunctionTransformer(lambda x: x[:, :2]), WeftRegressor()).fit(X, X[:, 0])
    assert kept.score(X, X[:, 0]) > 0.9


def test_parameters_are_set_and_cloned_and_settings_reach_the_comparison():
    model = WeftClassifier(metric="auc", settings={"class_weights": "balanced"})
    assert model.get_params()["settings"] == {"class_weights": "balanced"}
    other = clone(model.set_params(methods=("linear", "chance"), fractions=(0.6, 0.2, 0.2)))
    X = np.random.default_rng(0).normal(size=(60, 2))
    found = other.fit(X, X[:, 0] > 0).comparison_
    assert (found.primary, found.counts["test"], found.config["class_weights"]) == ("auc", 12, "balanced")
    assert {row.method for row in found.rows} == {"chance", "numbers (linear)"}
    with pytest.raises(ValueError, match="no setting 'sedes'"):
        WeftClassifier(settings={"sedes": 2}).fit(X, X[:, 0] > 0)


LABELS = {
    "spelt alike": np.array(["a", " a", "A"]),
    "blank": np.array(["", "x", "NA"]),
    "booleans": np.array([True, False]),
    "numbers": np.array([0.0, 2.0, 10.0]),
    "words that are numbers": np.array(["1", "1.0", "2"]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_classes_come_back_as_they_were_given(labels):
    rng = np.random.default_rng(0)
    code = rng.integers(0, len(labels), 90)
    X = np.eye(len(labels))[code] + 0.1 * rng.normal(size=(90, len(labels)))
    model = WeftClassifier().fit(X, labels[code])
    assert model.classes_.dtype == labels.dtype
    assert np.array_equal(model.predict(X), labels[code])
    assert model.classes_.tolist() == sorted(labels.tolist())


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("labels", [["low", "middle", "high"], [30, 10, 20]], ids=["words", "numbers"])
def test_classes_with_an_order_are_a_scale(labels, table):
    rng = np.random.default_rng(0)
    size = rng.normal(size=90)
    y = np.array(labels)[np.digitize(size, [-0.5, 0.5])]
    X = pd.DataFrame({"size": size, "noise": rng.normal(size=90)}) if table else np.c_[size, rng.normal(size=90)]
    model = WeftClassifier(labels=[*labels, 99]).fit(X, y)
    task = model.model_.task
    assert (task.config()["name"], task.labels) == ("ordinal", list(map(str, labels)))
    assert model.comparison_.primary == "kappa_quadratic"
    assert model.classes_.tolist() == sorted(labels)
    assert model.score(X, y) > 0.7
    decided = model.model_.predict(
        {"size": size, "noise": X["noise"]} if table else model._columns(X)[0], progress=False
    )
    assert model.predict(X).astype(str).tolist() == decided["prediction"].astype(str).tolist()
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1)


def test_labels_that_are_no_order_of_the_classes_are_refused():
    X = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.raises(ValueError, match="'medium'"):
        WeftClassifier(labels=["low", "high"]).fit(X, np.resize(["low", "medium", "high"], 60))
    with pytest.raises(ValueError, match="labels are of a target of classes"):
        WeftRegressor(labels=["low", "high"]).fit(X, X[:, 0])


def test_groups_are_kept_together_and_files_stay_where_asked(tmp_path):
    rng = np.random.default_rng(0)
    person = np.repeat([f"p{i}" for i in range(20)], 5)
    X = pd.DataFrame({"person": person, "size": rng.normal(size=100), "weight": rng.normal(size=100)})
    model = WeftRegressor(group="person", folder=tmp_path).fit(X, X["size"])
    assert model.comparison_.counts["test"] % 5 == 0
    assert "person" not in model.model_.table["modalities"]["tabular"]["columns"]
    kept = weft.load_model(model.comparison_.best)
    assert np.array_equal(kept.predict(X, progress=False)["prediction"].reshape(-1), model.predict(X))
