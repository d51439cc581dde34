"""Heads: one vector to the outputs of a task."""

from __future__ import annotations

from torch import nn


def make_head(dim: int, outputs: int, hidden: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """Dropout and a linear layer ``(B, dim) -> (B, outputs)``; ``hidden`` > 0 puts a ReLU layer of that width first."""
    if not hidden:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, outputs))
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


def make_tower(width: int, dim: int, outputs: int, hidden: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """What one modality alone gets: ``(B, width) -> (B, dim)``, ReLU, and the same head as a fused vector."""
    return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), *make_head(dim, outputs, hidden, dropout))
