"""The end of every operator that keeps one token sequence per modality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.tokens import Tokens, mean_pool, present


def mean_of_present(streams: Sequence[Tokens]) -> tuple[Tensor, list[Tensor]]:
    """The mean over tokens of every modality, and the mean of those over the present modalities.

    Args:
        streams: sequences ``(B, T_m, D)`` of one width.

    Returns:
        ``(B, D)``, zeros where nothing is present, and ``(B, D)`` for every modality, zeros where it is absent.
    """
    parts = [mean_pool(x) for x in streams]
    count = torch.stack([present(x) for x in streams]).sum(dim=0).clamp(min=1)
    return torch.stack(parts).sum(dim=0) / count.unsqueeze(-1).to(parts[0].dtype), parts
