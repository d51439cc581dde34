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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from weft.tokens import Tokens, as_tokens, mean_pool, present

if TYPE_CHECKING:
    from weft.store import Features

Scaling = Literal["none", "columns", "block"]
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
    ) -> Self:
        """Learn means, scales and axes from training rows.

        Args:
            features: what the model will see.
            rows: the training rows.
            scaling: see the module docstring.
            components: most columns that a modality keeps; None: all.
            nan: absent values are NaN; there are no indicators then.
        """
        pooled = {name: values.astype(np.float64) for name, values in features.pooled(rows).items()}
        learned = {
            name: _learn(values[~np.isnan(values[:, 0])], scaling, components) for name, values in pooled.items()
        }
        gone = {name: np.isnan(values[:, 0]) for name, values in pooled.items()}
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
        columns, flags = [], []
        for index, name in enumerate(self.dims):
            there = present(inputs[name]).unsqueeze(1)
            z = (mean_pool(inputs[name]).float() - self.get_buffer(f"mean_{index}")) / self.get_buffer(f"scale_{index}")
            if name in self.kept:
                z = z @ self.get_buffer(f"axes_{index}")
            columns.append(torch.where(there, z, torch.nan if self.nan else 0.0))
            if name in self.flagged:
                flags.append((~there).float())
        if flags:
            columns.append((torch.cat(flags, dim=1) - self.get_buffer("flag_mean")) / self.get_buffer("flag_scale"))
        return torch.cat(columns, dim=1)

    @torch.no_grad()
    def matrix(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """:meth:`forward` of rows of features, ``(n, P)`` float64."""
        inputs = {}
        for name, values in features.subset(self.dims).pooled(rows).items():
            there = ~np.isnan(values[:, :1])
            inputs[name] = as_tokens(torch.from_numpy(np.where(there, values, 0)), torch.from_numpy(there[:, 0]))
        return self(inputs).double().numpy()


def _learn(
    values: np.ndarray, scaling: Scaling, components: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Mean ``(D,)``, scale ``(D,)`` and axes ``(D, k)`` or None of the present rows ``(n, D)`` of a modality."""
    width = values.shape[1]
    if not len(values) or (scaling == "none" and components is None):
        return np.zeros(width), np.ones(width), None
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    constant = deviation <= TINY * np.maximum(np.abs(mean), TINY)
    if scaling == "columns":
        scale = np.where(constant, 1.0, deviation)
    elif scaling == "block" and not constant.all():
        scale = np.full(width, np.sqrt((deviation[~constant] ** 2).mean()))
    else:
        scale = np.ones(width)
    if components is None or components >= width:
        return mean, scale, None
    _, singular, axes = np.linalg.svd((values - mean) / scale, full_matrices=False)
    rank = max(1, int((singular > singular[:1] * 1e-6).sum()))
    return mean, scale, np.ascontiguousarray(axes[: min(components, rank)].T)
