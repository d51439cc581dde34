r"""The learning rate as a function of the step: linear warm-up, then cosine, plateau or constant.

With ``W = warmup * S`` of ``S`` steps, at step ``s = 0 .. S - 1``:

.. math::
    \text{factor}(s) = \tfrac{s + 1}{W + 1} \;\; (s < W), \qquad
    \tfrac12 (1 + \cos \pi \tfrac{s - W}{S - W}) \;\; (s \ge W)

so there is no state to save. Equals torch's ``LinearLR`` followed by ``CosineAnnealingLR``. Loshchilov and Hutter 2017,
SGDR (ICLR). The plateau factor is ``0.1 ** reductions``, that of LightCRL ``0.8 ** reductions``; the loop counts the
reductions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from weft.training.config import TrainConfig

PLATEAU_FACTOR = {"plateau": 0.1, "lightcrl": 0.8}


def learning_rate(config: TrainConfig, step: int, steps: int, reductions: int = 0) -> float:
    """Learning rate of ``step`` (from 0) of ``steps``; ``reductions`` so far (plateau schedules only)."""
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return config.lr * PLATEAU_FACTOR.get(config.schedule, 1.0) ** reductions


class Judgement(NamedTuple):
    """What LightCRL's rule says after an epoch.

    Attributes:
        best: the epoch (from 0) with the lowest loss so far.
        reductions: how often the learning rate has been multiplied by 0.8.
        stop: training ends here.
    """

    best: int
    reductions: int
    stop: bool


def judge_lightcrl(losses: Sequence[float], patience: int = 5) -> Judgement:
    """LightCRL's rule, replayed over the dev loss of every epoch so far, so that there is no state to save.

    An epoch without a strictly lower loss counts as bad from the ``patience``-th epoch on, a lower one resets the
    count, and ``patience`` bad epochs end training, before the scheduler moves. The scheduler counts epochs that do not
    improve by a relative 1e-4, and after more than ``patience`` of them lowers the rate and counts anew: torch's
    ``ReduceLROnPlateau``. Both wait alike, so the rate drops only for a plateau that begins in the first epochs.

    Source: the code of Faye et al., "Lightweight Cross-Modal Representation Learning", ESANN 2024, arXiv 2403.04650.
    """
    best, bad, reductions, flat, lowest = -1, 0, 0, 0, math.inf
    for epoch, loss in enumerate(losses):
        if best < 0 or loss < losses[best]:
            best, bad = epoch, 0
        elif epoch + 1 >= patience:
            bad += 1
        if patience and bad >= patience:
            return Judgement(best, reductions, True)
        lowest, flat = (loss, 0) if loss < lowest * (1 - 1e-4) else (lowest, flat + 1)
        if flat > patience:
            reductions, flat = reductions + 1, 0
    return Judgement(best, reductions, False)
