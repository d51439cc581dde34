"""LightCRL's schedule, that of its code.

Source: the code of Faye et al., "Lightweight Cross-Modal Representation Learning", ESANN 2024, arXiv 2403.04650.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from weft.training.schedule import Schedule, schedules

FACTOR = 0.8


@schedules.register("lightcrl")
class LightCRL(Schedule):
    """That of LightCRL's code, see :func:`judge_lightcrl`, which also decides when to stop."""

    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        return FACTOR**reductions

    def judge(self, epochs: Sequence[dict[str, float]], best: int, patience: int, reductions: int) -> tuple[int, bool]:
        verdict = judge_lightcrl([epoch["dev_loss"] for epoch in epochs], patience)
        return verdict.reductions, verdict.stop


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
