r"""Feature-wise linear modulation (FiLM): the other modalities scale and shift the first.

.. math::
    x_t = \mathrm{norm}(v_t W + a), \qquad [\Delta\gamma, \beta] = \sum_{m \ge 2} c_m V_m + d, \qquad
    y_t = \mathrm{relu}\big((1 + \Delta\gamma) \odot x_t + \beta\big)

with the first modality :math:`v` ``(B, T, D_1)``, pooled conditions :math:`c_m` ``(B, D_m)`` and norm a LayerNorm
without affine parameters. One pair per channel, the same at all tokens. The sum over conditions is the map of their
concatenation. :math:`V` and :math:`d` start at zero, so the operator starts as ``relu(norm(v W + a))``.

An absent condition adds nothing; an absent first modality is :math:`x = 0` at one token, so that only the shift
remains. ``vector`` is the mean of :math:`y` over the real tokens, ``tokens`` keeps the sequence.

Cost: ``dim (D_1 + 1) + 2 dim (sum_{m>=2} D_m + 1)`` weights.

When not to use it: where the steered modality is often absent, or where none is the main one: it is not symmetric.

Source: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, arXiv 1709.07871.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import unit_variance_
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, mean_pool, present, when_read


@fusions.register("film")
class FiLM(Fusion):
    """Scale and shift the channels of the first modality.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`; the first modality is steered by the others.
        dropout: probability of zeroing an entry of the modulated tokens, in [0, 1].
    """

    arity = (2, None)
    wants = "tokens"
    absent = "native"
    paper = "Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018, arXiv 1709.07871"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, dropout: Dropout = 0.0) -> None:
        super().__init__(dims, dim)
        first, *conditions = self.dims.values()
        self.project = unit_variance_(nn.Linear(first, dim), first)
        self.modulate = nn.Linear(sum(conditions), 2 * dim)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        first, *conditions = inputs.values()
        x = torch.where(first.mask.unsqueeze(-1), F.layer_norm(self.project(first.values), (self.dim,)), 0.0)
        mask = first.mask | (~present(first).unsqueeze(1) & (torch.arange(x.shape[1], device=x.device) == 0))
        weights = self.modulate.weight.split([c.values.shape[2] for c in conditions], dim=1)
        terms = [mean_pool(c) @ w.T for c, w in zip(conditions, weights, strict=True)]
        tokens = Tokens(self._modulate(x, torch.stack(terms).sum(dim=0)), mask)

        def alone() -> list[Tensor]:
            steered = mean_pool(Tokens(self._modulate(x, torch.zeros_like(terms[0])), mask))
            nothing = torch.zeros_like(x[:, :1])
            return [steered, *(self._modulate(nothing, term)[:, 0] for term in terms)]

        return Fused(mean_pool(tokens), tokens, when_read(self.names, alone), None)

    def _modulate(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = (modulation + self.modulate.bias).unsqueeze(1).chunk(2, dim=-1)
        return self.dropout(torch.relu((1 + scale) * x + shift))
