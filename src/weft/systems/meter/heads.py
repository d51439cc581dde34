"""METER's heads: Linear, LayerNorm, GELU, Linear for a task; for masked words BERT's, its decoder not tied.

Source: Dou et al., METER, CVPR 2022, arXiv 2111.02387, and its published code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.fusion.bert import EPS


class MlmHead(nn.Module):
    """Logits over the vocabulary ``(B, L, V)`` for every token ``(B, L, H)``."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.ModuleDict({"dense": nn.Linear(dim, dim), "LayerNorm": nn.LayerNorm(dim, eps=EPS)})
        self.decoder = nn.Linear(dim, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform["LayerNorm"](F.gelu(self.transform["dense"](x)))) + self.bias


def classifier(inner: int, dim: int, classes: int) -> nn.Sequential:
    """The head of a task: Linear, LayerNorm, GELU, Linear."""
    return nn.Sequential(nn.Linear(inner, dim), nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, classes))


def region_head(dim: int, outputs: int) -> nn.Sequential:
    """Of every image token ``(B, N, H)``; METER publishes no such head: this is the one for words, of its own width."""
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=EPS), nn.Linear(dim, outputs))
