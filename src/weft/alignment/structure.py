r"""STRUCTURE: the neighbourhoods of the frozen features survive in the shared space.

For a modality's features ``X`` ``(B, D_m)`` (means over the tokens) and embeddings ``Z`` ``(B, dim)`` of a batch, rows
made unit vectors and then centred:

.. math::
    P = \mathrm{softmax}(\tilde X \tilde X^T / \tau), \quad Q = \mathrm{softmax}(\tilde Z \tilde Z^T / \tau), \qquad
    R = \frac{1}{L} \sum_{l=1}^{L} \frac{1}{l}\, J(P^l, Q^l), \quad M = (P^l + Q^l) / 2

with matrix powers :math:`P^l` (chains of ``l`` neighbours) and the mean over the rows of

* ``js``: :math:`J = \tfrac12 \mathrm{KL}(P^l \| M) + \tfrac12 \mathrm{KL}(Q^l \| M)`, Jensen-Shannon, at most
  :math:`\ln 2`, as the paper says;
* ``ag``: :math:`J = \tfrac12 \mathrm{KL}(M \| P^l) + \tfrac12 \mathrm{KL}(M \| Q^l)`, arithmetic-geometric, unbounded,
  as its code computes.

The objective gets ``weight`` times the mean of ``R`` over the modalities, rising linearly over the first ``rise``
steps. Rows in which a modality is absent have no part in its ``R``. The rows of all processes are one batch.

Cost: two ``B x B`` softmaxes per modality and step, ``B^3`` for more than one level.

When not to use it: many pairs (above some ten thousand), from which neighbourhoods can be learned anew. The diagonal
is part of both softmaxes, as published: with wide features and :math:`\tau = 0.05` both are near the identity, and
``R`` and its gradient near nothing, whatever the weight; a larger temperature makes itself felt.

Source: Groger, Wen, Le, Brbic, "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You", NeurIPS 2025,
arXiv 2506.16895.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.alignment.base import Inputs, Regulariser, check_weight, regularisers
from weft.errors import UserError
from weft.ops.contrastive import gather_with_grad
from weft.tokens import mean_pool, present

Divergence = Literal["js", "ag"]


@regularisers.register("structure")
class Structure(Regulariser):
    """Divergence between neighbourhoods before and after alignment.

    Args:
        weight: :math:`\\lambda`, 0 or more.
        levels: ``L``, at least 1.
        temperature: :math:`\\tau`, positive.
        divergence: ``"js"`` or ``"ag"``.
        rise: steps until the weight is whole.

    Raises:
        UserError: an option is out of its range.
    """

    paper = "Groger et al., STRUCTURE, NeurIPS 2025, arXiv 2506.16895"

    def __init__(
        self,
        *,
        weight: float = 10.0,
        levels: int = 1,
        temperature: float = 0.05,
        divergence: Divergence = "js",
        rise: int = 1000,
    ) -> None:
        super().__init__()
        check_weight("structure", weight)
        if levels < 1 or not temperature > 0 or rise < 0:
            found = f"levels={levels}, temperature={temperature}, rise={rise}"
            raise UserError("structure: at least one level, a positive temperature, rise 0 or more", found, "see above")
        self.weight, self.levels, self.temperature, self.divergence = weight, levels, temperature, divergence
        self.rise = rise
        self.register_buffer("steps", torch.tensor(0))

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight}, levels={self.levels}, temperature={self.temperature}, "
            f"divergence={self.divergence!r}, rise={self.rise}"
        )

    def forward(
        self, inputs: Inputs, embeddings: dict[str, Tensor], embed: Callable[[Inputs], dict[str, Tensor]]
    ) -> Tensor:
        self.get_buffer("steps").add_(1)
        share = torch.clamp(self.get_buffer("steps") / max(self.rise, 1), max=1.0)
        parts = []
        for name, z in embeddings.items():
            there = present(inputs[name])
            x, kept = (gather_with_grad(v)[0] for v in (mean_pool(inputs[name])[there].detach(), z[there]))
            parts.append(neighbourhood_divergence(x, kept, self.levels, self.temperature, self.divergence))
        return self.weight * share * torch.stack(parts).mean()


def neighbourhood_divergence(
    x: Tensor, z: Tensor, levels: int = 1, temperature: float = 0.05, divergence: Divergence = "js"
) -> Tensor:
    """``R`` of features ``(B, D)`` and embeddings ``(B, d)``, in at least float32; 0 for fewer than two rows."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, z.dtype), torch.float32)
    if len(x) < 2:
        return z.sum().to(dtype) * 0
    first, second = (_neighbours(v.to(dtype), temperature) for v in (x, z))
    total = z.new_zeros((), dtype=dtype)
    p, q = first, second
    for level in range(1, levels + 1):
        if level > 1:
            p, q = p @ first, q @ second
        mean = (p + q) / 2
        pairs = ((p, mean), (q, mean)) if divergence == "js" else ((mean, p), (mean, q))
        total = total + sum(_kl(a, b) for a, b in pairs) / (2 * level * levels)
    return total


def _neighbours(x: Tensor, temperature: float) -> Tensor:
    unit = F.normalize(x, dim=1)
    centred = unit - unit.mean(dim=0)
    return (centred @ centred.T / temperature).softmax(dim=1)


def _kl(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the rows of ``KL(a || b)``."""
    tiny = torch.finfo(a.dtype).tiny
    return (a * (a.clamp(min=tiny).log() - b.clamp(min=tiny).log())).sum(dim=1).mean()
