r"""Standardisation of features: zero mean and unit variance per modality, on the training rows.

.. math:: x' = (x - \mu) / \sigma

with the population variance over the real tokens of the rows where the modality is present, accumulated in float64
chunk by chunk by scikit-learn's ``StandardScaler`` (a constant feature keeps scale 1). :math:`\sigma` is each feature's
own, or with ``scaling="modality"`` one for all features of a modality, the root of their mean variance: directions
keep the weight that the encoder gives them, which is what closed forms of alignment want. The figures are buffers: they
are saved with the model and applied to every later row. Mean pooling commutes with it, since both are affine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from weft.errors import UserError, did_you_mean
from weft.tokens import Tokens

Scaling = Literal["feature", "modality"]

PIECE = 512
"""Tokens handed to scikit-learn at once: what its float64 passes read stays in the processor's cache."""


class Standardiser(nn.Module):
    """Per-feature standardisation of every modality; the identity until :meth:`fit`.

    Args:
        dims: width of each modality, ``{name: D_m}``.
        scaling: a scale per ``"feature"``, or per ``"modality"``.

    Raises:
        UserError: an unknown scaling.
    """

    def __init__(self, dims: Mapping[str, int], scaling: Scaling = "feature") -> None:
        super().__init__()
        if scaling not in get_args(Scaling):
            raise UserError("unknown scaling", f"scaling={scaling!r}", did_you_mean(scaling, get_args(Scaling)))
        self.dims, self.scaling = dict(dims), scaling
        self.register_buffer("_fitted", torch.tensor(False))
        for index, width in enumerate(self.dims.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(width))
            self.register_buffer(f"scale_{index}", torch.ones(width))

    @property
    def fitted(self) -> bool:
        """Whether :meth:`fit` has run, here or before the weights were saved."""
        return bool(self.get_buffer("_fitted"))

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and scale of a modality, ``(D_m,)`` each."""
        index = list(self.dims).index(name)
        return self.get_buffer(f"mean_{index}"), self.get_buffer(f"scale_{index}")

    def forward(self, inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        """``{name: Tokens (B, T, D)}`` with standardised values; masks unchanged."""
        outputs = {}
        for name, (values, mask) in inputs.items():
            mean, scale = self.statistics(name)
            outputs[name] = Tokens((values - mean) / scale, mask)
        return outputs

    def fit(self, batches: Iterable[dict[str, Tokens]]) -> None:
        """Learn mean and scale ``(D,)`` from the real tokens ``(B, T, D)`` of the training rows.

        Args:
            batches: inputs, in chunks of any size.

        Raises:
            UserError: a modality is absent in every row, or a value is NaN or infinite.
        """
        from sklearn.preprocessing import StandardScaler

        scalers = {name: StandardScaler() for name in self.dims}
        for inputs in batches:
            for name, scaler in scalers.items():
                values = inputs[name].values[inputs[name].mask].cpu()
                wrong = int((~torch.isfinite(values)).sum())
                if wrong:
                    raise UserError(
                        f"modality {name!r} has values that are NaN or infinite in the training rows",
                        f"{wrong} of {values.numel()} values",
                        "encode these rows again, or mark the modality as absent there",
                    )
                for piece in values.split(PIECE):
                    if len(piece):
                        scaler.partial_fit(piece.double().numpy())
        for name, scaler in scalers.items():
            if not hasattr(scaler, "mean_"):
                raise UserError(
                    f"modality {name!r} is absent in every training row",
                    "no token to learn from",
                    "leave the modality out (features.subset), or check the split",
                )
            scale = scaler.scale_
            if self.scaling == "modality":
                scale = np.full_like(scale, np.sqrt(scaler.var_.mean()) or 1.0)
            for buffer, fitted in zip(self.statistics(name), (scaler.mean_, scale), strict=True):
                buffer.copy_(torch.from_numpy(fitted))
        self.get_buffer("_fitted").fill_(True)
