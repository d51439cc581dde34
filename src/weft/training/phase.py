"""What one step of training does: one phase, or several one after the other, each with a loss and the weights it moves.

Most models have a single phase: all weights under one loss. An adversarial pair has one for either network; a model
trained in stages has phases that begin and end with shares of the run. Phases that name the same :class:`Optimizer`
share its moments. :class:`Average` is the exponential moving average of a module; the loop keeps every one up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weft.training.config import TrainConfig


@dataclass(frozen=True, eq=False)
class Optimizer:
    """AdamW over some weights; matrices decay, biases, norms and scalars do not. Loshchilov and Hutter 2019 (ICLR).

    Attributes:
        parameters: those it moves; the ones that need no gradient are left out.
        rate: times the learning rate of the settings.
        betas: of Adam.
        weight_decay: None: that of the settings. With 0 it is Adam.
        layers: some of the weights, each time with what their rate is multiplied by besides; the others have 1.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float | None = None
    layers: Sequence[tuple[float, Sequence[nn.Parameter]]] = ()

    def build(self, config: TrainConfig) -> torch.optim.AdamW:
        """The optimizer."""
        decay = config.weight_decay if self.weight_decay is None else self.weight_decay
        factors = {id(p): factor for factor, some in self.layers for p in some}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
        for p in self.parameters:
            if p.requires_grad:
                groups.setdefault((factors.get(id(p), 1.0), p.ndim > 1), []).append(p)
        found = [
            {"params": params, "weight_decay": decay if decays else 0.0, "factor": factor}
            for (factor, decays), params in groups.items()
        ]
        return torch.optim.AdamW(found, lr=self.rate * config.lr, betas=self.betas, fused=True)


@dataclass(frozen=True, eq=False)
class Phase:
    """A loss and what moves under it.

    Attributes:
        name: of its loss in the log.
        loss: of a batch: ``(B,)`` per row, or a scalar.
        optimizer: of the weights it moves; no other weight gets a gradient.
        start, stop: shares of the epochs between which it is at work; a model is chosen among the epochs of the last
            stage.
    """

    name: str
    loss: Callable[[Any], Tensor]
    optimizer: Optimizer
    start: float = 0.0
    stop: float = 1.0

    def at_work(self, epoch: int, epochs: int) -> bool:
        """Whether it is part of an epoch (from 0)."""
        return round(self.start * epochs) <= epoch < round(self.stop * epochs)


class Average(nn.Module):
    r"""The exponential moving average of a module's weights: after step ``k`` (from 0),

    .. math:: \bar w \leftarrow d\,\bar w + (1 - d)\,w, \qquad d = \min\big(decay, \tfrac{1 + k}{10 + k}\big)

    which forgets the first weights soon. Calling it calls the averaged module. Buffers stay as they were at first.

    Args:
        module: what is averaged; it is copied.
        decay: in [0, 1); 0: the last weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay, self._followed = decay, [module]
        self.mean = deepcopy(module).requires_grad_(False)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.mean(*inputs, **named)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move towards the module."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, new in zip(self.mean.parameters(), self._followed[0].parameters(), strict=True):
            mean.lerp_(new, 1 - decay)
