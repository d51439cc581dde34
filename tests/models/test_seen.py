"""What a model saw decides which rows it is judged on."""

import numpy as np
import pytest

from weft.errors import UserError
from weft.models import FusedModel, load_model
from weft.models.seen import Seen, rows_for
from weft.store import MemoryFeatures
from weft.training.train import train_model


def features(ids, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, len(ids))
    return MemoryFeatures(ids, {"a": rng.normal(size=(len(ids), 3)) + label[:, None]}, {"label": label})


NAMED = [f"row-{k}" for k in range(60)]


def test_named_rows_are_known_again_in_any_table_and_order():
    data = features(NAMED)
    seen = Seen.of(data, (np.arange(30), np.arange(30, 40), np.arange(40, 60)))
    other = features([*reversed(NAMED), "stranger"])
    assert sorted(other.ids[row] for row in rows_for(seen, other, "train")) == sorted(NAMED[:30])
    assert [other.ids[row] for row in rows_for(seen, other, "new")] == ["stranger"]
    assert {other.ids[row] for row in rows_for(seen, other, "test")} == {*NAMED[40:], "stranger"}
    assert len(rows_for(seen, other, "all")) == 61


def test_numbered_rows_are_known_again_only_in_the_same_table():
    ids = [str(k) for k in range(60)]
    seen = Seen.of(features(ids), (np.arange(30), np.arange(30, 40), np.arange(40, 60)))
    assert rows_for(seen, features(ids), "train").tolist() == list(range(30))
    assert rows_for(seen, features(ids, seed=1), "test").tolist() == list(range(60))


def test_numbered_rows_are_known_again_where_others_were_appended():
    ids, grown = ([str(k) for k in range(n)] for n in (60, 63))
    data, more = features(ids), features(grown)
    more.targets["label"][:60] = data.targets["label"]
    seen = Seen.of(data, (np.arange(30), np.arange(30, 40), np.arange(40, 60)))
    assert rows_for(seen, more, "train").tolist() == list(range(30))
    assert rows_for(seen, more, "new").tolist() == [60, 61, 62]


def test_a_row_in_several_parts_counts_as_trained_on():
    seen = Seen.of(features(NAMED), (np.arange(10), np.arange(5, 15), np.arange(60)))
    assert rows_for(seen, features(NAMED), "train").tolist() == list(range(10))
    assert rows_for(seen, features(NAMED), "dev").tolist() == list(range(10, 15))


def test_asking_for_what_is_not_there_is_said():
    seen = Seen.of(features(NAMED), (np.arange(60), np.arange(0), np.arange(0)))
    with pytest.raises(UserError, match="no row here is test"):
        rows_for(seen, features(NAMED), "test")
    with pytest.raises(UserError, match="unknown split"):
        rows_for(seen, features(NAMED), "tset")
    with pytest.raises(UserError, match="it is not known"):
        rows_for(None, features(NAMED), "test")


def test_a_trained_model_keeps_what_it_saw_and_any_class_loads(tmp_path):
    """A split that is not the default one travels with the model: noise is judged on rows it was not trained on."""
    data = features(NAMED)
    data.split = np.array(["test"] * 20 + ["train"] * 30 + ["dev"] * 10)
    train_model(data, "concat", tmp_path, dim=4, config={"epochs": 1}, progress=False)
    for model in (FusedModel.from_pretrained(tmp_path), load_model(tmp_path)):
        assert isinstance(model, FusedModel)
        assert rows_for(model.seen, features(NAMED), "test").tolist() == list(range(20))
