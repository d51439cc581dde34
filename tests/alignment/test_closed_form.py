"""Aligners with a closed form: what is solved, on which rows, in which chunks, and which inputs are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.alignment import create_aligner
from weft.alignment.closed_form import ClosedForm
from weft.errors import UserError
from weft.ops.correlation import cca_of_rows, usual_shrinkage
from weft.tokens import Tokens, as_tokens

DIMS = {"text": 4, "image": 6}
KINDS = ["cca", "procrustes", "ridge", "deep-cca"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def views(rows: int = 80, dims: dict[str, int] = DIMS, seed: int = 0) -> dict[str, Tensor]:
    """Noisy linear views of three hidden variables."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 3, generator=g, dtype=torch.float64)
    return {
        name: 2
        + hidden @ torch.randn(3, d, generator=g, dtype=torch.float64)
        + 0.3 * torch.randn(rows, d, generator=g, dtype=torch.float64)
        for name, d in dims.items()
    }


def solved(kind: str, rows: dict[str, Tensor], dim: int = 3, **options: object) -> ClosedForm:
    torch.manual_seed(0)
    aligner = create_aligner(kind, {n: x.shape[1] for n, x in rows.items()}, dim, **options).double().eval()
    assert isinstance(aligner, ClosedForm)
    aligner.fit_closed_form([{n: as_tokens(x) for n, x in rows.items()}])
    return aligner


def embedded(aligner: ClosedForm, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: aligner.embed(n, as_tokens(x)) for n, x in rows.items()}


def test_cca_of_two_is_the_svd_form_of_its_rows() -> None:
    rows = views()
    aligner = solved("cca", rows, shrinkage=1e-4)
    for name, expected in zip(rows, cca_of_rows(*rows.values(), 3).projections, strict=True):
        mean, matrix = aligner.solution(name)
        assert_close(matrix, expected, rtol=1e-7, atol=1e-9)
        assert_close(mean, rows[name].mean(dim=0))


def test_cca_of_three_finds_what_all_share() -> None:
    rows = views(400, {"a": 4, "b": 6, "c": 5})
    z = embedded(solved("cca", rows), rows)
    for k in range(3):
        correlations = np.corrcoef([z[name][:, k].numpy() for name in z])
        assert correlations[np.triu_indices(3, 1)].min() > 0.8


def test_procrustes_of_equal_widths_is_the_rotation_of_scipy() -> None:
    rows = views(dims={"a": 5, "b": 5})
    aligner = solved("procrustes", rows, 5)
    a, b = (x - x.mean(dim=0) for x in rows.values())
    rotation, _ = scipy.linalg.orthogonal_procrustes(a.numpy(), b.numpy())
    expected = torch.nn.functional.normalize(a @ torch.from_numpy(rotation), dim=1) @ torch.nn.functional.normalize(b).T
    z = aligner({n: as_tokens(x) for n, x in rows.items()})
    assert_close(z["a"] @ z["b"].T, expected)


def test_ridge_predicts_the_principal_directions_of_its_target() -> None:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge

    rows = views(dims={"a": 5, "b": 6, "c": 4})
    aligner = solved("ridge", rows, 3, target="b", shrinkage=0.1)
    z = embedded(aligner, rows)
    target = PCA(3).fit(rows["b"].numpy()).transform(rows["b"].numpy())
    signs = np.sign((target * z["b"].numpy()).sum(axis=0))
    np.testing.assert_allclose(z["b"], target * signs, atol=1e-9)
    for name in ("a", "c"):
        x = rows[name].numpy()
        alpha = 0.1 * x.var(axis=0, ddof=1).mean() * (len(x) - 1)
        np.testing.assert_allclose(z[name], Ridge(alpha).fit(x, target * signs).predict(x), atol=1e-9)


@pytest.mark.parametrize("kind", ["cca", "ridge"])
def test_shrinkage_follows_width_over_rows(kind: str) -> None:
    rows = views(80, {"a": 5, "b": 5})
    for name, (_, matrix) in {n: solved(kind, rows).solution(n) for n in rows}.items():
        assert_close(matrix, solved(kind, rows, shrinkage=10 * 5 / 80).solution(name)[1])
    wide = usual_shrinkage([1280, 384], 4000)
    assert wide == [3.2, 0.96]


@every_kind
def test_chunks_and_their_order_never_matter(kind: str) -> None:
    rows = views()
    whole, other = solved(kind, rows), solved(kind, rows)
    sizes = [1, 30, 0, 48, 1]
    chunks = zip(*(x.split(sizes) for x in rows.values()), strict=True)
    other.fit_closed_form([dict(zip(rows, map(as_tokens, chunk), strict=True)) for chunk in reversed(list(chunks))])
    for name in rows:
        for one, two in zip(whole.solution(name), other.solution(name), strict=True):
            assert_close(one, two, rtol=1e-7, atol=1e-9)


@every_kind
def test_only_complete_rows_count(kind: str) -> None:
    rows, present = views(), torch.arange(80) % 4 > 0
    aligner = solved(kind, {n: x[present] for n, x in rows.items()})
    other = solved(kind, views(seed=5))
    holes = {
        "text": as_tokens(rows["text"].masked_fill(~present.unsqueeze(1), float("nan")), present),
        "image": as_tokens(rows["image"]),
    }
    other.fit_closed_form([holes])
    for name in rows:
        for one, two in zip(aligner.solution(name), other.solution(name), strict=True):
            assert_close(one, two, rtol=1e-7, atol=1e-9)


@every_kind
def test_tokens_are_pooled_over_the_real_ones(kind: str) -> None:
    rows = views()
    twice = {
        n: Tokens(torch.stack([x, torch.full_like(x, 9.0), x], dim=1), torch.tensor([True, False, True]).expand(80, 3))
        for n, x in rows.items()
    }
    aligner, other = solved(kind, rows), solved(kind, views(seed=5))
    other.fit_closed_form([twice])
    assert_close(other.solution("text"), aligner.solution("text"), rtol=1e-7, atol=1e-9)


@every_kind
def test_the_solution_is_saved_and_never_trained(kind: str) -> None:
    aligner = solved(kind, views())
    other = create_aligner(kind, DIMS, 3).double().eval()
    other.load_state_dict(aligner.state_dict())
    inputs = {n: as_tokens(x) for n, x in views(seed=1).items()}
    for name, z in aligner(inputs).items():
        assert torch.equal(z, other(inputs)[name])
    trained = {name.split(".")[0] for name, _ in aligner.named_parameters()}
    assert trained == ({"towers"} if kind == "deep-cca" else set())


def constant(rows: dict[str, Tensor]) -> None:
    rows["image"][:] = 1.0


def broken(rows: dict[str, Tensor]) -> None:
    rows["image"][5, 2] = float("nan")


@every_kind
@pytest.mark.parametrize(
    ("spoil", "count", "dim", "says"),
    [
        (constant, 80, 3, "constant"),
        (broken, 80, 3, "'image' has values that are NaN"),
        (lambda rows: None, 3, 3, "more rows"),
        (lambda rows: None, 0, 3, "more rows"),
    ],
)
def test_bad_rows_are_refused(
    kind: str, spoil: Callable[[dict[str, Tensor]], None], count: int, dim: int, says: str
) -> None:
    rows = views(count)
    spoil(rows)
    with pytest.raises(UserError, match=says):
        solved(kind, rows, dim)


@pytest.mark.parametrize("kind", ["cca", "procrustes"])
def test_a_space_wider_than_a_modality_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="dim=4 or less"):
        solved(kind, views(), 5)
    solved("deep-cca", views(), 5)


def test_a_constant_feature_is_refused_without_shrinkage_only() -> None:
    rows = views()
    rows["image"][:, 4] = 1.0
    with pytest.raises(UserError, match="singular"):
        solved("cca", rows, shrinkage=0.0)
    assert not solved("cca", rows).solution("image")[1][4].abs().max() > 1e-8


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("cca", {"shrinkage": -1.0}, "shrinkage"),
        ("cca", {"shrinkage": float("nan")}, "shrinkage"),
        ("ridge", {"shrinkage": 0.0}, "above 0"),
        ("ridge", {"target": "txt"}, "did you mean 'text'"),
        ("deep-cca", {"hidden": 0}, "hidden"),
    ],
)
def test_bad_options_are_refused(kind: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_aligner(kind, DIMS, 3, **options)


@every_kind
def test_one_modality_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="modalities"):
        create_aligner(kind, {"text": 4}, 3)


def test_ridge_predicts_as_ridge_regression_does() -> None:
    from sklearn.linear_model import Ridge

    rows = views()
    x, y = rows["text"], rows["image"]
    aligner = solved("ridge", {"text": x, "image": y}, 6, target="image", shrinkage=0.1)
    alpha = 0.1 * float(x.var(dim=0).mean()) * (len(x) - 1)
    expected = torch.from_numpy(Ridge(alpha=alpha).fit(x.numpy(), y.numpy()).predict(x.numpy()))
    assert_close(aligner.predict("text", "image", as_tokens(x)), expected, rtol=1e-7, atol=1e-8)


def test_cca_predicts_each_canonical_variable_by_its_correlation() -> None:
    rows = views()
    x, y = (v.numpy() - v.numpy().mean(axis=0) for v in rows.values())
    sxx, syy, sxy = x.T @ x, y.T @ y, x.T @ y
    whole = np.linalg.solve(sxx, sxy)  # least squares
    u, c, vt = np.linalg.svd(scipy.linalg.sqrtm(np.linalg.inv(sxx)) @ sxy @ scipy.linalg.sqrtm(np.linalg.inv(syy)))
    kept = scipy.linalg.sqrtm(np.linalg.inv(sxx)) @ u[:, :2] * c[:2] @ vt[:2] @ scipy.linalg.sqrtm(syy)
    for dim, expected in ((4, whole), (2, kept)):
        found = solved("cca", rows, dim, shrinkage=0.0).predict("text", "image", as_tokens(rows["text"]))
        assert_close(found - rows["image"].mean(dim=0), torch.from_numpy(x @ expected), rtol=1e-6, atol=1e-7)


def test_other_closed_forms_predict_by_regression_from_their_columns() -> None:
    from sklearn.linear_model import Ridge

    rows = views()
    for kind, share, options in (("procrustes", 10 * 4 / 80, {}), ("whitened", 0.2, {"shrinkage": 0.2, "width": 2})):
        aligner = solved(kind, rows, 3, **options)
        mean, matrix = aligner.solution("text")
        columns = (rows["text"] - mean) @ matrix[:, matrix.abs().sum(dim=0) > 0]
        penalty = share * float(rows["text"].var(dim=0).mean()) * (len(columns) - 1)
        gram = matrix.T @ matrix  # the penalty is on the features' weights, not on the columns'
        root = torch.linalg.cholesky(gram[: columns.shape[1], : columns.shape[1]])
        unit = torch.linalg.solve_triangular(root, columns.T, upper=False).T
        expected = Ridge(alpha=penalty).fit(unit.numpy(), rows["image"].numpy()).predict(unit.numpy())
        found = aligner.predict("text", "image", as_tokens(rows["text"]))
        assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
