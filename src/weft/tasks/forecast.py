r"""What a forecast has to beat: the last value, a line through the raw window, and boosted trees on it.

With a window :math:`x` ``(w, C)``, the channel ``k`` of the target and the last step :math:`l_c = x_{w c}`, every
forecast is the last value plus a change, so a level that drifts away from the training rows costs nothing:

.. math::
    \hat y_{persistence} = l_k, \qquad
    \hat y_{nlinear} = l_k + b + \textstyle\sum_t a_t (x_{tk} - l_k), \qquad
    \hat y_{nlinear, all} = l_k + b + \sum_{t, c} a_{tc} (x_{tc} - l_c), \qquad
    \hat y_{boosting} = l_k + f(x - l, l)

``a`` is a ridge regression on standardised inputs, ``f`` gradient-boosted trees (scikit-learn's). The strength of the
one and the number of leaves of the other are chosen by the squared error on the dev rows.

Source of the centring: Zeng et al., "Are Transformers Effective for Time Series Forecasting?" (NLinear), AAAI 2023;
least squares in place of its gradient descent, one horizon at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weft.data import Split
from weft.errors import UserError

STRENGTHS = tuple(10.0**k for k in range(-2, 6))
LEAVES = (4, 8, 31)


@dataclass(frozen=True)
class Forecast:
    """One baseline.

    Attributes:
        name: of the row in the table.
        prediction: ``(N,)`` for all rows, in the units of the target.
        dev: mean squared error on the dev rows.
    """

    name: str
    prediction: np.ndarray
    dev: float


def forecasts(windows: np.ndarray, channel: int, target: np.ndarray, split: Split, *, change: bool) -> list[Forecast]:
    """The baselines, fitted on the training rows.

    Args:
        windows: ``(N, w, C)`` raw values.
        channel: the channel whose future the target is.
        target: ``(N,)`` that future, or its change since the last step.
        split: rows of train, dev and test.
        change: what ``target`` is.

    Raises:
        UserError: there is no such channel, or windows and targets do not pair.
    """
    windows, target = np.asarray(windows, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if windows.ndim != 3 or target.shape != (len(windows),) or not -windows.shape[2] <= channel < windows.shape[2]:
        raise UserError(
            "forecasts take windows (N, w, C), a channel of them, and one target per window",
            f"windows {windows.shape}, channel {channel}, target {target.shape}",
            "choose a channel below C, and the target of the same rows",
        )
    last = windows[:, -1]
    base = np.zeros(len(target)) if change else last[:, channel]
    centred = windows - last[:, None]
    own, whole = centred[:, :-1, channel], centred[:, :-1].reshape(len(windows), -1)
    wanted = target - base
    found = [Forecast("persistence", base, _error(base, target, split.dev))]
    for name, x in (("nlinear", own), ("nlinear, all channels", whole)):
        models = [make_pipeline(StandardScaler(), Ridge(alpha=1 / s)) for s in STRENGTHS]
        found.append(_best(name, models, x, wanted, base, split))
    trees = [
        HistGradientBoostingRegressor(max_iter=100, learning_rate=0.05, max_leaf_nodes=leaves, random_state=0)
        for leaves in LEAVES
    ]
    return [*found, _best("boosting", trees, np.concatenate([whole, last], axis=1), wanted, base, split)]


def _best(
    name: str, models: Sequence[object], x: np.ndarray, wanted: np.ndarray, base: np.ndarray, split: Split
) -> Forecast:
    """The model with the least squared error on dev."""
    tried = []
    for model in models:
        fit: Callable[..., object] = model.fit  # type: ignore[attr-defined]
        fit(x[split.train], wanted[split.train])
        prediction = base + model.predict(x)  # type: ignore[attr-defined]
        tried.append(Forecast(name, prediction, _error(prediction, base + wanted, split.dev)))
    return min(tried, key=lambda forecast: forecast.dev)


def _error(prediction: np.ndarray, target: np.ndarray, rows: np.ndarray) -> float:
    return float(((prediction - target)[rows] ** 2).mean())
