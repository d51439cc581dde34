"""Search against a full sort; indexes through disk; the wrong model, the wrong rows; a kill while saving."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

from weft.errors import UserError
from weft.files import write_tensors
from weft.retrieval import search
from weft.retrieval.search import ExactIndex, FaissIndex, model_fingerprint, top

KINDS = [ExactIndex, FaissIndex]
METRICS = ["dot", "l2"]


@pytest.fixture
def vectors() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(203, 16)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(17, 16)).astype(np.float32)


def all_scores(queries: np.ndarray, vectors: np.ndarray, metric: str = "dot", bias=0.0) -> np.ndarray:
    if metric == "l2":
        return -np.square(queries[:, None] - vectors[None]).sum(axis=2)
    return queries @ vectors.T + bias


def check_hits(hits, scores: np.ndarray, k: int) -> None:
    rows = np.argsort(-scores, axis=1)[:, :k]
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, rows, axis=1), rtol=1e-4, atol=1e-5)
    assert hits.ids[0, 0] == str(rows[0, 0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block", [1, 5, 64, 2**20])
def test_exact_equals_a_full_sort(vectors, queries, block, metric, monkeypatch):
    monkeypatch.setattr(search, "QUERIES", 5)
    monkeypatch.setattr(search, "SCORES", 5 * block)
    vectors = vectors * np.linspace(0.5, 2, len(vectors), dtype=np.float32)[:, None]
    hits = ExactIndex(vectors, fingerprint="m", metric=metric).search(queries, 10)
    check_hits(hits, all_scores(queries, vectors, metric), 10)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 3), (96, 3), (97, 3), (1000, 1), (1000, 31), (1003, 7)])
def test_the_groups_with_the_highest_maxima_hold_the_best(n, k):
    scores = torch.randint(0, 50, (20, n), generator=torch.Generator().manual_seed(n)).float()
    best, place = top(scores, k)
    assert torch.equal(best.sort(dim=1, descending=True).values, scores.topk(k, dim=1).values)
    assert torch.equal(scores.gather(1, place), best)
    assert all(len(set(row)) == k for row in place.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_is_added_to_the_scores(kind, vectors, queries, tmp_path):
    bias = np.random.default_rng(3).normal(size=203).astype(np.float32)
    index = kind(vectors, fingerprint="m", bias=bias)
    check_hits(index.search(queries, 5), all_scores(queries, vectors, bias=bias), 5)
    index.save(tmp_path)
    check_hits(kind.load(tmp_path, "m").search(queries, 5), all_scores(queries, vectors, bias=bias), 5)
    with pytest.raises(UserError, match="one finite number per row"):
        kind(vectors, fingerprint="m", bias=bias[:5])
    with pytest.raises(UserError, match="added to dot products"):
        kind(vectors, fingerprint="m", bias=bias, metric="l2")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_added_are_found_as_if_they_had_been_there(kind, metric, vectors, queries, tmp_path):
    index = kind(vectors[:100], fingerprint="m", metric=metric)
    index.add(vectors[100:150])
    index.save(tmp_path)
    index = kind.load(tmp_path, "m")
    index.add(vectors[150:], [str(i) for i in range(150, 203)])
    assert len(index) == 203
    check_hits(index.search(queries, 5), all_scores(queries, vectors, metric), 5)
    with pytest.raises(UserError, match="width 16"):
        index.add(vectors[:, :3])
    with pytest.raises(UserError, match="or none has"):
        index.add(vectors, bias=np.zeros(203))


def test_more_hits_than_items_gives_all_of_them(vectors, queries):
    assert ExactIndex(vectors, fingerprint="m").search(queries, 1000).rows.shape == (17, 203)


def test_exact_reads_a_memory_map_without_copying_it(vectors, queries, tmp_path, recwarn):
    np.save(tmp_path / "x.npy", vectors)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    index = ExactIndex(mapped, fingerprint="m")
    assert index._parts[0].data_ptr() == mapped.ctypes.data
    check_hits(index.search(queries, 5), all_scores(queries, vectors), 5)
    assert not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_survives_the_disk_and_refuses_another_model(kind, vectors, queries, tmp_path):
    ids = [f"item {i}, ünï/cödé" for i in range(len(vectors))]
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


def test_an_index_answers_for_its_own_rows_only(vectors, tmp_path):
    about = {"source": "photos", "split": "test", "modality": "image"}
    ExactIndex(vectors, fingerprint="m", about=about).save(tmp_path)
    assert ExactIndex.load(tmp_path, "m", about).about == about
    for name in about:
        with pytest.raises(UserError, match=f"another {name}"):
            ExactIndex.load(tmp_path, "m", {**about, name: "other"})
    with pytest.raises(UserError, match="another rows"):
        ExactIndex.load(tmp_path, "m", {**about, "rows": "1f"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_while_saving_leaves_the_old_index_whole(kind, vectors, queries, tmp_path, monkeypatch):
    kind(vectors, [f"old {i}" for i in range(203)], fingerprint="m").save(tmp_path)
    before = kind.load(tmp_path, "m").search(queries, 3)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        kind(-vectors[:100], [f"new {i}" for i in range(100)], fingerprint="m").save(tmp_path)
    for a, b in zip(before, kind.load(tmp_path, "m").search(queries, 3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_index_is_named(vectors, tmp_path):
    ExactIndex(vectors, fingerprint="m").save(tmp_path)
    path = tmp_path / search.FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        ExactIndex.load(tmp_path, "m")
    write_tensors(path, {"vectors": torch.ones(3, 2)})
    with pytest.raises(UserError, match="damaged"):
        ExactIndex.load(tmp_path, "m")


def test_a_kind_opens_only_its_own(vectors, tmp_path):
    ExactIndex(vectors, fingerprint="m").save(tmp_path)
    with pytest.raises(UserError, match="kind 'exact'"):
        FaissIndex.load(tmp_path, "m")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("factory", "least"), [("HNSW32", 0.95), ("IVF32,Flat", 0.8), ("IVF16,PQ8x4", 0.3), ("Flat", 1.0)]
)
def test_faiss_finds_nearly_what_exact_finds(queries, factory, least, metric, tmp_path):
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(60, 16))[rng.integers(0, 60, 3000)] + 0.4 * rng.normal(size=(3000, 16))).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = ExactIndex(vectors, fingerprint="m", metric=metric).search(queries, 10).rows
    FaissIndex(vectors, fingerprint="m", metric=metric, factory=factory).save(tmp_path)
    found = FaissIndex.load(tmp_path, "m").search(queries, 10).rows
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]) >= least


def test_more_effort_is_more_exact(queries):
    vectors = np.random.default_rng(2).normal(size=(2000, 16)).astype(np.float32)
    exact = ExactIndex(vectors, fingerprint="m").search(queries, 10).rows
    index = FaissIndex(vectors, fingerprint="m", factory="IVF32,Flat", effort=1)
    overlap = []
    for index.effort in (1, 4, 32):
        overlap.append(np.mean([len(set(a) & set(b)) for a, b in zip(exact, index.search(queries).rows, strict=True)]))
    assert overlap[0] < overlap[1] < overlap[2] == 10


def test_what_faiss_cannot_build_is_said(vectors):
    for factory in ("HNSV32", "IVF5000,Flat"):
        with pytest.raises(UserError, match="faiss cannot build"):
            FaissIndex(vectors, fingerprint="m", factory=factory)


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_named(kind, vectors, queries):
    broken = vectors.copy()
    broken[[3, 9], 0] = np.nan
    with pytest.raises(UserError, match="rows 3, 9 of 203"):
        kind(broken, fingerprint="m")
    with pytest.raises(UserError, match="2 ids for 203 rows"):
        kind(vectors, ["a", "b"], fingerprint="m")
    with pytest.raises(UserError, match="did you mean 'dot'"):
        kind(vectors, fingerprint="m", metric="dit")
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
