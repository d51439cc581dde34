"""The next token of a text: the most probable one, or one drawn.

Source of top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020; of top-k: Fan et al., ACL
2018.
"""

from __future__ import annotations

import torch
from torch import Tensor


def next_token(
    logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """One token of each row.

    Args:
        logits: ``(B, V)``; ``-inf``: never.
        temperature: logits are divided by it; 0: the most probable token.
        top_k: draw among the so many most probable ones.
        top_p: draw among the fewest most probable ones of this probability together.

    >>> import torch
    >>> next_token(torch.tensor([[0.0, 2.0, 1.0]]), temperature=0).tolist()
    [1]
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        logits = logits.masked_fill(~nucleus(logits, top_p), -torch.inf)
    return torch.multinomial(logits.softmax(dim=-1), 1)[:, 0]


def nucleus(logits: Tensor, p: float) -> Tensor:
    """Which tokens ``(..., V)`` are the fewest most probable ones of more than probability ``p`` together."""
    ordered, places = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    kept = ordered.cumsum(dim=-1) - ordered <= p
    return torch.zeros_like(kept).scatter(-1, places, kept)
