"""ARAF as a system: fitted to what the data ask, kept, and each verb on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.systems.verbs import weft
from weft.data import load_dataset, make_splits
from weft.errors import UserError
from weft.models.pretrained import load_model
from weft.training.system_task import fit_system, make_system

SMALL = {"size": 16, "width": 8, "heads": 2, "head_dim": 4}
IMAGE = {"patch": 8, "width": 8, "heads": 2, "head_dim": 4, "hidden": 8}


def test_a_class_or_a_value_and_the_folder_answers_the_same(tmp_path: Path) -> None:
    from dataclasses import replace

    data = load_dataset("shapes", rows=60, size=16)
    bright = np.array([float(image.mean()) for image in data.modalities["image"].values])
    for task, target in (("classification", data.targets["position"]), ("regression", bright)):
        asked = replace(data, task=task, targets={"answer": target})
        split = make_splits(asked)
        net = make_system("araf", asked, split.train, image=IMAGE, **SMALL)
        history = fit_system(net, asked, split, {"epochs": 2, "batch_size": 16}, tmp_path / task, progress=False)
        assert np.isfinite(history.best["dev_score"])
        again = load_model(tmp_path / task)
        assert again.config() == net.config()
        for one, other in zip(*(m.predictions(asked, split.test) for m in (net, again)), strict=True):
            np.testing.assert_array_equal(one, other)
        judged = net.evaluate(asked, split.test)
        assert judged[net.answers.primary] == pytest.approx(again.evaluate(asked, split.test)[net.answers.primary])


def test_the_verbs(tmp_path: Path) -> None:
    data = ["shapes", "--data", "rows=60", "--data", "size=16"]
    options = [f"--option={key}={value}" for key, value in {**SMALL, "image": IMAGE}.items()]
    weft("fit", *data, "--system", "araf", *options, "--set", "epochs=1", "-o", tmp_path)
    found = weft("predict", tmp_path, *data, "--split", "test")
    assert set(found) >= {"id", "prediction", "probability"}
    assert "accuracy" in weft("evaluate", tmp_path, *data)
    with pytest.raises(UserError, match="reads a column 'image'"):
        weft("fit", "xor", "--system", "araf")
