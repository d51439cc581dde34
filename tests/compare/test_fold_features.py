"""In every fold methods see features of encoders that learned from its training rows alone; the kept model does too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.store.test_refit import store, table
from weft.compare.config import CompareConfig
from weft.compare.methods import Method
from weft.compare.prepare import prepare


def test_features_follow_the_fold(tmp_path: Path) -> None:
    features = store(table(), tmp_path / "store")
    setup = prepare(features, CompareConfig(folds=3), tmp_path / "compare")
    method = Method("all", "linear", ("note", "facts"))
    for fold, split in enumerate(setup.splits):
        wanted = features.fitted(split.train)
        for name, values in setup.features_of(method, fold).pooled(split.test).items():
            np.testing.assert_array_equal(values, wanted.pooled(split.test)[name])
        specs = setup.encoders(fold, ["note"])
        assert specs is not None
        assert specs["note"]["state"] == wanted.manifest["modalities"]["note"]["state"]


def test_another_split_seed_teaches_anew(tmp_path: Path) -> None:
    features = store(table(), tmp_path / "store")
    assert prepare(features, CompareConfig(), tmp_path / "a").features_at(0) is features
    other = prepare(features, CompareConfig(split_seed=5), tmp_path / "b")
    assert other.features_at(0) is not features
