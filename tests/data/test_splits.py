from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data import Split, make_folds, make_splits
from weft.errors import UserError


@dataclass
class Rows:
    """The least that can be split."""

    count: int
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    task: str = "regression"

    def __len__(self) -> int:
        return self.count


def classes(count: int, **parts: np.ndarray) -> Rows:
    label = np.where(np.arange(count) % 5 == 0, "rare", "common")
    return Rows(count, {"label": label}, task="classification", **parts)


def assert_partition(split: Split, count: int) -> None:
    assert sorted(np.concatenate(split).tolist()) == list(range(count))
    for rows in split:
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()


@given(count=st.integers(20, 300), seed=st.integers(0, 99), method=st.sampled_from(["random", "stratified"]))
@settings(max_examples=30, deadline=None)
def test_parts_meet_their_fractions_within_one_row(count: int, seed: int, method: str) -> None:
    split = make_splits(classes(count), method, seed=seed)
    assert_partition(split, count)
    for rows, share in zip(split, (0.7, 0.15, 0.15), strict=True):
        assert abs(len(rows) - share * count) <= 1.0


def test_stratified_spreads_every_class() -> None:
    data = classes(200)
    for rows in make_splits(data):
        assert np.mean(data.targets["label"][rows] == "rare") == pytest.approx(0.2, abs=0.04)
    by_chance = [np.mean(data.targets["label"][make_splits(data, "random", seed=s).test] == "rare") for s in range(9)]
    assert np.ptp(by_chance) > 0.05


def test_seeds_decide() -> None:
    data = Rows(100)
    first, again, other = (make_splits(data, seed=seed) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.test.tolist() != other.test.tolist()
    assert first.test.tolist() != list(range(85, 100))
    assert make_folds(data, 4, 0)[0].test.tolist() != make_folds(data, 4, 1)[0].test.tolist()


@given(groups=st.integers(8, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_groups_stay_whole(groups: int, seed: int) -> None:
    group = np.random.default_rng(seed).integers(groups, size=300)
    data = classes(300, group=group)
    for split in [make_splits(data, seed=seed), *make_folds(data, 3, seed)]:
        assert_partition(split, 300)
        parts = [set(group[rows]) for rows in split]
        assert sum(map(len, parts)) == len(set(group))


def test_few_groups_fill_every_part() -> None:
    for seed in range(5):
        split = make_splits(Rows(12, group=np.arange(12) // 4), seed=seed)
        assert [len(rows) for rows in split] == [4, 4, 4]
        assert len(make_splits(Rows(3), seed=seed).test) == 1


def test_the_natural_method() -> None:
    given = np.repeat(["train", "dev", "test"], [6, 2, 2])
    assert [len(rows) for rows in make_splits(Rows(10, split=given))] == [6, 2, 2]
    data = classes(40, group=np.arange(40) // 2)
    for a, b in zip(make_splits(data), make_splits(data, "grouped"), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(make_splits(classes(40)), make_splits(classes(40), "stratified"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_dev_part_is_cut_from_train() -> None:
    given = np.repeat(["train", "test"], [80, 20])
    split = make_splits(Rows(100, split=given), fractions=(0.6, 0.2, 0.2))
    assert_partition(split, 100)
    assert split.test.tolist() == list(range(80, 100))
    assert len(split.dev) == 20
    group = np.arange(100) // 4
    grouped = make_splits(Rows(100, split=given, group=group))
    assert not set(group[grouped.dev]) & set(group[grouped.train])
    without = make_splits(Rows(100, split=given), fractions=(0.8, 0.0, 0.2))
    assert [len(rows) for rows in without] == [80, 0, 20]


def test_leakage_is_refused_and_named() -> None:
    group = np.array(["p1", "p1", "p2", "p2", "p3", "p3"])
    given = np.array(["train", "test", "train", "train", "dev", "train"])
    with pytest.raises(UserError, match="2 groups: 'p1', 'p3'"):
        make_splits(Rows(6, split=given, group=group))
    with pytest.raises(UserError, match="method='grouped'"):
        make_splits(Rows(60, group=np.arange(60) // 6), "random")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Rows(10), {"method": "strat"}, "did you mean 'stratified'"),
        (Rows(10), {"method": "given"}, "split column"),
        (Rows(10), {"method": "grouped"}, "group column"),
        (Rows(10), {"method": "stratified"}, "one class per row"),
        (Rows(10), {"fractions": (0.5, 0.5, 0.5)}, "sum of 1"),
        (Rows(10), {"fractions": (0.0, 0.5, 0.5)}, "some train"),
        (Rows(10), {"fractions": (1.2, -0.1, -0.1)}, "not negative"),
        (Rows(2), {}, "has no rows"),
        (Rows(4, split=np.array(["train"] * 4)), {}, "test part"),
        (Rows(4, split=np.array(["test"] * 4)), {}, "train part"),
    ],
)
def test_what_cannot_be_split_is_refused(data: Rows, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_splits(data, **options)  # type: ignore[arg-type]


def test_folds_test_every_row_once() -> None:
    data = classes(103)
    folds = make_folds(data, 5, seed=3)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(103))
    for fold in folds:
        assert_partition(fold, 103)
        assert abs(len(fold.test) - 103 / 5) <= 1
        assert abs(len(fold.dev) - 0.15 * (103 - len(fold.test))) <= 1
        assert 3 <= np.sum(data.targets["label"][fold.test] == "rare") <= 6


@pytest.mark.parametrize(("data", "folds"), [(Rows(10), 1), (Rows(10), 11), (Rows(10, group=np.arange(10) // 5), 3)])
def test_impossible_folds_are_refused(data: Rows, folds: int) -> None:
    with pytest.raises(UserError, match="folds"):
        make_folds(data, folds)
