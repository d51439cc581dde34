r"""The optimiser of MERLOT Reserve as published: Adam that takes its moments as they are.

.. math::

    m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
    w \leftarrow w - \eta \Big(\frac{m}{\sqrt{v} + \epsilon} + \lambda w\Big)

without bias correction, so that the first step is :math:`(1 - \beta_1) / \sqrt{1 - \beta_2} = 0.7` long instead of 1;
:math:`\lambda = 0` for vectors; entries of a gradient that are NaN count as 0. Both moments are kept in bfloat16, the
second as its cube root, whose range is a third as wide.

Source: Zellers et al. 2022 (arXiv 2201.02639), released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from weft.training.config import TrainConfig
from weft.training.phase import Optimizer

BETAS = (0.9, 0.98)
EPSILON = 1e-6


class OfficialAdam(torch.optim.Optimizer):
    """Adam of the module's equation.

    Args:
        groups: of weights, each with its ``weight_decay``.
        lr: learning rate.
        betas, eps: see the module.
        half: keep the moments in bfloat16.
    """

    def __init__(
        self, groups: Any, lr: float, *, betas: tuple[float, float] = BETAS, eps: float = EPSILON, half: bool = True
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "half": half, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all weights that have a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            (b1, b2), kept = group["betas"], torch.bfloat16 if group["half"] else None
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], p.grad.nan_to_num(nan=0.0, posinf=None, neginf=None)
                m = b1 * state["m"].to(p) + (1 - b1) * g if state else (1 - b1) * g
                v = b2 * state["v"].to(p) ** 3 + (1 - b2) * g.square() if state else (1 - b2) * g.square()
                p -= group["lr"] * (m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p)
                state["m"], state["v"] = m.to(kept or p.dtype), (v ** (1 / 3)).to(kept or p.dtype)
        return loss


class OfficialOptimizer(Optimizer):
    """:class:`OfficialAdam` over some weights, in the groups that every optimiser of weft has."""

    def build(self, config: TrainConfig) -> torch.optim.Optimizer:  # type: ignore[override]
        """The optimiser."""
        usual = super().build(config)
        keys = ("params", "weight_decay", "factor")
        groups = [{key: group[key] for key in keys} for group in usual.param_groups]
        return OfficialAdam(groups, self.rate * config.lr, betas=self.betas)


class AnchoredAdam(torch.optim.AdamW):
    """AdamW whose weights decay towards where they were when it was made, as published for fine-tuning."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__([{**group, "weight_decay": 0.0, "pull": group["weight_decay"]} for group in groups], lr, betas)
        self.anchors = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all weights that have a gradient."""
        for group, anchors in zip(self.param_groups, self.anchors, strict=True):
            for p, anchor in zip(group["params"], anchors, strict=True):
                if p.grad is not None:
                    p.lerp_(anchor, group["lr"] * group["pull"])
        return super().step(closure)


class AnchoredOptimizer(Optimizer):
    """:class:`AnchoredAdam` over some weights."""

    def build(self, config: TrainConfig) -> torch.optim.AdamW:
        """The optimiser."""
        keys = ("params", "weight_decay", "factor")
        groups = [{key: group[key] for key in keys} for group in super().build(config).param_groups]
        return AnchoredAdam(groups, self.rate * config.lr, self.betas)
