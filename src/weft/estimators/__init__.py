"""scikit-learn estimators: a comparison behind ``fit`` and ``predict``, aligners behind ``fit`` and ``transform``."""

from weft.estimators.aligners import ClosedFormAligner
from weft.estimators.predictors import WeftClassifier, WeftRegressor

__all__ = ["ClosedFormAligner", "WeftClassifier", "WeftRegressor"]
