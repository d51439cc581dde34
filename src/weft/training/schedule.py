r"""The learning rate as a function of the step: linear warm-up, then cosine, plateau or constant.

With ``W = warmup * S`` of ``S`` steps, at step ``s = 0 .. S - 1``:

.. math::
    \text{factor}(s) = \tfrac{s + 1}{W + 1} \;\; (s < W), \qquad
    \tfrac12 (1 + \cos \pi \tfrac{s - W}{S - W}) \;\; (s \ge W)

so there is no state to save. Equals torch's ``LinearLR`` followed by ``CosineAnnealingLR``. Loshchilov and Hutter 2017,
SGDR (ICLR). The plateau factor is ``0.1 ** reductions``; the loop counts the reductions.
"""

from __future__ import annotations

import math

from weft.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int, reductions: int = 0) -> float:
    """Learning rate of ``step`` (from 0) of ``steps``; ``reductions`` so far (``schedule = "plateau"`` only)."""
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return config.lr * 0.1**reductions
