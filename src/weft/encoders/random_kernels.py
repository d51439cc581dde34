r"""Random convolution kernels per patch of a series: a time-series encoder without weights.

Kernels (fixed by ``seed`` and the number of channels): length in {7, 9, 11}, weights N(0, 1) minus their mean, a
random subset of the channels, dilation a power of two up to 16, bias U(-1, 1). Each series is standardised per channel,
convolved (same length, zeros outside), and cut into patches of ``patch`` steps. Per patch and kernel: the share of
positive values and the maximum; per patch and channel: mean, deviation, minimum, maximum and slope per step, in units
of the training rows:

.. math:: y_k(t) = b_k + \sum_{c, j} w_{kcj}\, x_c(t + d_k (j - \lfloor l_k/2 \rfloor)), \qquad
          \text{ppv}_k(p) = \frac{|\{t \in p : y_k(t) > 0\}|}{|p|}, \quad \max_{t \in p} y_k(t)

Tokens: ``(ceil(T / patch), 2 kernels + 5 C)``. A last patch of one step has slope 0.
Cost: ``T * kernels * C * 10`` products.
When not to use it: for one global shape whose position does not matter, pool the tokens.

Source: Dempster, Petitjean, Webb, "ROCKET: exceptionally fast and accurate time series classification using random
convolutional kernels", DMKD 2020 (which pools over the whole series, and draws dilations up to its length).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from weft.encoders.base import BadValue, Encoder, encoders, read_each
from weft.errors import UserError, some

LENGTHS = (7, 9, 11)
DILATIONS = (1, 2, 4, 8, 16)


@encoders.register("random-kernels")
class RandomKernels(Encoder):
    """Random convolutions and statistics, one token per patch.

    Args:
        kernels: number of kernels.
        patch: steps per token.
        seed: decides the kernels.
    """

    kinds = ("series",)

    def __init__(
        self,
        *,
        kernels: Annotated[int, Field(ge=1)] = 128,
        patch: Annotated[int, Field(ge=1)] = 16,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.kernels, self.patch, self.seed = kernels, patch, seed
        self.mean: list[float] = []
        self.scale: list[float] = []

    def fit(self, values: Sequence[Any]) -> None:
        """Learn the number of channels, and each one's mean and deviation over the training rows."""
        self.load_state(channel_units("random-kernels", values))

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(ceil(T / patch), D)`` per series; series of one length are convolved together.

        Raises:
            UserError: the encoder is not fitted, or a series has other channels.
        """
        if not self.mean:
            raise UserError(
                "the random-kernels encoder is not fitted", "no statistics", "call fit() on the training rows"
            )
        series = read_each(values, read_series)
        check_channels(series, len(self.mean))
        out: list[np.ndarray] = [np.empty(0)] * len(series)
        for length in sorted({len(s) for s in series}):
            rows = [i for i, s in enumerate(series) if len(s) == length]
            for row, tokens in zip(rows, self._tokens(np.stack([series[i] for i in rows])), strict=True):
                out[row] = tokens
        return out

    def _tokens(self, series: np.ndarray) -> np.ndarray:
        """Series ``(B, T, C)`` to tokens ``(B, P, D)``."""
        deviation = series.std(axis=1, keepdims=True)
        standard = (series - series.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
        signal = torch.from_numpy(standard.transpose(0, 2, 1).astype(np.float32))
        responses = [
            F.conv1d(signal, weight, bias, padding=dilation * (weight.shape[2] // 2), dilation=dilation)
            for weight, bias, dilation in self.bank
        ]
        response = torch.cat(responses, dim=1).numpy()
        level = (series - np.array(self.mean)) / np.array(self.scale)
        patches = []
        for start in range(0, series.shape[1], self.patch):
            part = response[:, :, start : start + self.patch]
            patches.append(
                np.concatenate(
                    [(part > 0).mean(axis=2), part.max(axis=2), statistics(level[:, start : start + self.patch])], 1
                )
            )
        return np.stack(patches, axis=1).astype(np.float32)

    def identity(self) -> dict[str, Any]:
        """Name and options; the channels' statistics are the state."""
        return {"name": "random-kernels", "version": 1, "kernels": self.kernels, "patch": self.patch, "seed": self.seed}

    def state(self) -> dict[str, Any]:
        """Mean and deviation of every channel."""
        return {"mean": self.mean, "scale": self.scale}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the statistics back, and draw the kernels for that many channels."""
        self.mean, self.scale = state["mean"], state["scale"]
        self.width = 2 * self.kernels + 5 * len(self.mean)
        self.bank = draw_kernels(self.kernels, len(self.mean), self.seed)


def draw_kernels(kernels: int, channels: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Random kernels as ``(weight (k, C, l), bias (k,), dilation)``, one entry per kernel shape."""
    generator = np.random.default_rng([seed, channels])
    groups: dict[tuple[int, int], list[tuple[np.ndarray, float]]] = {}
    for _ in range(kernels):
        length, dilation = int(generator.choice(LENGTHS)), int(generator.choice(DILATIONS))
        used = generator.permutation(channels)[: int(2 ** generator.uniform(0, np.log2(channels + 1)))]
        weight = np.zeros((channels, length), dtype=np.float32)
        drawn = generator.standard_normal((len(used), length))
        weight[used] = drawn - drawn.mean(axis=1, keepdims=True)
        groups.setdefault((length, dilation), []).append((weight, float(generator.uniform(-1, 1))))
    return [
        (torch.from_numpy(np.stack([w for w, _ in group])), torch.tensor([b for _, b in group]), dilation)
        for (_, dilation), group in sorted(groups.items())
    ]


def statistics(patch: np.ndarray) -> np.ndarray:
    """Mean, deviation, minimum, maximum and slope per step of ``(B, t, C)``, as ``(B, 5 C)``."""
    steps = np.arange(patch.shape[1]) - (patch.shape[1] - 1) / 2
    slope = np.einsum("t,btc->bc", steps, patch) / max(float((steps**2).sum()), 1.0)
    parts = [patch.mean(axis=1), patch.std(axis=1), patch.min(axis=1), patch.max(axis=1), slope]
    return np.concatenate(parts, axis=1)


def channel_units(who: str, values: Sequence[Any]) -> dict[str, list[float]]:
    """``mean`` and ``scale`` (deviation, 1 for constants) of every channel over all steps of the training rows.

    Raises:
        UserError: no training rows.
    """
    if not values:
        raise UserError(f"the {who} encoder learns its units from the training rows", "none", "check the split")
    series = read_each(values, read_series)
    check_channels(series, series[0].shape[1])
    steps = sum(len(s) for s in series)
    mean = sum(s.sum(axis=0) for s in series) / steps
    variance = sum(((s - mean) ** 2).sum(axis=0) for s in series) / steps
    scale = np.sqrt(variance)
    return {"mean": mean.tolist(), "scale": np.where(scale > 0, scale, 1.0).tolist()}


def check_channels(series: list[np.ndarray], channels: int) -> None:
    """Refuse a series ``(T, C)`` with another number of channels."""
    for index, values in enumerate(series):
        if values.shape[1] != channels:
            raise BadValue(
                index,
                "series of one modality have the same channels",
                f"{values.shape[1]} channels, expected {channels}",
                "give (T, C) arrays with one C",
            )


def read_series(value: Any) -> np.ndarray:
    """A series as float64 ``(T, C)``; ``(T,)`` is one channel.

    Raises:
        UserError: another number of axes, no step, or a step that is not finite.
    """
    series = np.asarray(value, dtype=np.float64)
    series = series[:, None] if series.ndim == 1 else series
    if series.ndim != 2 or series.size == 0:
        raise UserError(
            "a series is (T, C), not empty", f"shape {series.shape}", "one row per step, one column per channel"
        )
    wrong = np.flatnonzero(~np.isfinite(series).all(axis=1))
    if len(wrong):
        raise UserError(
            "a series has only finite values",
            f"NaN or infinity at steps {some(wrong.tolist())} of {len(series)}",
            "interpolate the gaps, or leave the whole series out: a missing modality is allowed",
        )
    return series
