"""Aligners in closed form as scikit-learn transformers: the aligner's own numbers, and those of other packages."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.base import clone
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from tests.estimators.test_predictors import NOT_MEANT
from weft import ClosedFormAligner, create_aligner
from weft.errors import UserError
from weft.tokens import as_tokens

ALIGNERS = {"cca": {}, "procrustes": {}, "ridge": {}, "whitened": {}, "csa": {"score": "csa", "choose": "fixed"}}


def views(rows: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 3)) * [1.5, 1.0, 0.7]
    x, y = (hidden @ rng.normal(size=(3, d)) + 0.5 * rng.normal(size=(rows, d)) for d in (6, 8))
    return x + 3, y - 1


def build(name: str, dim: int = 3) -> ClosedFormAligner:
    return ClosedFormAligner("whitened" if name == "csa" else name, dim, options=ALIGNERS[name])


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(a.shape[1])])


@pytest.mark.parametrize("name", ["cca", "procrustes", "ridge", "whitened"])
def test_every_check_of_scikit_learn_passes(name: str) -> None:
    options = {"choose": "fixed"} if name == "whitened" else None  # choosing takes a second, hundreds of times
    results = check_estimator(
        ClosedFormAligner(name, options=options), on_fail=None, on_skip=None, expected_failed_checks={}
    )
    assert len(results) > 40
    left = {r["check_name"]: r["exception"] for r in results if r["status"] != "passed"}
    assert left.keys() <= NOT_MEANT.keys(), left


@pytest.mark.parametrize("name", ALIGNERS)
def test_the_numbers_are_those_of_the_aligner(name: str) -> None:
    (x, y), model = views(), build(name, 5 if name == "csa" else 3)
    if name == "whitened":
        model.set_params(options={"choose": "fixed"})
    found = model.fit(x, y).transform(x[:20], y[:20])
    kind, options = model.aligner, model.options
    aligner = create_aligner(kind, {"x": 6, "y": 8}, model.n_components, **options).double().eval()
    inputs = {"x": as_tokens(torch.from_numpy(x)), "y": as_tokens(torch.from_numpy(y))}
    aligner.fit_closed_form([inputs])
    with torch.no_grad():
        for view, (modality, tokens) in zip(found, inputs.items(), strict=True):
            np.testing.assert_allclose(view, aligner.embed(modality, tokens).numpy()[:20], rtol=1e-12, atol=1e-12)
    if name != "csa":
        np.testing.assert_allclose(found[0], (x[:20] - model.x_mean_) @ model.x_projection_, atol=1e-12)
        np.testing.assert_allclose(found[1], (y[:20] - model.y_mean_) @ model.y_projection_, atol=1e-12)


def test_cca_is_that_of_scikit_learn_and_cca_zoo() -> None:
    from cca_zoo.linear import CCA as Zoo

    x, y = views()
    ours = ClosedFormAligner("cca", 3, options={"shrinkage": 0.0}).fit(x, y)
    a, b = ours.transform(x, y)
    theirs = CCA(3, scale=False, max_iter=2000, tol=1e-12).fit(x, y)
    c, d = theirs.transform(x, y)
    np.testing.assert_allclose(correlations(a, b), correlations(c, d), atol=1e-6)
    np.testing.assert_allclose(np.abs(correlations(a, c)), 1, atol=1e-6)
    np.testing.assert_allclose(np.abs(correlations(b, d)), 1, atol=1e-6)
    zoo = Zoo(n_components=3).fit([x, y]).transform([x, y])
    np.testing.assert_allclose(correlations(a, b), correlations(*zoo), atol=1e-6)
    np.testing.assert_allclose(np.abs(correlations(a, zoo[0])), 1, atol=1e-6)
    np.testing.assert_allclose(a.var(axis=0, ddof=1), 1, atol=1e-6)


def test_procrustes_is_that_of_scipy_and_ridge_that_of_scikit_learn() -> None:
    x, y = views()
    y = y[:, :6]
    model = ClosedFormAligner("procrustes").fit(x, y)
    rotation, _ = orthogonal_procrustes(x - x.mean(axis=0), y - y.mean(axis=0))
    np.testing.assert_allclose(model.x_projection_ @ model.y_projection_.T, rotation, atol=1e-10)

    alpha = 0.1 * np.var(x, axis=0, ddof=1).mean() * (len(x) - 1)
    a, b = ClosedFormAligner("ridge", options={"shrinkage": 0.1}).fit(x, y).transform(x, y)
    principal = PCA().fit(y)
    np.testing.assert_allclose(np.abs(b), np.abs(principal.transform(y)), atol=1e-8)
    predicted = Ridge(alpha=alpha).fit(x, y).predict(x)
    np.testing.assert_allclose(np.abs(a), np.abs(principal.transform(predicted)), atol=1e-8)


def test_whitened_chooses_its_setting_by_folds_of_whole_groups() -> None:
    x, y = (np.repeat(view, 3, axis=0) for view in views(60))
    y = y + 0.1 * np.random.default_rng(1).normal(size=y.shape)
    alone = ClosedFormAligner("whitened", 3).fit(x, y)
    together = ClosedFormAligner("whitened", 3).fit(x, y, groups=np.repeat(np.arange(60), 3))
    fixed = ClosedFormAligner("whitened", 3, options={"choose": "fixed"}).fit(x, y)
    assert len({alone.aligner_.setting, together.aligner_.setting, fixed.aligner_.setting}) == 3


def test_in_a_pipeline_as_a_clone_and_from_frames() -> None:
    x, y = views()
    pipe = make_pipeline(StandardScaler(), clone(build("cca")), StandardScaler())
    assert pipe.fit_transform(x, y).shape == (200, 3)
    frame = pd.DataFrame(x, columns=list("abcdef"))
    model = build("cca").set_output(transform="pandas").fit(frame, y)
    assert list(model.transform(frame).columns) == [f"closedformaligner{k}" for k in range(3)]
    np.testing.assert_allclose(model.transform_y(y), build("cca").fit(x, y).transform(x, y)[1])


def test_mistakes_are_named() -> None:
    x, y = views()
    with pytest.raises(UserError, match="no closed form"):
        ClosedFormAligner("two-tower").fit(x, y)
    with pytest.raises(UserError, match=r"another|dim=6 or less"):
        ClosedFormAligner("cca", 7).fit(x, y)
    with pytest.raises(ValueError, match="other features"):
        ClosedFormAligner().fit(x, y).transform(x, y[:, :5])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        ClosedFormAligner().fit(x, y[:9])
    with pytest.raises(ValueError, match="requires y"):
        ClosedFormAligner().fit(x)
