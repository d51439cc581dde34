"""Encoders that learn are fitted on training rows alone, whatever the split: other test rows change nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from weft.data import make_folds, make_splits
from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.store import MemoryFeatures, Store, encode

WORDS = ["warp", "weft", "yarn", "loom", "silk", "wool", "linen", "cotton", "thread", "cloth"]


def table(rows: int = 60, split: bool = False) -> Dataset:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 5)) for _ in range(rows)]
    cells = [(str(random.choice(["a", "b", "c"])), float(row)) for row in range(rows)]
    return Dataset(
        name="t",
        ids=[f"r{i}" for i in range(rows)],
        modalities={"note": Modality("text", texts), "facts": Modality("tabular", cells, ("kind", "size"))},
        targets={"y": np.arange(rows) % 2},
        split=np.array((["train"] * 4 + ["dev", "test"]) * (rows // 6)) if split else None,
        group=None,
        task="classification",
    )


def store(data: Dataset, folder: Path) -> Store:
    made = {"note": create_encoder("tfidf", "text", dims=8), "facts": create_encoder("columns", "tabular")}
    return encode(data, made, folder, dtype="fp32", progress=False)


def changed(data: Dataset, rows: np.ndarray) -> Dataset:
    """Other words and cells in these rows."""
    for row in rows.tolist():
        data.modalities["note"].values[row] = f"unheard word{row} of nothing else"  # type: ignore[index]
        data.modalities["facts"].values[row] = (f"new {row}", 1e6 + row)  # type: ignore[index]
    return data


@pytest.mark.parametrize("given", [True, False])
def test_the_default_split_teaches(tmp_path: Path, given: bool) -> None:
    data = table(split=given)
    parts = make_splits(data)
    one = store(data, tmp_path / "a")
    other = store(changed(table(split=given), np.concatenate([parts.dev, parts.test])), tmp_path / "b")
    for name in one.dims:
        assert one.manifest["modalities"][name]["state"] == other.manifest["modalities"][name]["state"]
    np.testing.assert_array_equal(one.pooled(parts.train)["note"], other.pooled(parts.train)["note"])


def test_every_fold_teaches_anew(tmp_path: Path) -> None:
    data = table()
    one = store(data, tmp_path / "a")
    for number, fold in enumerate(make_folds(data, 3)):
        other = store(changed(table(), np.concatenate([fold.dev, fold.test])), tmp_path / f"b{number}")
        ours, theirs = one.fitted(fold.train), other.fitted(fold.train)
        for name in ours.dims:
            np.testing.assert_array_equal(ours.pooled(fold.train)[name], theirs.pooled(fold.train)[name])
            states = [s.manifest["modalities"][name]["state"] for s in (ours, theirs)]
            assert states[0] == states[1]
        encoder = create_encoder("tfidf", "text", dims=8)
        encoder.fit([data.modalities["note"].values[row] for row in fold.train])
        expected = np.concatenate(encoder.encode(data.modalities["note"].values))
        np.testing.assert_allclose(ours.pooled(np.arange(60))["note"], expected, atol=1e-6)
        assert ours.fingerprint != one.fingerprint
        assert ours.encoder("note").state() == encoder.state()


def test_what_is_fitted_so_already_comes_back(tmp_path: Path) -> None:
    data = table()
    one = store(data, tmp_path / "a")
    assert one.fitted(make_splits(data).train) is one
    rows = make_splits(data, seed=1).train
    two = one.fitted(rows)
    assert two is not one
    again = Store.open(tmp_path / "a").fitted(rows)
    carried = pickle.loads(pickle.dumps(two.subset(["facts"])))
    for other in (again, carried):
        assert other.manifest["modalities"]["facts"] == two.manifest["modalities"]["facts"]
        np.testing.assert_array_equal(other.pooled(rows)["facts"], two.pooled(rows)["facts"])
    memory = MemoryFeatures(data.ids, {"m": np.zeros((60, 2))}, data.targets)
    assert memory.fitted(rows) is memory


def test_a_second_run_learns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = table()
    first = store(data, tmp_path / "a")

    def learn(self: object, values: object) -> None:
        raise AssertionError("learned again")

    for name in ("tfidf.Tfidf", "columns.Columns"):
        monkeypatch.setattr(f"weft.encoders.{name}.fit", learn)
    second = store(data, tmp_path / "a")
    assert second.manifest == first.manifest
