"""A pre-norm attention block on one unpadded row, head by head and query by query."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weft.fusion.attention import Block


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = []
    for token in x:
        mean = token.sum() / len(token)
        variance = ((token - mean) ** 2).sum() / len(token)
        out.append((token - mean) / torch.sqrt(variance + 1e-5) * weight + bias)
    return torch.stack(out)


def attend(block: Block, normed: Tensor, context: Tensor) -> Tensor:
    """Queries ``(n, D)``, context ``(k, D)``, k at least 1."""
    att = block.attention
    dim = normed.shape[1]
    size = dim // att.heads
    out = []
    for token in normed:
        received = []
        for head in range(att.heads):
            part = slice(head * size, (head + 1) * size)
            query = att.query.weight[part] @ token
            keys = [att.key_value.weight[:dim][part] @ c for c in context]
            values = [att.key_value.weight[dim:][part] @ c for c in context]
            scores = [torch.exp(query @ key / math.sqrt(size)) for key in keys]
            received.append(sum(s * v for s, v in zip(scores, values, strict=True)) / sum(scores))
        out.append(att.out.weight @ torch.cat(received) + att.out.bias)
    return torch.stack(out)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def run_block(block: Block, x: Tensor, context: Tensor | None) -> Tensor:
    """One row ``(n, D)`` through the block; context None is self-attention, an empty one sends nothing."""
    normed = layer_norm(x, block.norm_attention.weight, block.norm_attention.bias)
    context = normed if context is None else context
    if len(context):
        x = x + attend(block, normed, context)
    normed = layer_norm(x, block.norm_mlp.weight, block.norm_mlp.bias)
    first, last = block.mlp[0], block.mlp[2]
    return x + torch.stack([last.weight @ gelu(first.weight @ t + first.bias) + last.bias for t in normed])
