"""An aligner reads tables in memory, of one modality or both."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from weft.data import TableConfig, read_table
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models import AlignedModel
from weft.store import encode
from weft.training import train_model

WORDS = ("red", "green", "blue", "dark", "light", "old")


def columns(rows: int = 40) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    draws = [rng.choice(WORDS, size=2) for _ in range(rows)]
    return {"title": [" ".join(d) for d in draws], "note": [f"a {d[0]} thing that is {d[1]}" for d in draws]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AlignedModel:
    folder = tmp_path_factory.mktemp("aligner")
    modalities = {name: {"kind": "text", "column": name} for name in ("title", "note")}
    config = TableConfig(table="rows.csv", task="retrieval", modalities=modalities)
    encoders = {name: create_encoder("hashed-text", "text") for name in modalities}
    store = encode(read_table(columns(), config), encoders, folder / "store", progress=False)
    train_model(store, "procrustes", folder / "model", dim=4, progress=False)
    return AlignedModel.from_pretrained(folder / "model").eval()


def test_a_table_of_one_modality_is_enough(model: AlignedModel) -> None:
    frame = pandas.DataFrame(columns())
    both, one = model.embed(frame), model.embed(frame[["note"]])
    assert {name: v.shape for name, v in both.items()} == {"title": (40, 4), "note": (40, 4)}
    assert list(one) == ["note"]
    np.testing.assert_array_equal(one["note"], both["note"])
    features = model.encode({"note": columns()["note"]}, progress=False)
    np.testing.assert_array_equal(model.embed(features, np.array([3]))["note"], both["note"][[3]])


def test_a_table_of_none_is_refused(model: AlignedModel) -> None:
    with pytest.raises(UserError, match="no column"):
        model.encode({"words": ["red"]}, progress=False)
    model.table, table = None, model.table
    with pytest.raises(UserError, match="does not know how to read a table"):
        model.encode(columns(), progress=False)
    model.table = table
