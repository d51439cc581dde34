"""What classical models read of an absent modality."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from weft.models import pooled
from weft.models.pooled import PooledInputs
from weft.store import MemoryFeatures


@pytest.mark.parametrize("components", [None, 1])
def test_absence_itself_can_predict(components: int | None) -> None:
    """Nothing but whether the first modality is there says the label, in rows that were not trained on."""
    rng = np.random.default_rng(0)
    label, values = rng.integers(0, 2, 300), rng.normal(size=(300, 4))
    values[label == 1] = np.nan
    ids = [str(i) for i in range(300)]
    features = MemoryFeatures(ids, {"a": values, "b": rng.normal(size=(300, 3))}, {"y": label})
    train, test = np.arange(200), np.arange(200, 300)
    inputs = PooledInputs.fit(features, train, components=components)
    model = LogisticRegression().fit(inputs.matrix(features, train), label[train])
    assert model.score(inputs.matrix(features, test), label[test]) == 1
    flag = inputs.matrix(features, train)[:, -1]
    assert flag.mean() == pytest.approx(0, abs=1e-5)
    assert flag.std() == pytest.approx(1, abs=1e-5)


def test_absence_of_what_training_always_has_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, size=(50, 4))
    values[40:] = np.nan
    features = MemoryFeatures([str(i) for i in range(50)], {"a": values, "b": rng.normal(size=(50, 3))}, {})
    x = PooledInputs.fit(features, np.arange(40)).matrix(features, np.arange(50))
    assert x.shape == (50, 7)
    assert not x[40:, :4].any()
    np.testing.assert_allclose(x[:40, :4].mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("components", [None, 3])
@pytest.mark.parametrize("scaling", ["none", "columns", "block"])
def test_rows_read_in_pieces_give_what_all_at_once_give(
    monkeypatch: pytest.MonkeyPatch, scaling: pooled.Scaling, components: int | None
) -> None:
    """Means, scales and axes (but for their signs); where float64 is too large, the same in float32."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, [5, 4, 3, 2, 1], size=(200, 5))
    values[::7] = np.nan
    features = MemoryFeatures([str(i) for i in range(200)], {"a": values, "b": rng.normal(size=(200, 2))}, {})
    rows = rng.permutation(200)[:150]
    whole = PooledInputs.fit(features, rows, scaling, components).matrix(features, rows)
    monkeypatch.setattr(pooled, "ROWS", 32)
    monkeypatch.setattr(pooled, "DOUBLE_BYTES", 100)
    pieces = PooledInputs.fit(features, rows, scaling, components).matrix(features, rows)
    assert (whole.dtype, pieces.dtype) == (np.float64, np.float32)
    sign = np.sign((whole * pieces).sum(axis=0)) if components else 1
    np.testing.assert_allclose(pieces * sign, whole, atol=2e-5)


@pytest.mark.parametrize("few", [True, False])
def test_blocks_are_the_columns_of_the_matrix(monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    """All at once where they are few; else a modality at a time, so that no more is held."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(90, 5))
    values[::7] = np.nan
    features = MemoryFeatures([str(i) for i in range(90)], {"a": values, "b": rng.normal(size=(90, 2))}, {})
    monkeypatch.setattr(pooled, "ROWS", 32)
    if not few:
        monkeypatch.setattr(pooled, "DOUBLE_BYTES", 100)
    rows = rng.permutation(90)[:70]
    inputs = PooledInputs.fit(features, rows, "columns", 3, nan=True)
    blocks = list(inputs.blocks(features, rows))
    assert [block.shape[1] for block in blocks] == ([5] if few else [3, 2])
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), inputs.matrix(features, rows))
