r"""Pooled modalities side by side as one matrix: what classical models read.

Per modality, from the training rows in which it is present: the mean over the tokens ``v`` ``(D,)`` becomes

.. math:: z = (v - \mu) / s, \qquad \text{then } z\,U,\; U\ (D, k) \text{ the first } k \text{ principal axes}

``scaling="columns"`` divides every column by its own deviation; ``"block"`` the whole modality by one number, the root
of the mean variance of its columns, which keeps what is rare or weak in an embedding (a late component, a rare
category) rare and weak; ``"none"`` leaves everything as it is. The axes are those of the training rows alone, and fewer
than asked for where the rows span fewer.

An absent modality is zeros (the mean) with an indicator beside them, if training has rows without it, or NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from weft.tokens import Tokens, as_tokens, full, mean_pool, present

if TYPE_CHECKING:
    from weft.store import Features

Scaling = Literal["none", "columns", "block"]
ROWS = 1 << 14
"""Rows read at once."""
DOUBLE_BYTES = 2 << 30
TINY = 1e-6
"""A deviation below this share of the mean is rounding: the column is constant."""


class PooledInputs(nn.Module):
    """One matrix ``(B, P)`` from ``{name: Tokens}``; made by :meth:`fit`.

    Args:
        dims: width of each modality.
        kept: ``{name: k}`` of the modalities that are reduced to principal components.
        flagged: modalities with an indicator of absence.
        nan: absent values are NaN instead of zeros.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        kept: Mapping[str, int] | None = None,
        flagged: Sequence[str] = (),
        nan: bool = False,
    ) -> None:
        super().__init__()
        self.dims, self.kept, self.flagged, self.nan = dict(dims), dict(kept or {}), list(flagged), nan
        for index, (name, width) in enumerate(self.dims.items()):
            self.register_buffer(f"mean_{index}", torch.zeros(width))
            self.register_buffer(f"scale_{index}", torch.ones(width))
            if name in self.kept:
                self.register_buffer(f"axes_{index}", torch.zeros(width, self.kept[name]))
        self.register_buffer("flag_mean", torch.zeros(len(self.flagged)))
        self.register_buffer("flag_scale", torch.ones(len(self.flagged)))
        self.width = sum(self.kept.get(name, width) for name, width in self.dims.items()) + len(self.flagged)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        return {"dims": self.dims, "kept": self.kept, "flagged": self.flagged, "nan": self.nan}

    @classmethod
    def fit(
        cls,
        features: Features,
        rows: np.ndarray,
        scaling: Scaling = "columns",
        components: int | None = None,
        nan: bool = False,
        whole: Collection[str] = (),
    ) -> Self:
        """Learn means, scales and axes from training rows.

        Args:
            features: what the model will see.
            rows: the training rows.
            scaling: see the module docstring.
            components: most columns that a modality keeps; None: all.
            nan: absent values are NaN; there are no indicators then.
            whole: modalities that keep all their columns.
        """
        learned, gone = {}, {}
        for name in features.dims:
            alone = features.subset([name])
            gone[name] = ~alone.presence[rows][:, 0]
            learned[name] = _learn(alone, rows[~gone[name]], scaling, None if name in whole else components)
        flagged = [] if nan else [name for name, there in gone.items() if there.any() and not there.all()]
        kept = {name: axes.shape[1] for name, (_, _, axes) in learned.items() if axes is not None}
        inputs = cls(features.dims, kept, flagged, nan)
        for index, (mean, scale, axes) in enumerate(learned.values()):
            parts = {"mean": mean, "scale": scale, "axes": axes}
            for part, values in parts.items():
                if values is not None:
                    inputs.get_buffer(f"{part}_{index}").copy_(torch.from_numpy(values))
        for place, name in enumerate(flagged):
            inputs.get_buffer("flag_mean")[place] = gone[name].mean()
            inputs.get_buffer("flag_scale")[place] = gone[name].std()
        return inputs

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """``(B, P)`` float32."""
        columns = [self._columns(name, inputs[name]) for name in self.dims]
        if self.flagged:
            flags = torch.cat([(~present(inputs[name]).unsqueeze(1)).float() for name in self.flagged], dim=1)
            columns.append((flags - self.get_buffer("flag_mean")) / self.get_buffer("flag_scale"))
        return torch.cat(columns, dim=1)

    def _columns(self, name: str, tokens: Tokens) -> Tensor:
        """Those of one modality."""
        index, there = list(self.dims).index(name), present(tokens).unsqueeze(1)
        z = mean_pool(tokens).float() - self.get_buffer(f"mean_{index}")
        z /= self.get_buffer(f"scale_{index}")
        if name in self.kept:
            z = z @ self.get_buffer(f"axes_{index}")
        return z if full(tokens.mask) else torch.where(there, z, torch.nan if self.nan else 0.0)

    @torch.no_grad()
    def parts(self, features: Features, rows: np.ndarray) -> Iterator[Tensor]:
        """:meth:`forward` of rows of features, ``ROWS`` at a time, ``(b, P)`` float32."""
        for inputs in _pooled(features.subset(self.dims), rows):
            yield self(inputs)

    def matrix(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """All :meth:`parts`, ``(n, P)``: float64, or float32 where that would take more than ``DOUBLE_BYTES``."""
        return _filled(self.parts(features, rows), len(rows), self.width, np.float64 if self._few(rows) else np.float32)

    @torch.no_grad()
    def blocks(self, features: Features, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The columns of :meth:`matrix`: all at once in float64, else modality by modality; without indicators."""
        if self._few(rows) or self.flagged:
            yield self.matrix(features, rows)
            return
        for name, width in self.dims.items():
            parts = (self._columns(name, inputs[name]) for inputs in _pooled(features.subset([name]), rows))
            yield _filled(parts, len(rows), self.kept.get(name, width), np.float32)

    def _few(self, rows: np.ndarray) -> bool:
        return 8 * len(rows) * self.width <= DOUBLE_BYTES


def many_valued(features: Features, rows: np.ndarray) -> dict[str, int]:
    """How many columns of each modality have more than two values in some rows: those of categories have two."""
    pooled = features.pooled(rows)
    return {name: sum(len(np.unique(x[~np.isnan(x)])) > 2 for x in values.T) for name, values in pooled.items()}


def _pooled(features: Features, rows: np.ndarray) -> Iterator[dict[str, Tokens]]:
    """Modalities of one token each, ``ROWS`` rows at a time."""
    for start in range(0, max(len(rows), 1), ROWS):
        inputs = {}
        for name, values in features.pooled(rows[start : start + ROWS]).items():
            there = ~np.isnan(values[:, :1])
            known = values if there.all() else np.where(there, values, 0)
            inputs[name] = as_tokens(torch.from_numpy(known), torch.from_numpy(there[:, 0]))
        yield inputs


def _filled(parts: Iterator[Tensor], rows: int, width: int, dtype: type[np.floating[Any]]) -> np.ndarray:
    x, done = np.empty((rows, width), dtype), 0
    for part in parts:
        x[done : done + len(part)] = part
        done += len(part)
    return x


def _learn(
    features: Features, rows: np.ndarray, scaling: Scaling, components: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Mean ``(D,)``, scale ``(D,)`` and axes ``(D, k)`` or None of the rows in which the one modality is present."""
    ((name, width),) = features.dims.items()
    if not len(rows) or (scaling == "none" and components is None):
        return np.zeros(width), np.ones(width), None

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), ROWS):
            yield features.pooled(rows[start : start + ROWS])[name].astype(np.float64)

    def centred() -> Iterator[np.ndarray]:
        for x in parts():
            x -= mean
            yield x

    mean = reduce(add, (x.sum(axis=0) for x in parts())) / len(rows)
    deviation = np.sqrt(reduce(add, (np.square(x, out=x).sum(axis=0) for x in centred())) / len(rows))
    constant = deviation <= TINY * np.maximum(np.abs(mean), TINY)
    if scaling == "columns":
        scale = np.where(constant, 1.0, deviation)
    elif scaling == "block" and not constant.all():
        scale = np.full(width, np.sqrt((deviation[~constant] ** 2).mean()))
    else:
        scale = np.ones(width)
    if components is None or components >= width:
        return mean, scale, None
    scaled = (np.divide(x, scale, out=x) for x in centred())
    if len(rows) <= ROWS:
        _, singular, axes = np.linalg.svd(next(scaled), full_matrices=False)
    else:
        squared, vectors = np.linalg.eigh(reduce(add, (z.T @ z for z in scaled)))
        singular, axes = np.sqrt(np.maximum(squared[::-1], 0)), vectors.T[::-1]
    rank = max(1, int((singular > singular[:1] * 1e-6).sum()))
    return mean, scale, np.ascontiguousarray(axes[: min(components, rank)].T)
