r"""The numbers of a series themselves, patch by patch, and its last step in every token: an encoder that loses nothing.

Values in units of the training rows, :math:`u_{tc} = (x_{tc} - \mu_c) / \sigma_c`, in patches of ``P`` steps that end
with the series (a first patch that is too short repeats its first step):

.. math::
    token_p = [u_{t_p - P + 1}, \dots, u_{t_p},\; u_T] \in R^{(P + 1) C}, \qquad t_p = T - (\lceil T/P \rceil - p) P

Averaged over tokens, as fusions of vectors do, a series keeps its mean profile of ``P`` steps and its last value, from
which most forecasts start. Tokens: ``(ceil(T / P), (P + 1) C)``. Cost: none.
When not to use it: for classes of long series, where ``random-kernels`` sees shapes at any position.

Source: patches of raw values as tokens: Nie et al., "A Time Series is Worth 64 Words" (PatchTST), ICLR 2023 (there
per channel and overlapping). The last step in every token is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.encoders.base import Encoder, encoders, read_each
from weft.encoders.random_kernels import channel_units, check_channels, read_series
from weft.errors import UserError


@encoders.register("raw-patches")
class RawPatches(Encoder):
    """Raw values per patch, and the last step.

    Args:
        patch: steps ``P`` per token.
    """

    kinds = ("series",)

    def __init__(self, *, patch: Annotated[int, Field(ge=1)] = 12) -> None:
        self.patch = patch
        self.mean: list[float] = []
        self.scale: list[float] = []

    def fit(self, values: Sequence[Any]) -> None:
        """Learn the number of channels, and each one's mean and deviation over the training rows."""
        self.load_state(channel_units("raw-patches", values))

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(ceil(T / P), (P + 1) C)`` float32 per series.

        Raises:
            UserError: the encoder is not fitted, or a series has other channels.
        """
        if not self.mean:
            raise UserError("the raw-patches encoder is not fitted", "no statistics", "call fit() on the training rows")
        series = read_each(values, read_series)
        check_channels(series, len(self.mean))
        return [self._tokens(s) for s in series]

    def _tokens(self, series: np.ndarray) -> np.ndarray:
        units = (series - np.array(self.mean)) / np.array(self.scale)
        missing = -len(units) % self.patch
        whole = np.concatenate([units[:1].repeat(missing, axis=0), units])
        patches = whole.reshape(-1, self.patch * units.shape[1])
        last = units[-1:].repeat(len(patches), axis=0)
        return np.concatenate([patches, last], axis=1).astype(np.float32)

    def identity(self) -> dict[str, Any]:
        """Name and options; the channels' statistics are the state."""
        return {"name": "raw-patches", "version": 1, "patch": self.patch}

    def state(self) -> dict[str, Any]:
        """Mean and deviation of every channel."""
        return {"mean": self.mean, "scale": self.scale}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the statistics back."""
        self.mean, self.scale = state["mean"], state["scale"]
        self.width = (self.patch + 1) * len(self.mean)
