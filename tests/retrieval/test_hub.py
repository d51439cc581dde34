"""Hub correction: double loops, its published forms as one bias, what it must not depend on, and that it helps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.models.searching import corrections_of
from weft.retrieval.hub import HubCorrection, choose_correction, refuse_asked
from weft.retrieval.metrics import rank

KINDS = [
    HubCorrection(0.75, k=3),
    HubCorrection(0.5, k=100),
    HubCorrection(1.0, "softmax", beta=20.0),
    HubCorrection(1.0, "softmax", beta=20.0, gated=True),
]


def vectors(rows: int, seed: int, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


QUERIES, GALLERY, BANK = vectors(7, 0), vectors(9, 1), vectors(20, 2)


def loop(kind: HubCorrection, q: Tensor, gallery: Tensor, bank: Tensor) -> list[float]:
    """Corrected scores of one query, written from the papers."""
    hubs = {max(range(len(gallery)), key=lambda i: float(r @ gallery[i])) for r in bank}
    own = max(range(len(gallery)), key=lambda i: float(q @ gallery[i]))
    scores = []
    for g in gallery:
        near = sorted((float(r @ g) for r in bank), reverse=True)
        if kind.rule == "nnn":
            b = sum(near[: kind.k]) / len(near[: kind.k])
        else:
            b = math.log(sum(math.exp(kind.beta * s) for s in near) / len(near)) / kind.beta
        scores.append(float(q @ g) - (0.0 if kind.gated and own not in hubs else kind.alpha * b))
    return scores


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_corrected_vectors_score_as_the_loop(kind: HubCorrection) -> None:
    q, g = kind.apply(QUERIES, GALLERY, BANK[:5] if kind.gated else BANK)
    expected = [loop(kind, query, GALLERY, BANK[:5] if kind.gated else BANK) for query in QUERIES]
    np.testing.assert_allclose((q @ g.T).numpy(), expected, atol=1e-5)
    if kind.gated:
        assert 0 < float(q[:, -1].mean()) < 1  # both sorts of query are there


def test_alpha_zero_changes_nothing() -> None:
    q, g = HubCorrection(0.0).apply(QUERIES, GALLERY, BANK)
    assert torch.equal(q @ g.T, torch.cat([QUERIES, torch.ones(7, 1)], 1) @ F.pad(GALLERY, (0, 1)).T)


def test_all_of_the_bank_is_the_mean() -> None:
    torch.testing.assert_close(HubCorrection(1.0, k=20).bias(GALLERY, BANK), -(GALLERY @ BANK.T).mean(dim=1))


def test_csls_ranks_as_half_of_nnn() -> None:
    def mean_of_nearest(x: Tensor, others: Tensor) -> Tensor:
        return (x @ others.T).topk(4).values.mean(dim=1)

    csls = 2 * QUERIES @ GALLERY.T - mean_of_nearest(QUERIES, GALLERY)[:, None] - mean_of_nearest(GALLERY, BANK)
    q, g = HubCorrection(0.5, k=4).apply(QUERIES, GALLERY, BANK)
    assert torch.equal((q @ g.T).argsort(dim=1), csls.argsort(dim=1))


def test_inverted_softmax_ranks_as_published() -> None:
    beta = 20.0
    published = torch.exp(beta * QUERIES @ GALLERY.T) / torch.exp(beta * BANK @ GALLERY.T).sum(dim=0)
    q, g = HubCorrection(1.0, "softmax", beta=beta).apply(QUERIES, GALLERY, BANK)
    assert torch.equal((q @ g.T).argsort(dim=1), published.argsort(dim=1))


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_neither_the_order_of_the_bank_nor_other_items_matter(kind: HubCorrection) -> None:
    bias = kind.bias(GALLERY, BANK)
    torch.testing.assert_close(kind.bias(GALLERY, BANK.flip(0)), bias)
    torch.testing.assert_close(kind.bias(torch.cat([GALLERY, vectors(50, 3)]), BANK)[:9], bias)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_query_that_comes_five_times_is_in_the_bank_once(kind: HubCorrection) -> None:
    """A photo with five captions stands in five rows."""
    gallery, bank = vectors(7, 1), vectors(5, 2)
    torch.testing.assert_close(kind.bias(gallery, bank.repeat(5, 1)), kind.bias(gallery, bank))


def planted() -> tuple[Tensor, Tensor, Tensor]:
    """Twenty matched pairs and, last in the gallery, the mean of all queries, which stands above most matches."""
    shared = torch.zeros(1, 31)
    shared[0, 30] = 1.2
    base, noise = torch.randn(2, 60, 31, generator=torch.Generator().manual_seed(4))
    q = F.normalize(base + shared * 4, dim=1)
    g = F.normalize(base + 3 * noise, dim=1)
    hub = F.normalize(q.mean(dim=0, keepdim=True), dim=1)
    return q[:20], torch.cat([g[:20], hub]), q[20:]


def test_a_planted_hub_loses_its_place_and_dev_finds_the_weight() -> None:
    q, g, bank = planted()
    assert (q @ g.T).argmax(dim=1).eq(20).float().mean() > 0.9
    chosen = choose_correction(q, g, np.arange(20), bank)
    better, items = chosen.apply(q, g, bank)
    assert chosen.alpha > 0
    assert (better @ items.T).argmax(dim=1).eq(20).float().mean() < 0.2
    before, after = (rank(*pair, np.arange(20)).hits.mean() for pair in ((q, g), (better, items)))
    assert after > before + 0.2


def test_without_hubs_nothing_is_corrected() -> None:
    eye = torch.eye(12)
    assert choose_correction(eye, eye, np.arange(12), eye[:6]).alpha == 0


def test_what_the_command_line_says() -> None:
    assert corrections_of("0") == []
    assert corrections_of("0.5") == [HubCorrection(0.5)]
    assert corrections_of("softmax:1") == [HubCorrection(1.0, rule="softmax")]
    assert corrections_of("gated:1") == [HubCorrection(1.0, rule="softmax", gated=True)]
    assert all(choice.gated for choice in corrections_of("gated:dev"))
    assert str(corrections_of("gated:1")[0]) == "1 (gated softmax, beta 20)"
    for wrong in ("-1", "nnn:", "many", "inf"):
        with pytest.raises(UserError, match="0 or more, or dev"):
            corrections_of(wrong)
    with pytest.raises(UserError, match="unknown rule"):
        corrections_of("csls:1")


def test_what_is_refused() -> None:
    refuse_asked(["a", "b"], ["c"])
    with pytest.raises(UserError, match="transductive"):
        refuse_asked(["a", "b"], ["b", "c"])
    with pytest.raises(UserError, match="did you mean 'nnn'"):
        HubCorrection(rule="nn")  # type: ignore[arg-type]
    for wrong in ({"alpha": -1.0}, {"k": 0}, {"beta": 0.0}, {"alpha": float("nan")}):
        with pytest.raises(UserError, match="alpha >= 0"):
            HubCorrection(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="space of the gallery"):
        HubCorrection().bias(GALLERY, vectors(5, 0, width=4))
