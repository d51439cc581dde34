r"""Gated multimodal unit (GMU): learned gates choose, per unit and per row, which modality speaks.

.. math::
    h_m = v_m W_m, \qquad z_m = \sigma(g\,G_m), \qquad z = \sum_m z_m \odot \tanh(h_m)

with :math:`v_m` ``(B, D_m)``, :math:`h_m, z_m` ``(B, D)`` and gate input :math:`g = [v_1; \dots; v_M]` (``raw``, as
the paper) or :math:`[h_1; \dots; h_M]` (``projected``, as the official code). There are no biases. ``gate="softmax"``
makes the gates of a unit sum to one over the modalities; for two modalities that is the bimodal unit of the paper,
:math:`z_1 = \sigma(g\,(G_1 - G_2))` and :math:`z_2 = 1 - z_1`.

An absent modality enters the gates as zeros and has :math:`z_m = 0` (softmax: the others share its part).

Cost: ``D sum(D_m) + M D sum(D_m)`` weights (raw) or ``D sum(D_m) + M^2 D^2`` (projected).

When not to use it: XOR-like targets: a gate scales a modality, it does not compare two. With one modality a softmax
gate is always 1 and is refused.

Source: Arevalo, Solorio, Montes-y-Gomez, Gonzalez, "Gated Multimodal Units for Information Fusion", ICLR 2017 workshop,
arXiv 1702.01992. The batch normalisation before the unit in the official code is left to the standardiser. The softmax
over more than two modalities is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import presence, vectors
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, where_there, whole


@fusions.register("gated")
class GatedFusion(Fusion):
    """Gated multimodal unit over any number of modalities.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        gate_input: what the gates see, ``"raw"`` modalities or ``"projected"`` ones.
        gate: ``"sigmoid"`` (independent gates) or ``"softmax"`` (they compete).
        dropout: probability of zeroing an entry of the fused vector, in [0, 1].

    Raises:
        UserError: ``gate="softmax"`` with one modality.

    ``weights`` of the result are the gates' means over the units; ``per_modality`` holds :math:`\\tanh(h_m)`.
    """

    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR 2017 workshop, arXiv 1702.01992"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        gate_input: Literal["raw", "projected"] = "raw",
        gate: Literal["sigmoid", "softmax"] = "sigmoid",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        if gate == "softmax" and len(dims) == 1:
            raise UserError(
                "gated: a softmax gate needs two modalities", "1 modality", "use gate='sigmoid', or add a modality"
            )
        self.gate_input, self.gate = gate_input, gate
        seen = sum(self.dims.values()) if gate_input == "raw" else len(self.dims) * dim
        self.project = nn.ModuleList(nn.Linear(d, dim, bias=False) for d in self.dims.values())
        self.gates = nn.ModuleList(nn.Linear(seen, dim, bias=False) for _ in self.dims)
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values = vectors(inputs)
        hidden = [p(v) for p, v in zip(self.project, values, strict=True)]
        seen = torch.cat(values if self.gate_input == "raw" else hidden, dim=1)
        there = None if whole(inputs.values()) else presence(inputs).unsqueeze(-1)
        z = self._gate(torch.stack([g(seen) for g in self.gates], dim=1), there)
        terms = torch.stack(hidden, dim=1).tanh()
        vector = (z * terms).sum(dim=1)
        return Fused(self.dropout(vector), None, dict(zip(self.names, terms.unbind(1), strict=True)), z.mean(dim=-1))

    def _gate(self, scores: Tensor, there: Tensor | None) -> Tensor:
        """Gates ``(B, M, D)`` of scores ``(B, M, D)``; 0 where ``there`` ``(B, M, 1)`` is False."""
        if self.gate == "sigmoid":
            return where_there(there, scores.sigmoid())
        if there is not None:
            scores = scores.masked_fill(~there, torch.finfo(scores.dtype).min)
        return where_there(there, scores.softmax(dim=1))
