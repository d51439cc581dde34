"""Ragged gather against a slow loop, from blocks of every dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import UserError
from weft.store import MemoryFeatures
from weft.store.column import Column
from weft.tokens import mean_pool


@st.composite
def columns(draw):
    """A random column, the values it holds, and rows to ask for."""
    count = draw(st.integers(0, 12))
    uniform = draw(st.booleans())
    width = draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    same = int(generator.integers(1, 4))
    lengths = np.full(count, same) if uniform else generator.integers(1, 5, count)
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
    block = torch.from_numpy(generator.standard_normal((int(lengths.sum()), width))).to(dtype)
    values = [part.float().numpy() for part in block.split(lengths.tolist())] if count else []
    pointer = generator.integers(-1, len(values), 8) if values else np.full(8, -1)
    rows = generator.integers(0, 8, draw(st.integers(0, 9)))
    return (block, lengths, pointer), values, pointer, rows


@given(case=columns())
@settings(max_examples=100, deadline=None)
def test_gather_and_pooled_equal_a_slow_loop(case):
    parts, values, pointer, rows = case
    column = Column(*parts)
    tokens = column.gather(rows)
    pooled = column.pooled(rows)
    assert tokens.values.dtype == torch.float32
    assert tokens.values.shape == (*tokens.mask.shape, column.width)
    assert pooled.shape == (len(rows), column.width)
    longest = max([len(values[pointer[row]]) for row in rows if pointer[row] >= 0], default=tokens.mask.shape[1])
    assert tokens.mask.shape[1] == longest
    for index, row in enumerate(rows):
        expected = values[pointer[row]] if pointer[row] >= 0 else np.zeros((0, column.width))
        assert tokens.mask[index].tolist() == [t < len(expected) for t in range(longest)]
        np.testing.assert_array_equal(tokens.values[index, : len(expected)], expected)
        assert not tokens.values[index, len(expected) :].any()
        assert column.lengths[row] == len(expected)
        if len(expected):
            np.testing.assert_allclose(pooled[index], expected.mean(axis=0), atol=1e-6)
        else:
            assert np.isnan(pooled[index]).all()


def features() -> MemoryFeatures:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((5, 3)).astype(np.float32)
    vectors[2] = np.nan
    sequences = [generator.standard_normal((n, 2)) if n else None for n in (1, 3, 2, 0, 2)]
    return MemoryFeatures(list("abcde"), {"v": vectors, "s": sequences}, {"y": [0, 1, 0, 1, 0]}, split=["train"] * 5)


def test_memory_features_keep_the_protocol():
    found = features()
    assert len(found) == 5
    assert found.dims == {"v": 3, "s": 2}
    assert found.presence.tolist() == [[True, True], [True, True], [False, True], [True, False], [True, True]]
    assert found.lengths["s"].tolist() == [1, 3, 2, 0, 2]
    batch = found.gather(np.array([3, 1, 2]))
    assert batch["s"].mask.sum(dim=1).tolist() == [0, 3, 2]
    pooled = found.pooled(np.array([3, 1, 2]))
    for name, tokens in batch.items():
        there = tokens.mask.any(dim=1).numpy()
        np.testing.assert_allclose(pooled[name][there], mean_pool(tokens).numpy()[there], atol=1e-6)
        assert np.isnan(pooled[name][~there]).all()
    again = MemoryFeatures(found.ids, found.pooled(np.arange(5)), found.targets)
    np.testing.assert_array_equal(again.presence, found.presence)


def test_subset_copies_nothing_and_orders():
    found = features()
    part = found.subset(["s"])
    assert part.dims == {"s": 2}
    assert part.presence.shape == (5, 1)
    assert list(found.subset(["s", "v"]).dims) == ["s", "v"]
    assert found.dims == {"v": 3, "s": 2}
    assert part._columns["s"].block.data_ptr() == found._columns["s"].block.data_ptr()
    with pytest.raises(UserError, match="known modalities: s, v"):
        found.subset(["w"])
    with pytest.raises(UserError, match="'d'"):
        part.gather(np.array([0, 3]))


def test_a_batch_is_a_copy():
    found = features()
    before = found.gather(np.arange(3))["s"].values.clone()
    found.gather(np.arange(3))["s"].values.fill_(7)
    torch.testing.assert_close(found.gather(np.arange(3))["s"].values, before)


def test_wrong_rows_and_columns_are_refused():
    found = features()
    for rows in (np.array([5]), np.array([-1]), np.array([True, False]), np.array([0.5])):
        with pytest.raises(UserError):
            found.gather(rows)
    vectors = np.ones((3, 2))
    for ids, modalities, match in (
        (["a", "b"], {"v": vectors}, "one entry per id"),
        (["a", "b", "a"], {"v": vectors}, "unique"),
        (["a", "b", "c"], {}, "at least one modality"),
        (["a", "b", "c"], {"v": [np.ones(2), None, None]}, "'a'"),
        (["a", "b", "c"], {"v": [np.ones((1, 2)), np.ones((1, 3)), None]}, "arrays of one D"),
        (["a", "b", "c"], {"v": np.array([[1, 2], [np.inf, 0], [1, np.nan]])}, "'b', 'c'"),
    ):
        with pytest.raises(UserError, match=match):
            MemoryFeatures(ids, modalities, {})
