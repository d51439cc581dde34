"""Search against a full sort; indexes through disk; the wrong model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from weft.errors import UserError
from weft.retrieval.search import ExactIndex, FaissIndex, model_fingerprint


@pytest.fixture
def vectors() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(203, 16)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(17, 16)).astype(np.float32)


def full_sort(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1)[:, :k]


@pytest.mark.parametrize("chunk", [1, 5, 64, 1000])
def test_exact_equals_a_full_sort(vectors, queries, chunk):
    hits = ExactIndex(vectors, fingerprint="m", chunk=chunk).search(queries, 10)
    rows = full_sort(queries, vectors, 10)
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(queries @ vectors.T, rows, axis=1), rtol=1e-5)
    assert hits.ids[0, 0] == str(rows[0, 0])


def test_more_hits_than_items_gives_all_of_them(vectors, queries):
    assert ExactIndex(vectors, fingerprint="m").search(queries, 1000).rows.shape == (17, 203)


def test_exact_reads_a_memory_map_without_copying_it(vectors, queries, tmp_path, recwarn):
    np.save(tmp_path / "x.npy", vectors)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    hits = ExactIndex(mapped, fingerprint="m", chunk=50).search(queries, 5)
    np.testing.assert_array_equal(hits.rows, full_sort(queries, vectors, 5))
    assert not recwarn.list


@pytest.mark.parametrize("kind", [ExactIndex, FaissIndex])
def test_an_index_survives_the_disk_and_refuses_another_model(kind, vectors, queries, tmp_path):
    ids = [f"item {i}" for i in range(len(vectors))]
    index = kind(vectors, ids, fingerprint="abc")
    index.save(tmp_path / "index")
    loaded = kind.load(tmp_path / "index", "abc")
    for a, b in zip(index.search(queries, 7), loaded.search(queries, 7), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.ids == ids
    assert len(loaded) == 203
    with pytest.raises(UserError, match="built with another model"):
        kind.load(tmp_path / "index", "abd")
    with pytest.raises(UserError, match="no index here"):
        kind.load(tmp_path, "abc")


def test_a_kind_opens_only_its_own(vectors, tmp_path):
    ExactIndex(vectors, fingerprint="m").save(tmp_path)
    with pytest.raises(UserError, match="kind 'exact'"):
        FaissIndex.load(tmp_path, "m")


def test_faiss_finds_nearly_what_exact_finds(queries):
    vectors = np.random.default_rng(2).normal(size=(3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = ExactIndex(vectors, fingerprint="m").search(queries, 10).rows
    found = FaissIndex(vectors, fingerprint="m").search(queries, 10).rows
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert overlap > 0.95


@pytest.mark.parametrize("kind", [ExactIndex, FaissIndex])
def test_mistakes_are_named(kind, vectors, queries):
    broken = vectors.copy()
    broken[[3, 9], 0] = np.nan
    with pytest.raises(UserError, match="rows 3, 9 of 203"):
        kind(broken, fingerprint="m")
    with pytest.raises(UserError, match="2 ids for 203 rows"):
        kind(vectors, ["a", "b"], fingerprint="m")
    index = kind(vectors, fingerprint="m")
    with pytest.raises(UserError, match="queries of width 4"):
        index.search(queries[:, :4])
    with pytest.raises(UserError, match="k=0"):
        index.search(queries, 0)
    queries[5, 2] = np.inf
    with pytest.raises(UserError, match="rows 5 of 17"):
        index.search(queries)


def test_a_fingerprint_changes_with_any_weight():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = model_fingerprint(model)
    assert before == model_fingerprint(model)
    assert len(before) == 16
    model[1].running_mean[2] += 1e-6
    assert model_fingerprint(model) != before
