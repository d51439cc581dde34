"""Aligners with a closed form as scikit-learn transformers of two views: CCA, ridge, Procrustes, the whitened family.

``fit(X, Y)`` solves on paired rows, in float64; ``transform(X, Y)`` gives both views in the shared space, as
scikit-learn's own cross decompositions do; ``transform(X)`` alone, and so ``fit_transform(X, Y)`` and every pipeline,
gives the first view. The numbers are those of the aligner (:mod:`weft.alignment`) on the same
rows before they are made unit vectors; ``sklearn.preprocessing.normalize`` does that, and products are then cosines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from weft.alignment import aligners
from weft.alignment.closed_form import ClosedForm, Judge
from weft.errors import UserError
from weft.tasks.retrieval import RetrievalTask
from weft.tokens import as_tokens

VIEWS = ("x", "y")


class ClosedFormAligner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Two views of the same rows into one space, in closed form.

    Args:
        aligner: ``"cca"``, ``"procrustes"``, ``"ridge"`` (X predicts Y) or ``"whitened"``, the family of all of them,
            whose setting is chosen by folds of the training rows.
        n_components: width of the shared space; None: that of the narrower view.
        options: of the aligner: ``{"shrinkage": 0.1}``; CSA is ``"whitened"`` with ``{"score": "csa"}``.

    Attributes:
        aligner_: the solved aligner, a module.
        x_mean_, y_mean_: ``(D_m,)``.
        x_projection_, y_projection_: ``(D_m, n_components)``, so that views are ``(X - x_mean_) @ x_projection_`` (CSA
            makes its scores of these).
        n_features_in_, feature_names_in_: of X, as in scikit-learn.

    Example:
        >>> import numpy as np
        >>> from weft import ClosedFormAligner
        >>> rng = np.random.default_rng(0)
        >>> shared = rng.normal(size=(200, 2))
        >>> X, Y = (shared @ rng.normal(size=(2, d)) + 0.1 * rng.normal(size=(200, d)) for d in (5, 8))
        >>> a, b = ClosedFormAligner("cca", n_components=2).fit(X[:150], Y[:150]).transform(X[150:], Y[150:])
        >>> a.shape, bool(np.corrcoef(a[:, 0], b[:, 0])[0, 1] > 0.9)
        ((50, 2), True)
    """

    def __init__(
        self, aligner: str = "cca", n_components: int | None = None, *, options: Mapping[str, Any] | None = None
    ) -> None:
        self.aligner = aligner
        self.n_components = n_components
        self.options = options

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Solve.

        Args:
            X: ``(N, D_x)``.
            y: ``(N, D_y)``, or ``(N,)``: the other view.
            groups: ``(N,)``, rows that are of one thing (captions of a photo); ``"whitened"`` then holds out whole
                groups. None: every row is by itself.

        Raises:
            ValueError: rows that do not fit, no more of them than dimensions, or an aligner without a closed form.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        y = np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        code = np.arange(len(X)) if groups is None else np.unique(groups, return_inverse=True)[1]
        check_consistent_length(X, code)
        dims = {"x": X.shape[1], "y": y.shape[1]}
        width = min(dims.values()) if self.n_components is None else self.n_components
        options = dict(self.options or {})
        kind = aligners.get(self.aligner)
        if not issubclass(kind, ClosedForm) or self.aligner == "deep-cca":
            known = ", ".join(
                n for n in aligners.names() if issubclass(aligners.get(n), ClosedForm) and n[:4] != "deep"
            )
            raise UserError("the aligner has no closed form", repr(self.aligner), f"one of {known}; or train: weft fit")
        solved = cast("ClosedForm", aligners.create(self.aligner, dims, width, **options)).double().eval()
        solved.fit_closed_form([{"x": _tokens(X), "y": _tokens(y)}], Judge(_recalls, torch.from_numpy(code)))
        self.aligner_ = solved
        self.n_components_ = self._n_features_out = width
        (self.x_mean_, self.x_projection_), (self.y_mean_, self.y_projection_) = (
            tuple(part.numpy() for part in solved.solution(name)) for name in VIEWS
        )
        return self

    def transform(self, X: Any, y: Any = None) -> Any:
        """Views in the shared space: ``(N, n_components)`` of X alone, or the pair of X and ``y``, row by row."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        found = self._embed("x", X)
        if y is None:
            return found
        return found, self.transform_y(y)

    def transform_y(self, y: Any) -> np.ndarray:
        """``(N, n_components)`` of the other view alone."""
        check_is_fitted(self)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        return self._embed("y", y.reshape(len(y), -1))

    def _embed(self, name: str, values: np.ndarray) -> np.ndarray:
        if values.shape[1] != self.aligner_.dims[name]:
            found = f"{values.shape[1]} features, {self.aligner_.dims[name]} when fitted"
            raise UserError(f"the view {name} has other features", found, "give the features it was fitted on")
        with torch.no_grad():
            vectors: np.ndarray = self.aligner_.embed(name, _tokens(values)).numpy()
        return vectors

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


def _tokens(values: np.ndarray) -> Any:
    return as_tokens(torch.from_numpy(np.array(values, order="C")))  # a copy: the rows may be read-only


def _recalls(embeddings: dict[str, Tensor], group: Tensor) -> float:
    """The sum of recalls, both ways, which ``weft fit`` and ``weft align`` choose by."""
    task = RetrievalTask((VIEWS,))
    return task.metrics(embeddings, group.numpy())[task.primary]
