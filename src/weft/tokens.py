"""The two values that travel through weft: :class:`Tokens` in, :class:`Fused` out.

Shapes: ``B`` rows of a batch, ``T`` tokens of a modality, ``D`` features of a token, ``M`` modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weft.errors import UserError


class Tokens(NamedTuple):
    """One modality of a batch.

    Attributes:
        values: ``(B, T, D)`` float. A pooled vector has ``T == 1``; a feature map ``T == H*W``, row-major.
        mask: ``(B, T)`` bool, True where a token is real. A row without any True: the modality is absent there.

    Example:
        >>> import torch
        >>> from weft.tokens import mean_pool, pad, present
        >>> tokens = pad([torch.ones(3, 2), torch.zeros(0, 2), torch.ones(1, 2)])  # three rows, the second absent
        >>> tokens.values.shape, tokens.mask.tolist()
        (torch.Size([3, 3, 2]), [[True, True, True], [False, False, False], [True, False, False]])
        >>> present(tokens).tolist(), mean_pool(tokens)[:, 0].tolist()
        ([True, False, True], [1.0, 0.0, 1.0])
    """

    values: Tensor
    mask: Tensor


class Fused(NamedTuple):
    """What a fusion returns.

    Attributes:
        vector: ``(B, D)``, the fused representation.
        tokens: the fused sequence or map, for fusions that keep one.
        per_modality: ``{name: (B, D)}``, what each modality contributes alone; decision-level heads read it.
        weights: ``(B, M)``, non-negative, how much each modality counted, where the method knows.
    """

    vector: Tensor
    tokens: Tokens | None
    per_modality: dict[str, Tensor]
    weights: Tensor | None


def present(tokens: Tokens) -> Tensor:
    """``(B,)`` bool: the rows in which the modality is there."""
    return tokens.mask.any(dim=1)


def mean_pool(tokens: Tokens) -> Tensor:
    """Mean over the real tokens, ``(B, D)``; zeros where the modality is absent."""
    mask = tokens.mask.unsqueeze(-1)
    values = torch.where(mask, tokens.values, 0.0)
    return values.sum(dim=1) / mask.sum(dim=1).clamp(min=1).to(values.dtype)


def as_tokens(vector: Tensor, mask: Tensor | None = None) -> Tokens:
    """A pooled vector ``(B, D)`` as a sequence of one token; ``mask`` ``(B,)`` says where it is present."""
    if mask is None:
        mask = torch.ones(vector.shape[0], dtype=torch.bool, device=vector.device)
    return Tokens(vector.unsqueeze(1), mask.unsqueeze(1))


def pad(sequences: Sequence[Tensor]) -> Tokens:
    """Sequences ``(T_i, D)`` of unequal length, padded with zeros; an empty one stands for an absent modality."""
    widths = {s.shape[-1] for s in sequences}
    if len(widths) != 1 or any(s.ndim != 2 for s in sequences):
        raise UserError(
            "pad() takes sequences of shape (T_i, D) with one common D",
            f"shapes {[tuple(s.shape) for s in sequences[:5]]}",
            "encode every sample of a modality with the same encoder",
        )
    lengths = torch.tensor([s.shape[0] for s in sequences], device=sequences[0].device)
    values = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    if values.shape[1] == 0:
        values = values.new_zeros(len(sequences), 1, values.shape[2])
    mask = torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)
    return Tokens(values, mask)


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Sequences of equal width one after the other along ``T``."""
    return Tokens(torch.cat([p.values for p in parts], dim=1), torch.cat([p.mask for p in parts], dim=1))
