"""The whitened family: every corner is the method it claims to be, an eigen-loop, and the choice of the setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from weft.alignment import create_aligner
from weft.alignment.closed_form import ClosedForm, Judge
from weft.alignment.whitened import REWEIGHT_SCALE, SHRINKAGES, Whitened
from weft.errors import UserError
from weft.ops.correlation import Spectra, cca, whitened
from weft.tokens import as_tokens

DIMS = {"image": 6, "text": 4}


def views(rows: int = 60, seed: int = 0, noise: float = 0.3) -> dict[str, Tensor]:
    """Noisy linear views of three hidden variables."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 3, generator=g, dtype=torch.float64)
    return {
        n: 2 + hidden @ torch.randn(3, d, generator=g).double() + noise * torch.randn(rows, d, generator=g).double()
        for n, d in DIMS.items()
    }


def solved(kind: str, rows: dict[str, Tensor], dim: int = 3, judge: Judge | None = None, **options: Any) -> ClosedForm:
    aligner = create_aligner(kind, {n: x.shape[1] for n, x in rows.items()}, dim, **options).double().eval()
    assert isinstance(aligner, ClosedForm)
    aligner.fit_closed_form([{n: as_tokens(x) for n, x in rows.items()}], judge)
    return aligner


def scores(aligner: ClosedForm, rows: dict[str, Tensor]) -> Tensor:
    """Cosines of all pairs ``(N, N)``."""
    z = aligner({n: as_tokens(x) for n, x in rows.items()})
    return z["image"] @ z["text"].T


def family(rows: dict[str, Tensor], dim: int = 3, **options: Any) -> Whitened:
    aligner = solved("whitened", rows, dim, choose="fixed", **options)
    assert isinstance(aligner, Whitened)
    return aligner


def covariances(rows: dict[str, Tensor]) -> list[list[np.ndarray]]:
    x, y = (v.numpy() - v.numpy().mean(axis=0) for v in rows.values())
    return [[a.T @ b / (len(x) - 1) for b in (x, y)] for a in (x, y)]


def test_the_corner_without_whitening_is_procrustes() -> None:
    rows = views()
    corner = family(rows, exponents=(0.0, 0.0), powers=(0.0, 0.0))
    assert_close(scores(corner, rows), scores(solved("procrustes", rows), rows), rtol=1e-10, atol=1e-10)


def test_the_corner_of_full_whitening_is_cca() -> None:
    rows = views()
    corner = family(rows, exponents=(0.5, 0.5), powers=(0.0, 0.0), shrinkage=0.1)
    assert_close(scores(corner, rows), scores(solved("cca", rows, shrinkage=0.1), rows), rtol=1e-10, atol=1e-10)


def test_without_shrinkage_it_is_the_cca_of_scikit_learn() -> None:
    from sklearn.cross_decomposition import CCA

    rows = views(200)
    corner = family(rows, 2, exponents=(0.5, 0.5), powers=(0.0, 0.0), shrinkage=0.0)
    x, y = CCA(2, scale=False, max_iter=5000, tol=1e-14).fit_transform(*(v.numpy() for v in rows.values()))
    for name, expected in zip(rows, (x, y), strict=True):
        ours = corner.embed(name, as_tokens(rows[name])).numpy()
        for k in range(2):
            assert abs(np.corrcoef(ours[:, k], expected[:, k])[0, 1]) > 1 - 1e-6


def test_the_one_sided_corner_is_reduced_rank_ridge_regression() -> None:
    rows = views()
    aligner = family(rows, exponents=(0.5, 0.0), powers=(1.0, 0.0), shrinkage=0.2)
    (s11, s12), _ = covariances(rows)
    r = 0.2 * s11.diagonal().mean() * np.eye(6)
    v = np.linalg.svd(scipy.linalg.fractional_matrix_power(s11 + r, -0.5) @ s12)[2][:3].T
    regression = torch.from_numpy(np.linalg.solve(s11 + r, s12) @ v)
    x, y = (value - value.mean(dim=0) for value in rows.values())
    expected = F.normalize(x @ regression, dim=1) @ F.normalize(y @ torch.from_numpy(v), dim=1).T
    assert_close(scores(aligner, rows), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"exponents": (0.25, 0.5), "powers": (2.0, 1.0), "shrinkage": 0.3}])
def test_an_eigen_loop(options: dict[str, Any]) -> None:
    """Written from the definition: roots by eigenvalues, one rank-one term after another."""
    rows = views()
    aligner = family(rows, **options)
    setting = aligner.setting
    (s11, s12), (_, s22) = covariances(rows)
    roots = []
    for s, a in ((s11, setting.exponents[0]), (s22, setting.exponents[1])):
        values, vectors = np.linalg.eigh(s + setting.shrinkage * s.diagonal().mean() * np.eye(len(s)))
        roots.append(sum(v**-a * np.outer(q, q) for v, q in zip(values, vectors.T, strict=True)))
    t = roots[0] @ s12 @ roots[1]
    values, vectors = np.linalg.eigh(t @ t.T)
    outputs = {name: torch.zeros(len(x), 3).double() for name, x in rows.items()}
    for k in range(3):
        u, c = vectors[:, -1 - k], np.sqrt(values[-1 - k])
        v = t.T @ u / c
        for name, root, direction, power in zip(rows, roots, (u, v), setting.powers, strict=True):
            x = rows[name].numpy() - rows[name].numpy().mean(axis=0)
            outputs[name][:, k] = torch.from_numpy(x @ root @ direction * c**power)
    expected = F.normalize(outputs["image"], dim=1) @ F.normalize(outputs["text"], dim=1).T
    assert_close(scores(aligner, rows), expected, rtol=1e-9, atol=1e-9)


def test_csa_is_the_double_loop_of_its_paper() -> None:
    rows = views()
    aligner = family(rows, 5, exponents=(0.5, 0.5), shrinkage=0.1, score="csa")
    covariance = torch.cov(torch.cat(list(rows.values()), dim=1).T)
    projections, c = cca(covariance, list(DIMS.values()), 3, 0.1)
    x, y = ((v - v.mean(dim=0)) @ p for v, p in zip(rows.values(), projections, strict=True))
    expected = torch.zeros(60, 60).double()
    for i in range(60):
        for j in range(60):
            top = sum(c[k] * x[i, k] * y[j, k] for k in range(3))
            expected[i, j] = top / (x[i].norm() * y[j].norm())
    assert_close(scores(aligner, rows), expected, rtol=1e-9, atol=1e-9)


def test_full_whitening_does_not_see_a_linear_map_of_its_inputs() -> None:
    rows = views()
    mixed = {n: x @ torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(3)).double() - 4
             for n, x in rows.items()}  # fmt: skip
    options: dict[str, Any] = {"exponents": (0.5, 0.5), "shrinkage": 0.0}
    assert_close(scores(family(rows, **options), rows), scores(family(mixed, **options), mixed), rtol=1e-7, atol=1e-7)


def test_powers_weigh_columns_and_leave_their_directions() -> None:
    rows = views()
    plain, weighted = (family(rows, powers=(p, p)) for p in (0.0, 2.0))
    for name in rows:
        one, two = plain.solution(name)[1], weighted.solution(name)[1]
        assert_close(F.normalize(one, dim=0), F.normalize(two, dim=0))


def test_fewer_rows_than_features() -> None:
    """The components without variance add nothing: the same scores as from explicit inverse roots of full size."""
    g = torch.Generator().manual_seed(1)
    rows = {n: torch.randn(12, d, generator=g).double() for n, d in (("image", 30), ("text", 20))}
    aligner = family(rows, 8, shrinkage=0.5)
    (s11, s12), (_, s22) = covariances(rows)
    roots = [scipy.linalg.fractional_matrix_power(s + 0.5 * s.diagonal().mean() * np.eye(len(s)), -0.25)
             for s in (s11, s22)]  # fmt: skip
    u, c, vt = np.linalg.svd(roots[0] @ s12 @ roots[1])
    sides = (roots[0] @ u[:, :8], roots[1] @ vt[:8].T)
    z = [F.normalize((x - x.mean(dim=0)) @ torch.from_numpy(a * c[:8] ** 0.5), dim=1)
         for x, a in zip(rows.values(), sides, strict=True)]  # fmt: skip
    assert_close(scores(aligner, rows), z[0] @ z[1].T, rtol=1e-8, atol=1e-8)
    with pytest.raises(UserError, match="singular"):
        family(rows, 8, shrinkage=0.0)


def spiked(signal: float, noise: tuple[float, float], nuisance: tuple[float, float], shared: float) -> Tensor:
    """Covariance of two views: one signal direction, one nuisance direction, three of plain noise in each.

    Signal variance ``signal`` and noise ``noise``; nuisance variances, of which ``shared`` is common to both views.
    """
    s = torch.eye(10).double() * 1e-3
    for m, start in enumerate((0, 5)):
        s[start, start] = signal + noise[m]
        s[start + 1, start + 1] = nuisance[m]
    s[0, 5] = s[5, 0] = signal
    s[1, 6] = s[6, 1] = shared
    return s


def test_where_alignment_and_where_prediction_finds_the_signal() -> None:
    """The two regions of Kamai et al.: neither corner is right everywhere."""

    def on_signal(covariance: Tensor, exponents: tuple[float, float]) -> bool:
        first = Spectra.of(covariance, (5, 5)).solve(exponents, 1e-6)[0][:, 0]
        return int(first.abs().argmax()) == 0

    loud_target = spiked(1.0, (1.0, 1.0), (1.0, 400.0), 5.0)  # rho 1/2 > nu 1/4, tau 0.7 < xi 5
    assert on_signal(loud_target, (0.5, 0.5))
    assert not on_signal(loud_target, (0.5, 0.0))
    shared_nuisance = spiked(1.0, (1.0, 1.0), (0.04, 0.04), 0.036)  # rho 1/2 < nu 9/10, tau 0.7 > xi 0.18
    assert on_signal(shared_nuisance, (0.5, 0.0))
    assert not on_signal(shared_nuisance, (0.5, 0.5))


@pytest.mark.parametrize("score", ["cosine", "csa"])
def test_reweighting_is_the_slow_loop_of_the_contrastive_gradient(score: str) -> None:
    rows, group = views(30), torch.arange(30) // 3
    options = {"choose": "fixed", "score": score, "shrinkage": 0.3, "exponents": (0.25, 0.5)}
    dim = 5 if score == "csa" else 3
    judge = Judge(lambda z, g: 0.0, group)
    before = scores(solved("whitened", rows, dim, judge, **options), rows)
    x, y = (v.numpy() - v.numpy().mean(axis=0) for v in rows.values())
    for steps in (1, 2):
        logits = REWEIGHT_SCALE * before.numpy()
        m = np.zeros((6, 4))
        for i in range(30):
            for j in range(30):
                right = 1 / 3 if group[i] == group[j] else 0.0
                row, column = np.exp(logits[i]).sum(), np.exp(logits[:, j]).sum()
                m += (right - np.exp(logits[i, j]) * (1 / row + 1 / column) / 2) * np.outer(x[i], y[j]) / 30
        (s11, _), (_, s22) = covariances(rows)
        roots = [scipy.linalg.fractional_matrix_power(s + 0.3 * s.diagonal().mean() * np.eye(len(s)), -a)
                 for s, a in ((s11, 0.25), (s22, 0.5))]  # fmt: skip
        u, c, vt = np.linalg.svd(roots[0] @ m @ roots[1])
        one, other = x @ roots[0] @ u[:, :3], y @ roots[1] @ vt[:3].T
        c = c[:3]
        if score == "csa":
            z = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (one, other)]
            before = torch.from_numpy(z[0] * (c / max(c[0], 1)) @ z[1].T)
        else:
            z = [v * c**0.5 / np.linalg.norm(v * c**0.5, axis=1, keepdims=True) for v in (one, other)]
            before = torch.from_numpy(z[0] @ z[1].T)
        ours = scores(solved("whitened", rows, dim, judge, reweight=steps, **options), rows)
        assert_close(ours, before, rtol=1e-7, atol=1e-7)


def test_within_weighs_the_variance_inside_groups() -> None:
    rows, group = views(60), torch.arange(60) // 3
    judge = Judge(lambda z, g: 0.0, group)
    means = {n: x.view(20, 3, -1).mean(dim=1) for n, x in rows.items()}
    ours = solved("whitened", rows, judge=judge, choose="fixed", within=0.0)
    expected = solved("whitened", means, choose="fixed")
    for name in rows:
        a, b = ours.solution(name)[1], expected.solution(name)[1]
        assert_close(F.normalize(a, dim=0), F.normalize(b, dim=0), rtol=1e-8, atol=1e-8)


def recall(z: dict[str, Tensor], group: Tensor) -> float:
    """Share of rows whose nearest partner is of their group."""
    best = (z["image"] @ z["text"].T).argmax(dim=1)
    return float((group[best] == group).double().mean())


@pytest.mark.parametrize("choose", ["folds", "dev"])
def test_the_choice_is_the_best_of_its_candidates_on_rows_held_out(choose: str) -> None:
    rows, held = views(40, noise=1.0), views(80, seed=0, noise=1.0)
    dev = {n: x[40:] for n, x in held.items()}
    seen: list[set[int]] = []

    def score(z: dict[str, Tensor], group: Tensor) -> float:
        seen.append(set(group.tolist()))
        return recall(z, group)

    group = torch.arange(40) // 2
    judge = Judge(score, group, [{n: as_tokens(x) for n, x in dev.items()}], torch.arange(100, 140))
    aligner = solved("whitened", rows, judge=judge, choose=choose, folds=4)
    assert isinstance(aligner, Whitened)
    assert aligner.setting in [s for _, stage in aligner.candidates(aligner.setting) for s in stage]
    if choose == "dev":
        assert {frozenset(s) for s in seen} == {frozenset(range(100, 140))}
    else:
        parts = {frozenset(s) for s in seen}
        assert len(parts) == 4
        assert set().union(*parts) == set(range(20))
        assert sum(map(len, parts)) == 20
    again = solved("whitened", rows, choose="fixed", **aligner.setting._asdict())
    assert_close(scores(again, rows), scores(aligner, rows))


def test_ties_go_to_the_larger_shrinkage() -> None:
    aligner = solved("whitened", views(), judge=Judge(lambda z, g: 1.0, torch.arange(60)))
    assert isinstance(aligner, Whitened)
    assert aligner.setting.shrinkage == max(SHRINKAGES)


def test_the_setting_is_saved_with_the_solution() -> None:
    rows = views()
    aligner = solved("whitened", rows, judge=Judge(recall, torch.arange(60)))
    other = create_aligner("whitened", DIMS, 3).double().eval()
    other.load_state_dict(aligner.state_dict())
    assert other.setting == aligner.setting  # type: ignore[attr-defined]
    inputs = {n: as_tokens(x) for n, x in rows.items()}
    assert all(torch.equal(z, other(inputs)[n]) for n, z in aligner(inputs).items())


@pytest.mark.parametrize(
    "options",
    [{"exponents": (0.6, 0.0)}, {"powers": (-1.0, 0.0)}, {"shrinkage": -1.0}, {"within": -1.0}, {"folds": 1},
     {"reweight": -1}, {"width": 4}, {"width": 2, "score": "csa"}],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="whitened"):
        create_aligner("whitened", DIMS, 3, **options)


def test_dev_rows_that_are_not_there() -> None:
    with pytest.raises(UserError, match="needs dev rows"):
        solved("whitened", views(), judge=Judge(recall, torch.arange(60)), choose="dev")


def test_the_operation_is_the_aligner() -> None:
    rows = views()
    covariance = torch.cov(torch.cat(list(rows.values()), dim=1).T)
    result = whitened(covariance, list(DIMS.values()), 3, 0.4, (0.25, 0.5), (1.0, 0.0))
    aligner = family(rows, shrinkage=0.4, exponents=(0.25, 0.5), powers=(1.0, 0.0))
    for name, expected in zip(rows, result.projections, strict=True):
        assert_close(aligner.solution(name)[1], expected)


def test_settings_are_compared_on_leading_components_with_the_shrinkage_of_all_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from weft.alignment import whitened as module

    seen: list[list[float]] = []

    def scored(wide: int) -> list[float]:
        monkeypatch.setattr(module, "LEADING", wide)
        rows = views(80)
        group = torch.arange(80)
        found: list[float] = []

        def score(z: dict[str, Tensor], _: Tensor) -> float:
            found.append(float((z["image"] * z["text"]).sum(dim=1).mean()))
            return found[-1]

        solved("whitened", rows, judge=Judge(score, group))
        return found

    seen = [scored(wide) for wide in (6, 5)]
    assert len(seen[0]) == len(seen[1])
    assert np.abs(np.subtract(*seen)).max() < 0.05, "the last component of six hardly matters"
    assert np.abs(np.subtract(*seen)).max() > 0
