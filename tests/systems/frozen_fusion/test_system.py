"""A fusion over frozen tokens as a system: it learns, its folder says the same, and it stands beside a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.systems.meter.test_system import painted
from tests.systems.verbs import weft
from weft.data import make_splits
from weft.errors import UserError
from weft.models import FusedModel, load_model
from weft.models.raw import encode_rows
from weft.training.system_task import fit_system, make_system

FAST = {"epochs": 40, "batch_size": 16, "lr": 1e-2, "patience": 0}
SMALL = {"dim": 16, "fusion": "multiplicative"}


def test_it_is_the_model_that_compare_trains(tmp_path: Path) -> None:
    """The same weights on the same features by the ordinary way give the same outputs."""
    data = painted(150)
    split = make_splits(data)
    system = make_system("frozen-fusion", data, split.train, **SMALL)
    fit_system(system, data, split, FAST, tmp_path, progress=False)
    said = np.stack(list(system.predictions(data, split.test)))
    assert system.evaluate(data, split.test)["accuracy"] > 0.75, "neither side alone knows more than half"
    assert np.array_equal(said, np.stack(list(load_model(tmp_path).predictions(data, split.test))))
    plain = FusedModel(system.dims, system.answers, "multiplicative", dim=16)
    plain.load_state_dict(system.network.state_dict())
    features = encode_rows(system.encoders, data, progress=False)
    np.testing.assert_allclose(plain.outputs(features, split.test), said, rtol=1e-5, atol=1e-5)


def test_one_side_alone_does_not_hear_the_other() -> None:
    data = painted(40)
    system = make_system("frozen-fusion", data, np.arange(40), dim=8, only="text").eval()
    assert set(system.encoders) == {"text"}
    values = list(data.modalities["image"].values)
    other = replace(
        data, modalities={**data.modalities, "image": replace(data.modalities["image"], values=values[::-1])}
    )
    with torch.no_grad():
        one, two = (system(*system.inputs(d, np.arange(40))) for d in (data, other))
    assert torch.equal(one, two)


def test_mistakes_are_named() -> None:
    data = painted(20)
    with pytest.raises(UserError, match="did you mean 'concat'"):
        make_system("frozen-fusion", data, np.arange(20), fusion="conct")
    system = make_system("frozen-fusion", data, np.arange(20), **SMALL)
    strange = replace(data, targets={"answer": np.array(["mauve", *data.targets["answer"][1:]])})
    with pytest.raises(UserError, match="'q0: mauve'"):
        system.evaluate(strange, np.arange(20))
    empty = replace(data, targets={"answer": np.array(["", *data.targets["answer"][1:]])})
    with pytest.raises(UserError, match=r"every question has an answer[\s\S]*q0"):
        system.evaluate(empty, np.arange(20))


def test_beside_a_network_in_one_comparison(data_root: Path, tmp_path: Path) -> None:
    source = ["vqa", "--root", data_root / "vqa", "--data", "answers=[bed, 4]"]
    small = ["--option=dim=16", "--set=epochs=1", "--set=batch_size=16", "--seeds=1"]
    found = weft(
        "compare", *source, "--system", "frozen-fusion", *small, "--variant", "only=text", "--variant",
        "system=meter,heads=2,layers=1,length=30", "-o", tmp_path / "c",
    )  # fmt: skip
    assert set(found["metrics"]) == {"only=text", "system=meter,heads=2,layers=1,length=30"}
