r"""Mixing rows of frozen features: within a group, and between rows, the same way in every modality.

* Within a group (:func:`group_means`): the rows of a group (captions of one photo) become one, a weighted mean with
  :math:`w \sim \mathrm{Dirichlet}(1)` over the rows that have the modality. The label is preserved: no false partner.
* Between rows (:func:`mix_rows`, FuseMix): :math:`\lambda x_i + (1 - \lambda) x_j` with one partner ``j`` per row and
  one :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` per step, both the same in all modalities. A mixed row has a
  modality where both its rows have it.

Features mix token by token, so a modality's rows all have as many tokens: one, where they are pooled.

Source: Vouitsis et al., "Data-Efficient Multimodal Fusion on a Single GPU", CVPR 2024, arXiv 2312.10144 (FuseMix; there
the two halves of a batch mix with each other, here every row with a partner at random, so that a batch keeps its size).
Mixing within a group is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError, some
from weft.tokens import Tokens, present

if TYPE_CHECKING:
    from weft.store import Features


def refuse_unequal_lengths(features: Features, rows: np.ndarray) -> None:
    """Refuse modalities whose rows have different numbers of tokens."""
    uneven = [n for n, lengths in features.lengths.items() if len(np.unique(lengths[rows][lengths[rows] > 0])) > 1]
    if uneven:
        raise UserError(
            "rows with different numbers of tokens do not mix",
            some(uneven),
            "encode them pooled (--encoder MODALITY=..., one vector a row), or leave mix=0 and per_group=one",
        )


def group_means(inputs: dict[str, Tokens], group: Tensor) -> dict[str, Tokens]:
    """One row per group ``0 .. G-1``, in this order; ``group`` ``(R,)`` of the rows of ``inputs``."""
    groups = int(group.max()) + 1
    draws = torch.empty(len(group), device=group.device).exponential_()
    mixed = {}
    for name, tokens in inputs.items():
        weights = torch.where(present(tokens), draws, 0.0)
        total = weights.new_zeros(groups).index_add(0, group, weights)
        share = weights / total[group].clamp(min=torch.finfo(weights.dtype).tiny)
        values = tokens.values.new_zeros(groups, *tokens.values.shape[1:])
        values.index_add_(0, group, tokens.values * share[:, None, None].to(tokens.values))
        mask = tokens.mask.new_zeros(groups, tokens.mask.shape[1], dtype=torch.int64)
        mixed[name] = Tokens(values, mask.index_add(0, group, tokens.mask.long()) > 0)
    return mixed


def mix_rows(inputs: dict[str, Tokens], partner: Tensor, share: float | Tensor) -> dict[str, Tokens]:
    """Each row with its ``partner`` ``(B,)``; ``share`` is :math:`\\lambda`, of the row itself."""
    return {
        name: Tokens(share * t.values + (1 - share) * t.values[partner], t.mask & t.mask[partner])
        for name, t in inputs.items()
    }


def draw_mix(rows: int, alpha: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """A partner ``(rows,)`` for each row, and lambda (a scalar)."""
    share = torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha)).sample()
    return torch.randperm(rows).to(device), share.to(device)
