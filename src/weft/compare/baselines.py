"""Classical models on pooled features, answering in a task's outputs ``(N, K)``.

``linear``: logistic regression (one per label for multilabel) or ridge regression on standardised features, an absent
modality standing at its mean with an indicator beside it. ``boosting``: histogram gradient boosting, which reads NaN
as absent. ``chance``: class frequencies, or the mean. All are scikit-learn's; probabilities come back as
log-probabilities or logits, values in the task's standardised units, so the task judges them like any network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from weft.compare.methods import Family
from weft.store import Features
from weft.tasks.base import Task

TINY = 1e-6
ITERATIONS = 100
SMALL = 2_000_000


def pooled_matrix(features: Features, rows: np.ndarray) -> np.ndarray:
    """``(n, sum D_m)`` pooled modalities side by side, NaN where one is absent."""
    return np.concatenate(list(features.pooled(rows).values()), axis=1).astype(np.float64)


class Baseline:
    """One classical model for one task.

    Args:
        family: ``"linear"``, ``"boosting"`` or ``"chance"``.
        task: the fitted task.
        seed: of the boosting's row order.
        settings: ``strength`` (linear: inverse regularisation), ``leaves`` and ``rate`` (boosting).
    """

    def __init__(self, family: Family, task: Task, seed: int = 0, **settings: Any) -> None:
        self.family, self.task, self.seed, self.settings = family, task, seed, settings
        self._models: list[Any] = []

    def fit(self, x: np.ndarray, target: np.ndarray) -> Baseline:
        """Fit to features ``(n, D)`` and the raw target of the same rows."""
        y, weights = self.task.response(target), self.task.row_weights(target)
        columns = [y] if y.ndim == 1 else list(y.T)
        rows = [None] * len(columns) if weights is None else [weights] if weights.ndim == 1 else list(weights.T)
        with _threads(x):
            self._models = [self._fitted(x, column, weight) for column, weight in zip(columns, rows, strict=True)]
        return self

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Outputs of the task, ``(n, K)`` float32."""
        with _threads(x):
            if self.task.estimator == "regressor":
                found = np.stack([model.predict(x) for model in self._models], axis=1)
            elif self.task.estimator == "per-label":
                found = np.stack([_probability(model, x, 2)[:, 1] for model in self._models], axis=1)
            else:
                found = _probability(self._models[0], x, len(self.task.labels))
        return self.task.from_estimator(found)

    def _fitted(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> Any:
        model = self._make(constant=len(np.unique(y)) < 2)
        name = "sample_weight" if not isinstance(model, Pipeline) else f"{model.steps[-1][0]}__sample_weight"
        return model.fit(x, y, **({} if weight is None else {name: weight}))

    def _make(self, constant: bool) -> Any:
        values = self.task.estimator == "regressor"
        if self.family == "chance" or constant:
            return DummyRegressor() if values else DummyClassifier()
        if self.family == "boosting":
            model = HistGradientBoostingRegressor if values else HistGradientBoostingClassifier
            return model(
                max_iter=ITERATIONS,
                max_leaf_nodes=self.settings["leaves"],
                learning_rate=self.settings["rate"],
                random_state=self.seed,
            )
        strength = self.settings["strength"]
        model = Ridge(alpha=1 / strength) if values else LogisticRegression(C=strength, max_iter=1000)
        fill = SimpleImputer(add_indicator=True, keep_empty_features=True)
        return make_pipeline(fill, StandardScaler(), model)


def _threads(x: np.ndarray) -> threadpool_limits:
    """One thread for small tables: there, threads wait for each other longer than they work."""
    return threadpool_limits(limits=1 if x.size < SMALL else None)


def _probability(model: Any, x: np.ndarray, classes: int) -> np.ndarray:
    """``(n, classes)``, strictly inside (0, 1); classes the model never saw are improbable."""
    p = np.full((len(x), classes), TINY)
    p[:, np.asarray(model.classes_).astype(int)] = model.predict_proba(x)
    p = np.clip(p, TINY, 1 - TINY)
    return p / p.sum(axis=1, keepdims=True)
