"""Canonical correlations against textbook eigenproblems, scikit-learn, cca_zoo, loops, and the closed-form gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from cca_zoo.linear import GCCA, RidgeCCA
from numpy.typing import NDArray
from sklearn.cross_decomposition import CCA as SklearnCCA
from torch import Tensor
from torch.testing import assert_close

from weft.errors import UserError
from weft.ops.contrastive import info_nce
from weft.ops.correlation import (
    Moments,
    cca,
    cca_loss,
    cca_of_rows,
    maxvar,
    published_cca_loss,
    relative_ridge,
    reweighted,
)

WIDTHS = (5, 4, 6)
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def views(count: int = 2, rows: int = 60, mean: float = 3.0, seed: int = 0) -> list[Tensor]:
    """Noisy linear views of three hidden variables."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 3, generator=g, dtype=torch.float64)
    return [
        hidden @ torch.randn(3, d, generator=g, dtype=torch.float64)
        + 0.5 * torch.randn(rows, d, generator=g, dtype=torch.float64)
        + mean
        for d in WIDTHS[:count]
    ]


def covariance(*parts: Tensor) -> Tensor:
    return Moments.of(torch.cat(parts, dim=1)).covariance


def blocks(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s, d = covariance(x, y), x.shape[1]
    return s[:d, :d], s[:d, d:], s[d:, d:]


def eigen_cca(x: NDArray[np.float64], y: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Correlations from the textbook's generalised eigenproblem of the two-by-two block matrices."""
    s = np.cov(np.hstack([x, y]).T)
    d = x.shape[1]
    for part in (slice(0, d), slice(d, None)):
        block = s[part, part]
        s[part, part] = block + shrinkage * np.trace(block) / len(block) * np.eye(len(block))
    within = scipy.linalg.block_diag(s[:d, :d], s[d:, d:])
    return scipy.linalg.eigh(s - within, within, eigvals_only=True)[::-1]


def test_moments_are_those_of_the_rows() -> None:
    x = views(1, mean=100.0)[0]
    found = Moments.of(x)
    assert_close(found.mean, x.mean(dim=0), **TIGHT)
    assert_close(found.covariance, torch.cov(x.T), **TIGHT)


@pytest.mark.parametrize("sizes", [(60,), (1,) * 60, (0, 7, 0, 52, 1), (59, 1)])
def test_merging_is_exact_whatever_the_parts(sizes: tuple[int, ...]) -> None:
    x = views(1, mean=100.0)[0]
    total = Moments.of(x[:0])
    for part in x.split(list(sizes)):
        total = total.merge(Moments.of(part))
    assert total.rows == 60
    assert_close(total.mean, x.mean(dim=0), rtol=1e-13, atol=0)
    assert_close(total.covariance, torch.cov(x.T), rtol=1e-12, atol=1e-12)


def test_merging_is_associative() -> None:
    a, b, c = (Moments.of(part) for part in views(1)[0].split([10, 20, 30]))
    for one, other in zip(a.merge(b).merge(c), a.merge(b.merge(c)), strict=True):
        assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("form", ["cholesky", "svd"])
def test_correlations_solve_the_generalised_eigenproblem(form: str, shrinkage: float) -> None:
    x, y = views()
    found = cca(covariance(x, y), (5, 4), 4, shrinkage) if form == "cholesky" else cca_of_rows(x, y, 4, shrinkage)
    expected = eigen_cca(x.numpy(), y.numpy(), shrinkage)[:4]
    np.testing.assert_allclose(found.correlations, expected, rtol=0, atol=1e-10)
    s11, s12, s22 = blocks(x, y)
    for s, a in ((s11, found.projections[0]), (s22, found.projections[1])):
        ridged = s + relative_ridge(s, shrinkage) * torch.eye(len(s), dtype=s.dtype)
        assert_close(a.T @ ridged @ a, torch.eye(4, dtype=s.dtype), **TIGHT)
    assert_close(found.projections[0].T @ s12 @ found.projections[1], torch.diag(found.correlations), **TIGHT)


def test_projected_rows_have_the_correlations_of_scikit_learn() -> None:
    x, y = views()
    found = cca(covariance(x, y), (5, 4), 3, 0.0)
    ours = [(h - h.mean(dim=0)).numpy() @ a.numpy() for h, a in zip((x, y), found.projections, strict=True)]
    theirs = SklearnCCA(3, scale=False, max_iter=5000, tol=1e-12).fit(x.numpy(), y.numpy()).transform(x, y)
    for k in range(3):
        expected = np.corrcoef(theirs[0][:, k], theirs[1][:, k])[0, 1]
        assert found.correlations[k].item() == pytest.approx(expected, abs=1e-6)
        assert np.corrcoef(ours[0][:, k], ours[1][:, k])[0, 1] == pytest.approx(expected, abs=1e-6)


def columns_of_length_one(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of unit length whose largest entry is positive: what two solvers agree on."""
    unit = matrix / np.linalg.norm(matrix, axis=0)
    return unit * np.sign(unit[np.abs(unit).argmax(axis=0), range(unit.shape[1])])


def cca_zoo_shrinkage(parts: list[Tensor], shrinkage: float) -> list[float]:
    """Its ``(1 - c) S + c I`` is ``1 - c`` times our ``S + r I`` at ``c = r / (1 + r)``."""
    ridges = [shrinkage * float(torch.cov(h.T).diagonal().mean()) for h in parts]
    return [r / (1 + r) for r in ridges]


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_two_views_are_those_of_cca_zoo(shrinkage: float) -> None:
    x, y = views()
    theirs = RidgeCCA(3, shrinkage=cca_zoo_shrinkage([x, y], shrinkage)).fit([x.numpy(), y.numpy()])
    found = cca(covariance(x, y), (5, 4), 3, shrinkage)
    for ours, weights in zip(found.projections, theirs.weights_, strict=True):
        np.testing.assert_allclose(columns_of_length_one(ours.numpy()), columns_of_length_one(weights), atol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_three_views_are_those_of_cca_zoo(shrinkage: float) -> None:
    parts = views(3)
    blend = cca_zoo_shrinkage(parts, shrinkage)
    theirs = GCCA(3, shrinkage=blend, view_weights=[1 - c for c in blend]).fit([h.numpy() for h in parts])
    found = maxvar(covariance(*parts), WIDTHS, 3, shrinkage)
    for ours, weights in zip(found.projections, theirs.weights_, strict=True):
        np.testing.assert_allclose(columns_of_length_one(ours.numpy()), columns_of_length_one(weights), atol=1e-8)


def test_both_forms_agree_and_their_signs_are_fixed() -> None:
    x, y = views()
    one, other = cca(covariance(x, y), (5, 4), 4), cca_of_rows(x, y, 4)
    for a, b in zip(one.projections, other.projections, strict=True):
        assert_close(a, b, rtol=1e-7, atol=1e-9)
    first = one.projections[0]
    assert bool((first.gather(0, first.abs().argmax(dim=0, keepdim=True)) > 0).all())
    flipped = cca(covariance(-x, y), (5, 4), 4).projections
    assert_close(flipped[0], first, **TIGHT)
    assert_close(flipped[1], -one.projections[1], **TIGHT)


def test_svd_form_takes_more_features_than_rows() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, 40, generator=g, dtype=torch.float64) for _ in range(2))
    one, other = cca_of_rows(x, y, 5, 0.1), cca(covariance(x, y), (40, 40), 5, 0.1)
    assert_close(one.correlations, other.correlations, **TIGHT)
    assert_close(one.projections[0], other.projections[0], rtol=1e-7, atol=1e-9)


def test_svd_form_keeps_the_digits_that_squaring_loses() -> None:
    x, y = views()
    exact = cca_of_rows(x, y, 4, 0.0).correlations
    mix = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    skewed = (x - x.mean(dim=0)) @ mix @ torch.diag(torch.logspace(0, -6, 5, dtype=torch.float64)) @ mix
    assert float((cca_of_rows(skewed, y, 4, 0.0).correlations - exact).abs().max()) < 1e-8


def test_maxvar_is_the_slow_definition() -> None:
    parts = views(3)
    rows, shrinkage, k = 60, 0.05, 3
    found = maxvar(covariance(*parts), WIDTHS, k, shrinkage)
    total = np.zeros((rows, rows))
    centred, ridges = [], []
    for h in parts:
        x = (h - h.mean(dim=0)).numpy()
        r = shrinkage * np.trace(x.T @ x) / x.shape[1]
        centred.append(x)
        ridges.append(r)
        total += x @ np.linalg.inv(x.T @ x + r * np.eye(x.shape[1])) @ x.T
    values, vectors = np.linalg.eigh(total)
    shared = vectors[:, ::-1][:, :k] * np.sqrt(rows - 1)
    np.testing.assert_allclose(found.correlations, values[::-1][:k], rtol=0, atol=1e-10)
    slow = [
        np.linalg.inv(x.T @ x + r * np.eye(x.shape[1])) @ x.T @ shared for x, r in zip(centred, ridges, strict=True)
    ]
    signs = np.sign((found.projections[0].numpy() * slow[0]).sum(axis=0))
    for ours, expected in zip(found.projections, slow, strict=True):
        np.testing.assert_allclose(ours, expected * signs, rtol=0, atol=1e-8)


def test_maxvar_of_two_is_cca_up_to_the_length_of_its_columns() -> None:
    x, y = views()
    one, two = maxvar(covariance(x, y), (5, 4), 4, 0.0), cca(covariance(x, y), (5, 4), 4, 0.0)
    assert_close(one.correlations, 1 + two.correlations, **TIGHT)
    for a, b in zip(one.projections, two.projections, strict=True):
        assert_close(a, b * ((1 + two.correlations) / 2).sqrt(), **TIGHT)


@pytest.mark.parametrize("k", [None, 2])
def test_loss_has_the_closed_form_gradient(k: int | None) -> None:
    """The published gradient, written from its formula with symmetric roots."""
    x, y = (h.requires_grad_() for h in views())
    r = 1e-3
    loss = cca_loss(x, y, r, r, k)
    loss.backward()
    h1, h2 = ((h - h.mean(dim=0)).detach().numpy() for h in (x, y))
    n = len(h1) - 1
    root1, root2 = (np.linalg.inv(scipy.linalg.sqrtm(h.T @ h / n + r * np.eye(h.shape[1])).real) for h in (h1, h2))
    u, d, vt = np.linalg.svd(root1 @ (h1.T @ h2 / n) @ root2, full_matrices=False)
    u, d, v = u[:, :k], d[:k], vt[:k].T
    assert loss.item() == pytest.approx(-d.sum(), abs=1e-12)
    g12 = root1 @ u @ v.T @ root2
    g11, g22 = -root1 @ (u * d) @ u.T @ root1 / 2, -root2 @ (v * d) @ v.T @ root2 / 2
    np.testing.assert_allclose(x.grad, -(2 * h1 @ g11 + h2 @ g12.T) / n, rtol=0, atol=1e-10)
    np.testing.assert_allclose(y.grad, -(2 * h2 @ g22 + h1 @ g12) / n, rtol=0, atol=1e-10)


def test_loss_has_the_numerical_gradient() -> None:
    leaves = tuple(h.requires_grad_() for h in views(rows=12))
    assert torch.autograd.gradcheck(lambda a, b: cca_loss(a, b, 1e-2, 1e-2), leaves)


def whitened(rows: int = 40, width: int = 4, seed: int = 0) -> Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(x - x.mean(dim=0))[0] * (rows - 1) ** 0.5


def test_gradient_is_finite_where_the_spectrum_repeats() -> None:
    for y in (whitened(seed=1), whitened(), whitened()[:, [2, 0, 1, 3]]):
        x, y = whitened().requires_grad_(), y.clone().requires_grad_()
        cca_loss(x, y, 1e-3, 1e-3).backward()
        assert bool(x.grad.isfinite().all())
        assert bool(y.grad.isfinite().all())


def test_published_loss_sums_column_norms_not_singular_values() -> None:
    x, y = views()
    exact, published = cca_loss(x, y, 1e-3, 1e-3), published_cca_loss(x, y)
    assert published < exact - 1e-3


@pytest.mark.parametrize("size", [5, 6])
def test_too_many_dimensions_are_refused(size: int) -> None:
    x, y = views()
    for call in (lambda: cca(covariance(x, y), (5, 4), size), lambda: cca_of_rows(x, y, size)):
        with pytest.raises(UserError, match="narrowest"):
            call()
    with pytest.raises(UserError, match="rows - 1"):
        cca_of_rows(x[:4], y[:4], 4)


def test_a_singular_covariance_is_refused_and_shrinkage_cures_it() -> None:
    x, y = views()
    x[:, 2] = 7.0
    with pytest.raises(UserError, match="singular"):
        cca(covariance(x, y), (5, 4), 4, 0.0)
    one, other = cca(covariance(x, y), (5, 4), 4, 1e-4), cca_of_rows(x, y, 4, 1e-4)
    for found in (one, other):
        assert_close(found.projections[0][2], torch.zeros(4, dtype=torch.float64))
    assert_close(cca_of_rows(x, y, 4, 0.0).correlations, one.correlations, rtol=0, atol=1e-3)
    x[:, :2] = 7.0
    with pytest.raises(UserError, match="singular"):
        cca_of_rows(x, y, 4, 0.0)


@pytest.mark.parametrize(("bad", "side"), itertools.product([float("nan"), float("inf")], [0, 1]))
def test_values_that_are_not_finite_are_refused(bad: float, side: int) -> None:
    parts = views()
    parts[side][3, 1] = bad
    for call in (lambda: cca_of_rows(*parts, 3), lambda: cca_loss(*parts, 1e-3, 1e-3)):
        with pytest.raises(UserError, match=("first", "second")[side]):
            call()


def test_the_svd_of_large_matrices_is_that_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.ops import correlation

    matrix = torch.randn(30, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for x in (matrix, matrix.T):
        expected = torch.linalg.svd(x, full_matrices=False)
        monkeypatch.setattr(correlation, "EXACT", 0)
        u, c, v = correlation._leading_svd(x)
        assert_close(c, expected.S)
        assert_close((u.T @ expected.U).abs(), torch.eye(30, dtype=torch.float64), atol=1e-8, rtol=0)
        assert_close(u * c @ v.T, x)
    thin = matrix[:, :3] @ torch.randn(3, 40, dtype=torch.float64)
    assert len(correlation._leading_svd(thin)[1]) == 3


def units(rows: int, width: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=g, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("chunk", [5, 12, 100])
def test_reweighting_is_the_slow_loop(chunk: int) -> None:
    x, y = views(rows=12)
    a, b, group = units(12, 3, 0), units(12, 3, 1), torch.tensor([0, 0, 0, 4, 4, 7, 8, 2, 2, 2, 2, 5])
    logits = 3 * a @ b.T
    expected = torch.zeros(x.shape[1], y.shape[1]).double()
    for i, j in itertools.product(range(12), repeat=2):
        partners = int((group == group[i]).sum())
        target = 1 / partners if group[i] == group[j] else 0.0
        row = logits[i, j].exp() / logits[i].exp().sum()
        column = logits[i, j].exp() / logits[:, j].exp().sum()
        expected += (target - (row + column) / 2) / 12 * torch.outer(x[i], y[j])
    assert_close(reweighted((x, y), (a, b), group, 3.0, chunk), expected)


def test_reweighting_by_equal_scores_is_the_covariance() -> None:
    x, y = views()
    equal = units(1, 3, 0).expand(60, 3)
    assert_close(reweighted((x, y), (equal, equal), torch.arange(60), 10.0), blocks(x, y)[1] * 59 / 60)


def test_reweighting_is_minus_the_gradient_of_infonce_between_the_features() -> None:
    """With embeddings that are the features times maps, the map's own gradient is ``M`` times the other side's."""
    x, y = (units(20, 4, seed) for seed in (0, 1))
    maps = torch.eye(4, dtype=torch.float64, requires_grad=True)
    info_nce(x @ maps, y, torch.ones(20, dtype=torch.bool), 5.0).backward()
    assert maps.grad is not None
    assert_close(reweighted((x, y), (x, y), torch.arange(20), 5.0), -maps.grad / 5)
