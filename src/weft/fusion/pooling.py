"""The end of every operator that keeps one token sequence per modality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from weft.tokens import Fused, Tokens, concatenate, mean_pool, present, zero_padding


def read_out(names: Sequence[str], norms: Iterable[nn.Module], streams: Sequence[Tokens]) -> Fused:
    """Normalise every modality's tokens; the vector is the mean of the present modalities' means.

    Args:
        names, norms: of the modalities.
        streams: sequences ``(B, T_m, D)`` of one width.

    Returns:
        ``(B, D)``, zeros where nothing is present; the tokens of all, one after the other; as parts the means over the
        tokens, ``(B, D)`` for every modality, zeros where it is absent.
    """
    streams = [zero_padding(Tokens(norm(x.values), x.mask)) for norm, x in zip(norms, streams, strict=True)]
    parts = [mean_pool(x) for x in streams]
    count = torch.stack([present(x) for x in streams]).sum(dim=0).clamp(min=1)
    vector = torch.stack(parts).sum(dim=0) / count.unsqueeze(-1).to(parts[0].dtype)
    return Fused(vector, concatenate(streams), dict(zip(names, parts, strict=True)), None)
