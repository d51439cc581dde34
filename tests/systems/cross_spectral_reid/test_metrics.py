"""Re-identification: metrics against brute force, triplet loss against loops, batches by identity."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from weft.errors import UserError
from weft.systems.cross_spectral_reid.loss import batch_hard_triplet, identity_order
from weft.systems.cross_spectral_reid.metrics import reid_metrics


def brute_force(q, g, qi, gi, qc, gc, ks):  # type: ignore[no-untyped-def]
    """Sort, walk down the list, skip the same identity in the same camera."""
    aps, firsts = [], []
    for row in range(len(q)):
        distance = [np.linalg.norm(q[row] / np.linalg.norm(q[row]) - x / np.linalg.norm(x)) for x in g]
        place, hits, precisions = 0, 0, []
        for item in np.argsort(distance):
            if gi[item] == qi[row] and gc[item] == qc[row]:
                continue
            place += 1
            if gi[item] == qi[row]:
                hits += 1
                precisions.append(hits / place)
                if hits == 1:
                    firsts.append(place)
        if hits:
            aps.append(np.mean(precisions))
    return {"mAP": np.mean(aps), **{f"CMC-{k}": np.mean([f <= k for f in firsts]) for k in ks}}


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    qi, gi = rng.integers(0, 9, 25), rng.integers(0, 8, 60)
    qc, gc = rng.integers(0, 3, 25), rng.integers(0, 3, 60)
    q, g = rng.normal(size=(25, 4)) + np.eye(9)[qi][:, :4], rng.normal(size=(60, 4)) + np.eye(9)[gi][:, :4]
    found = reid_metrics(q, torch.from_numpy(g), qi, gi, qc, gc, (1, 5, 10))
    expected = brute_force(q, g, qi, gi, qc, gc, (1, 5, 10))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    alone = sum(not ((gi == i) & (gc != c)).any() for i, c in zip(qi, qc, strict=True))
    assert found["left out"] == alone
    assert alone >= (qi == 8).sum()


def test_a_collapsed_model_scores_at_chance() -> None:
    n = 101
    identity, camera = np.array([0, 0, *range(1, n)]), np.array([0, 1] + [0] * (n - 1))
    same = np.ones((len(identity), 3))
    found = reid_metrics(same[:1], same, identity[:1], identity, camera[:1], camera)
    assert (found["CMC-1"], found["CMC-10"]) == (0, 0)
    assert found["mAP"] == pytest.approx(np.mean(1 / np.arange(1, 102)))


def test_an_identity_with_one_image_is_left_out() -> None:
    x, identity, camera = np.eye(3), np.array([0, 0, 1]), np.array([0, 1, 0])
    found = reid_metrics(x, x, identity, identity, camera, camera)
    assert found["left out"] == 1
    with pytest.raises(UserError, match="another camera"):
        reid_metrics(x, x, np.arange(3), np.arange(3), camera, camera)
    with pytest.raises(UserError, match="identity and a camera"):
        reid_metrics(x, x, identity[:2], identity, camera, camera)


@pytest.mark.parametrize("margin", [None, 0.3])
def test_triplet_equals_a_loop(margin: float | None) -> None:
    torch.manual_seed(0)
    x, identity = torch.randn(9, 4, dtype=torch.float64, requires_grad=True), [0, 0, 0, 1, 1, 2, 3, 3, 3]
    losses = []
    for a in range(9):
        positive = [(x[a] - x[p]).norm() for p in range(9) if p != a and identity[p] == identity[a]]
        negative = [(x[a] - x[n]).norm() for n in range(9) if identity[n] != identity[a]]
        if positive:
            gap = max(positive) - min(negative)
            losses.append(torch.log1p(gap.exp()) if margin is None else (gap + margin).clamp(min=0))
    assert len(losses) == 8, "an identity with one image in the batch has no positive"
    found = batch_hard_triplet(x, torch.tensor(identity), margin)
    assert_close(found, torch.stack(losses).mean())


def test_triplet_of_degenerate_batches() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    for identity in ([0, 1, 2], [0, 0, 0]):
        loss = batch_hard_triplet(x, torch.tensor(identity))
        assert loss == 0
        loss.backward()
    copies = torch.ones(4, 2, requires_grad=True)
    batch_hard_triplet(copies, torch.tensor([0, 0, 1, 1])).backward()
    assert copies.grad is not None
    assert torch.isfinite(copies.grad).all()


def test_batches_by_identity() -> None:
    identity = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 4, 9, 5])
    order = identity_order(identity, 20, 12, 4, np.random.default_rng(0))
    assert order.shape == (240,)
    turns = []
    for batch in order.reshape(20, 3, 4):
        labels = identity[batch]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0])) == 3
        turns += labels[:, 0].tolist()
        assert all(len(set(group)) == 4 for group in batch if identity[group[0]] == "c"), "no repeats where not needed"
    assert set(Counter(turns).values()) == {12}, "identities take turns"
    seen = Counter(order.tolist())
    assert set(seen) == set(range(21))
    assert max(seen[row] for row in range(7, 16)) - min(seen[row] for row in range(7, 16)) <= 1
    again = identity_order(identity, 20, 12, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(order, again)
    for size, k in ((10, 4), (24, 4), (4, 0)):
        with pytest.raises(UserError, match="P identities"):
            identity_order(identity, 1, size, k, np.random.default_rng(0))
