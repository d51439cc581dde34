"""A comparison as a scikit-learn classifier or regressor: ``fit`` compares and keeps the best, ``predict`` asks it.

A table in memory (a DataFrame of pandas or polars, a pyarrow Table) may hold text, numbers, categories, dates and
files by path; its columns become modalities as :func:`~weft.data.guess.propose_table` proposes. An array is one
modality of numbers; NaN is a missing cell.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from weft.compare.comparison import Comparison, compare
from weft.compare.config import CompareConfig
from weft.compare.frames import encode_config, propose_config
from weft.data import TableConfig
from weft.data.cells import as_category
from weft.data.clues import NONE
from weft.data.frame import frame_columns, is_frame
from weft.data.table_config import ModalityConfig
from weft.data.target_cells import refuse_dates
from weft.errors import UserError, some
from weft.models.pretrained import load_model
from weft.store import Store

FEWEST = 3
"""Rows: one each for train, dev and test."""


class _Estimator(BaseEstimator, ABC):
    """What both share: X to a table, a comparison, the kept model."""

    task: str
    _order: list[str] | None = None

    def __init__(
        self,
        methods: Sequence[str] = ("linear",),
        *,
        budget: float | str | None = None,
        metric: str | None = None,
        group: str | None = None,
        drop: Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        labels: Sequence[Any] | None = None,
        encoders: Mapping[str, str] | None = None,
        fractions: tuple[float, float, float] = (0.8, 0.15, 0.05),
        settings: Mapping[str, Any] | None = None,
        folder: Path | str | None = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.methods = methods
        self.budget = budget
        self.metric = metric
        self.group = group
        self.drop = drop
        self.types = types
        self.labels = labels
        self.encoders = encoders
        self.fractions = fractions
        self.settings = settings
        self.folder = folder
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Compare the methods on the rows, and keep the best on dev.

        Args:
            X: ``(N, P)`` numbers, or a table in memory.
            y: ``(N,)`` targets.

        Raises:
            ValueError: too few rows, a target that cannot be learned, or a table that cannot be read.
        """
        columns, y = self._columns(X, y, fitting=True)
        target = _new_name("target", columns)
        cells = {**columns, target: self._targets(y)}
        seed = int(check_random_state(self.random_state).randint(2**31))
        asked = {"only": list(self.methods), "budget": self.budget, "metric": self.metric}
        quick = {"seeds": 1, "resamples": 99, "fractions": self.fractions, "split_seed": seed}
        wanted = CompareConfig(**{**quick, **asked, **(self.settings or {})})
        place = tempfile.TemporaryDirectory() if self.folder is None else nullcontext(self.folder)
        with place as folder:
            features = self._encoded(cells, target, Path(folder) / "store", _is_table(X))
            self.comparison_ = compare(features, wanted, folder, progress=self.verbose)
            self.model_ = _kept(self.comparison_)
        return self

    def _encoded(self, cells: Mapping[str, Any], target: str, folder: Path, table: bool) -> Store:
        """The features of the rows; of a table it warns of columns in doubt."""
        asked: dict[str, Any] = {"task": self.task, "labels": self._order}
        if table:
            roles = {**asked, "group": self.group, "time": NONE, "drop": self.drop, "types": self.types}
            config = propose_config(cells, target=target, **roles).model_copy(update={"splits": None, **asked})
        else:
            names = [name for name in cells if name != target]
            numbers = ModalityConfig(kind="tabular", columns=names, types=dict.fromkeys(names, "number"))
            config = TableConfig(table="", target=target, modalities={"numbers": numbers}, **asked)
        return encode_config(cells, config, folder, self.encoders, progress=self.verbose)

    def _columns(self, X: Any, y: Any = None, *, fitting: bool = False) -> tuple[dict[str, Any], Any]:
        """``{name: cells}``, and the target ``(N,)`` when fitting."""
        checks = {"reset": fitting, **({"y": y} if fitting else {})}
        if _is_table(X):
            validate_data(self, X, skip_check_array=True, **checks)
            names, _, read, _ = frame_columns(X)
            columns = {name: read(name) for name in names}
        else:
            least = FEWEST if fitting else 1
            found = validate_data(self, X, ensure_all_finite="allow-nan", ensure_min_samples=least, **checks)
            X, y = found if fitting else (found, None)
            columns = {f"x{k}": column for k, column in enumerate(X.T)}
        if fitting:
            y = column_or_1d(y, warn=True)
            assert_all_finite(y, input_name="y")
            refuse_dates("y", "y", y.astype("datetime64[us]").tolist() if y.dtype.kind == "M" else y.tolist())
            check_consistent_length(X, y)
        return columns, y

    @abstractmethod
    def _targets(self, y: np.ndarray) -> list[Any]:
        """The cells of the target column."""

    def _answers(self, X: Any) -> dict[str, np.ndarray]:
        check_is_fitted(self)
        found: dict[str, np.ndarray] = self.model_.predict(self._columns(X)[0], progress=self.verbose)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.target_tags.required = True
        return tags


class WeftClassifier(ClassifierMixin, _Estimator):
    """The best of several classifiers of a table of text, numbers, images by path, ..., by weft's comparison.

    Args:
        methods: names, families or patterns of methods, as :class:`~weft.compare.config.CompareConfig` understands
            them in ``only``: ``("linear", "boosting", "ensemble")``, ``("gated",)``; empty: all that suit the table,
            best with a budget.
        budget: seconds for the fit, or ``"5m"``; None: no limit.
        metric: what methods are chosen by; None: what suits the target.
        group: column of rows that belong together; None: guessed, ``"none"``: none.
        drop: columns to leave out.
        types: ``{column: type}`` where a guess is wrong, see :func:`weft.compare.compare_frame`.
        labels: the classes in their order, lowest first, where they have one: the task is then ``"ordinal"``.
        encoders: ``{modality: encoder}``, see :func:`weft.compare.compare_frame`.
        fractions: of train, dev and test. Dev rows choose; on test rows the comparison judges its methods. The kept
            model is fitted on train and dev rows (:mod:`weft.compare.crossfit`).
        settings: further settings of the comparison, ``{"seeds": 3, "class_weights": "balanced"}``.
        folder: where features, jobs and the model stay; None: nowhere.
        random_state: of the split.
        verbose: show progress.

    Attributes:
        model_: the kept model; ``model_.save_pretrained(folder)`` keeps it, ``weft.load_model(folder)`` reads it.
        comparison_: what the comparison found: its sentence, its table.
        classes_: the classes in the order of ``predict_proba``.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> import numpy as np
        >>> from weft import WeftClassifier
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"size": rng.normal(size=90), "colour": rng.choice(["red", "blue"], 90)})
        >>> y = np.where(frame["size"] + (frame["colour"] == "red") > 0.5, "big", "small")
        >>> model = WeftClassifier().fit(frame[:60], y[:60])
        >>> model.predict_proba(frame[60:]).shape, bool(model.score(frame[60:], y[60:]) > 0.8)
        ((30, 2), True)
    """

    @property
    def task(self) -> str:  # type: ignore[override]
        return "classification" if self.labels is None else "ordinal"

    def _targets(self, y: np.ndarray) -> list[Any]:
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes or more; y has the one class {self.classes_[0]!r}")
        names = [as_category(label) or "" for label in self.classes_.tolist()]
        self._names = names if len({*names, ""}) > len(names) else [f"class {k}" for k in range(len(names))]
        self._order = None if self.labels is None else self._ordered(list(self.labels))
        return [self._names[code] for code in codes]

    def _ordered(self, labels: list[Any]) -> list[str]:
        """The names of the classes in the order of ``labels``."""
        named = dict(zip(self.classes_.tolist(), self._names, strict=True))
        if lacking := [label for label in named if label not in labels]:
            raise UserError(
                "labels are all classes of y, lowest first", f"without {some(map(repr, lacking))}", "add them"
            )
        return [named[label] for label in labels if label in named]

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of every row, ``(N,)``; with ``labels``, the median."""
        said = self._answers(X)["prediction"]
        return self.classes_[[self._names.index(str(name)) for name in said]]

    def predict_proba(self, X: Any) -> np.ndarray:
        """``(N, C)``, in the order of ``classes_``."""
        probability = self._answers(X)["probability"]
        return probability[:, [self.model_.task.labels.index(name) for name in self._names]]


class WeftRegressor(RegressorMixin, _Estimator):
    """The best of several regressors of a table of text, numbers, images by path, ..., by weft's comparison.

    Arguments and attributes as those of :class:`WeftClassifier`, without classes and ``labels``.

    Example:
        >>> import numpy as np
        >>> from weft import WeftRegressor
        >>> X = np.random.default_rng(0).normal(size=(80, 3))
        >>> bool(WeftRegressor().fit(X[:60], X[:60, 0]).score(X[60:], X[60:, 0]) > 0.9)
        True
    """

    task = "regression"

    def _targets(self, y: np.ndarray) -> list[Any]:
        if self.labels is not None:
            raise UserError("labels are of a target of classes", f"labels {some(self.labels)}", "leave labels out")
        return y.astype(np.float64).tolist()

    def predict(self, X: Any) -> np.ndarray:
        """The value of every row, ``(N,)``."""
        return self._answers(X)["prediction"].reshape(-1)


def _kept(found: Comparison) -> Any:
    if found.best is None:
        raise UserError("no method finished", found.sentence, "give a larger budget, or other methods")
    return load_model(found.best)


def _is_table(X: Any) -> bool:
    return is_frame(X) and not issparse(X)  # some sparse formats are dictionaries


def _new_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that no column has."""
    while name in taken:
        name += "_"
    return name
